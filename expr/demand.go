package expr

import (
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
)

// Demand is a condition without which a program is neither true nor an error: the attribute
// is one of Exact, or begins with one of Prefix. Whoever has many programs may file
// them by what they demand, and evaluate only those that a request can meet.
type Demand struct {
	// Attribute is one of source.principal, source.namespace, request.method and request.url_path.
	Attribute     string
	Exact, Prefix []string
}

// Demands returns the conditions that are easy to see in the program's text: comparisons with
// literals that stand between its outermost &&.
func (p *Program) Demands() []Demand { return p.demands }

// conjuncts lists what stands between the outermost && of e.
func conjuncts(e ast.Expr) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.LogicalAnd {
		return []ast.Expr{e}
	}
	var out []ast.Expr
	for _, a := range e.AsCall().Args() {
		out = append(out, conjuncts(a)...)
	}
	return out
}

// demandsOf finds the demands of an expression. One that may use up its budget
// fails whatever its other parts say, so nothing can be demanded of a request for it.
func demandsOf(a *ast.AST, cost uint64) (out []Demand) {
	if cost > watchFrom {
		return nil
	}
	for _, e := range conjuncts(a.Expr()) {
		if n, ok := native(a, e); ok {
			if d, ok := n.demand(); ok {
				out = append(out, d)
			}
		}
	}
	return out
}

func (n *node) demand() (Demand, bool) {
	switch n.op {
	case opEqual:
		for i, k := range n.kids {
			if other := n.kids[1-i]; k.op == opAttr && other.op == opText {
				return demandOn(k.attr, []string{other.str}, nil)
			}
		}
	case opIn:
		if k := n.kids[0]; k.op == opAttr {
			return demandOn(k.attr, n.set, nil)
		}
	case opPrefix:
		if k, p := n.kids[0], n.kids[1]; k.op == opAttr && p.op == opText {
			return demandOn(k.attr, nil, []string{p.str})
		}
	case opOr:
		var all Demand
		for i, k := range n.kids {
			d, ok := k.demand()
			if !ok || i > 0 && d.Attribute != all.Attribute {
				return Demand{}, false
			}
			all.Attribute = d.Attribute
			all.Exact, all.Prefix = append(all.Exact, d.Exact...), append(all.Prefix, d.Prefix...)
		}
		return all, len(n.kids) > 0
	default:
	}
	return Demand{}, false
}

// demandOn leaves out attributes that nobody files programs by. A path with its query begins
// with what has no '?' only if the path alone does.
func demandOn(a attr, exact, prefix []string) (Demand, bool) {
	d := Demand{Exact: slices.Clone(exact), Prefix: slices.Clone(prefix)}
	switch a {
	case sourcePrincipal, sourceNamespace, requestMethod, requestURLPath:
		d.Attribute = attributes[a-1].name
	case requestPath:
		query := func(s string) bool { return strings.Contains(s, "?") }
		if slices.ContainsFunc(exact, query) || slices.ContainsFunc(prefix, query) {
			return Demand{}, false
		}
		d.Attribute = attributes[requestURLPath-1].name
	default:
		return Demand{}, false
	}
	return d, true
}
