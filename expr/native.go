package expr

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// node is an expression that we evaluate ourselves. It gives what cel-go would,
// errors included, though not in the same words.
type node struct {
	op   op
	typ  typ // of its value: typText, typInt or typBool
	attr attr
	str  string // a literal, or a header's name in lower case
	num  int64
	set  []string
	re   *regexp.Regexp
	kids []*node
}

type op uint8

const (
	opText op = iota // literals: str, num
	opInt
	opTrue
	opFalse
	opAttr    // attr
	opHeader  // str of attr
	opDefault // str of attr, or kids[0] where there is none
	opHas     // whether str is in attr
	opAnd     // kids, any number
	opOr
	opNot
	opCond  // kids[0] ? kids[1] : kids[2]
	opEqual // two texts; opEqualInt, opEqualBool likewise
	opEqualInt
	opEqualBool
	opLess // two numbers
	opLessEqual
	opPrefix
	opSuffix
	opContains
	opMatches // re
	opIn      // set
)

// fewTexts are compared one by one faster than they are searched.
const fewTexts = 8

// native makes a node of an expression, if it is of what we can.
func native(a *ast.AST, e ast.Expr) (*node, bool) {
	switch e.Kind() {
	case ast.LiteralKind:
		switch v := e.AsLiteral().(type) {
		case types.String:
			return &node{op: opText, typ: typText, str: string(v)}, true
		case types.Int:
			return &node{op: opInt, typ: typInt, num: int64(v)}, true
		case types.Bool:
			if v {
				return &node{op: opTrue, typ: typBool}, true
			}
			return &node{op: opFalse, typ: typBool}, true
		}
	case ast.IdentKind:
		if at := attributeOf(e.AsIdent()); at != nil && at.typ <= typBool {
			return &node{op: opAttr, typ: at.typ, attr: at.id}, true
		}
	case ast.SelectKind: // request.headers.name, has(request.headers.name)
		s := e.AsSelect()
		if id, ok := headersOf(s.Operand()); ok {
			if s.IsTestOnly() {
				return &node{op: opHas, typ: typBool, attr: id, str: lower(s.FieldName())}, true
			}
			return &node{op: opHeader, typ: typText, attr: id, str: lower(s.FieldName())}, true
		}
	case ast.CallKind:
		return nativeCall(a, e.AsCall())
	default:
	}
	return nil, false
}

func headersOf(e ast.Expr) (attr, bool) {
	if e.Kind() != ast.IdentKind {
		return 0, false
	}
	at := attributeOf(e.AsIdent())
	if at == nil || at.typ != typHeaders {
		return 0, false
	}
	return at.id, true
}

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func nativeCall(a *ast.AST, c ast.CallExpr) (*node, bool) {
	args := c.Args()
	switch c.FunctionName() {
	case operators.Index:
		id, ok := headersOf(args[0])
		name, lit := literal(args[1])
		return &node{op: opHeader, typ: typText, attr: id, str: lower(name)}, ok && lit
	case operators.In:
		return nativeIn(a, args)
	case "orValue": // request.headers[?'x'].orValue('y')
		return nativeOrValue(a, c)
	case operators.LogicalAnd:
		return flat(a, opAnd, args)
	case operators.LogicalOr:
		return flat(a, opOr, args)
	case operators.LogicalNot:
		return nodeOf(a, opNot, typBool, typBool, args)
	case operators.Conditional:
		k, ok := kidsOf(a, args)
		if !ok || k[0].typ != typBool || k[1].typ != k[2].typ {
			return nil, false
		}
		return &node{op: opCond, typ: k[1].typ, kids: k}, true
	case operators.Equals:
		return equal(a, args)
	case operators.NotEquals:
		n, ok := equal(a, args)
		return &node{op: opNot, typ: typBool, kids: []*node{n}}, ok
	case operators.Less:
		return nodeOf(a, opLess, typBool, typInt, args)
	case operators.LessEquals:
		return nodeOf(a, opLessEqual, typBool, typInt, args)
	case operators.Greater:
		return nodeOf(a, opLess, typBool, typInt, []ast.Expr{args[1], args[0]})
	case operators.GreaterEquals:
		return nodeOf(a, opLessEqual, typBool, typInt, []ast.Expr{args[1], args[0]})
	}
	if c.Target() == nil {
		return nil, false
	}
	both := append([]ast.Expr{c.Target()}, args...)
	switch c.FunctionName() {
	case overloads.StartsWith:
		return nodeOf(a, opPrefix, typBool, typText, both)
	case overloads.EndsWith:
		return nodeOf(a, opSuffix, typBool, typText, both)
	case overloads.Contains:
		return nodeOf(a, opContains, typBool, typText, both)
	case overloads.Matches:
		pattern, ok := literal(args[0])
		n, sound := nodeOf(a, opMatches, typBool, typText, both[:1])
		re, err := regexp.Compile(pattern)
		if !ok || !sound || err != nil {
			return nil, false
		}
		n.re = re
		return n, true
	}
	return nil, false
}

// nodeOf is an operation whose operands are all of one type.
func nodeOf(a *ast.AST, o op, gives, takes typ, args []ast.Expr) (*node, bool) {
	k, ok := kidsOf(a, args)
	if !ok || slices.ContainsFunc(k, func(n *node) bool { return n.typ != takes }) {
		return nil, false
	}
	return &node{op: o, typ: gives, kids: k}, true
}

func kidsOf(a *ast.AST, args []ast.Expr) ([]*node, bool) {
	out := make([]*node, 0, len(args))
	for _, e := range args {
		n, ok := native(a, e)
		if !ok {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

// flat joins a && (b && c) into one node of three.
func flat(a *ast.AST, o op, args []ast.Expr) (*node, bool) {
	n, ok := nodeOf(a, o, typBool, typBool, args)
	if !ok {
		return nil, false
	}
	var kids []*node
	for _, k := range n.kids {
		if k.op == o {
			kids = append(kids, k.kids...)
		} else {
			kids = append(kids, k)
		}
	}
	n.kids = kids
	return n, true
}

func equal(a *ast.AST, args []ast.Expr) (*node, bool) {
	k, ok := kidsOf(a, args)
	if !ok || k[0].typ != k[1].typ {
		return nil, false
	}
	o := [...]op{typText: opEqual, typInt: opEqualInt, typBool: opEqualBool}[k[0].typ]
	return &node{op: o, typ: typBool, kids: k}, true
}

// nativeIn is 'name' in request.headers, or a text in a list of literals.
func nativeIn(a *ast.AST, args []ast.Expr) (*node, bool) {
	if id, ok := headersOf(args[1]); ok {
		name, lit := literal(args[0])
		return &node{op: opHas, typ: typBool, attr: id, str: lower(name)}, lit
	}
	if args[1].Kind() != ast.ListKind {
		return nil, false
	}
	n, ok := nodeOf(a, opIn, typBool, typText, args[:1])
	if !ok || len(args[1].AsList().OptionalIndices()) > 0 {
		return nil, false
	}
	for _, e := range args[1].AsList().Elements() {
		s, lit := literal(e)
		if !lit {
			return nil, false
		}
		n.set = append(n.set, s)
	}
	slices.Sort(n.set)
	return n, true
}

func nativeOrValue(a *ast.AST, c ast.CallExpr) (*node, bool) {
	if c.Target() == nil || c.Target().Kind() != ast.CallKind || len(c.Args()) != 1 {
		return nil, false
	}
	t := c.Target().AsCall()
	if t.FunctionName() != operators.OptIndex {
		return nil, false
	}
	id, ok := headersOf(t.Args()[0])
	name, lit := literal(t.Args()[1])
	if !ok || !lit {
		return nil, false
	}
	n, ok := nodeOf(a, opDefault, typText, typText, c.Args())
	if !ok {
		return nil, false
	}
	n.attr, n.str = id, lower(name)
	return n, true
}

var errBroken = errors.New("expression is of another type than it was compiled for")

func (n *node) text(in *Input) (string, error) {
	switch n.op {
	case opText:
		return n.str, nil
	case opAttr:
		if in.Connection {
			if err := in.lacks(n.attr); err != nil {
				return "", err
			}
		}
		return in.text(n.attr), nil
	case opHeader:
		if err := in.lacks(n.attr); err != nil {
			return "", err
		}
		if v, ok := in.header(n.attr, n.str); ok {
			return v, nil
		}
		return "", errMissing
	case opDefault:
		if err := in.lacks(n.attr); err != nil {
			return "", err
		}
		if v, ok := in.header(n.attr, n.str); ok {
			return v, nil
		}
		return n.kids[0].text(in)
	case opCond:
		b, err := n.kids[0].bool(in)
		switch {
		case err != nil:
			return "", err
		case b:
			return n.kids[1].text(in)
		}
		return n.kids[2].text(in)
	default:
		return "", errBroken
	}
}

// errMissing names no header: to say which would take memory for each request without it.
var errMissing = errors.New("no such header")

func (n *node) int(in *Input) (int64, error) {
	switch n.op {
	case opInt:
		return n.num, nil
	case opAttr:
		return in.number(n.attr)
	case opCond:
		b, err := n.kids[0].bool(in)
		switch {
		case err != nil:
			return 0, err
		case b:
			return n.kids[1].int(in)
		}
		return n.kids[2].int(in)
	default:
		return 0, errBroken
	}
}

func (n *node) bool(in *Input) (bool, error) {
	switch n.op {
	case opTrue, opFalse:
		return n.op == opTrue, nil
	case opAttr:
		return in.mtls(), nil
	case opHas:
		if err := in.lacks(n.attr); err != nil {
			return false, err
		}
		_, ok := in.header(n.attr, n.str)
		return ok, nil
	case opAnd, opOr:
		return n.logic(in)
	case opNot:
		b, err := n.kids[0].bool(in)
		return !b && err == nil, err
	case opCond:
		b, err := n.kids[0].bool(in)
		switch {
		case err != nil:
			return false, err
		case b:
			return n.kids[1].bool(in)
		}
		return n.kids[2].bool(in)
	case opEqualInt, opLess, opLessEqual:
		return n.numbers(in)
	case opEqualBool:
		a, err := n.kids[0].bool(in)
		if err != nil {
			return false, err
		}
		b, err := n.kids[1].bool(in)
		return a == b && err == nil, err
	default:
		return n.texts(in)
	}
}

// logic is && and ||. As CEL has it, one operand that decides makes the errors of
// others not matter, on either side.
func (n *node) logic(in *Input) (bool, error) {
	decides := n.op == opOr
	var failed error
	for _, k := range n.kids {
		b, err := k.bool(in)
		if err != nil {
			failed = err
		} else if b == decides {
			return decides, nil
		}
	}
	return !decides && failed == nil, failed
}

func (n *node) numbers(in *Input) (bool, error) {
	a, err := n.kids[0].int(in)
	if err != nil {
		return false, err
	}
	b, err := n.kids[1].int(in)
	if err != nil {
		return false, err
	}
	switch n.op {
	case opLess:
		return a < b, nil
	case opLessEqual:
		return a <= b, nil
	default:
		return a == b, nil
	}
}

func (n *node) texts(in *Input) (bool, error) {
	a, err := n.kids[0].text(in)
	if err != nil {
		return false, err
	}
	switch n.op {
	case opMatches:
		return n.re.MatchString(a), nil
	case opIn:
		if len(n.set) <= fewTexts {
			return slices.Contains(n.set, a), nil
		}
		_, found := slices.BinarySearch(n.set, a)
		return found, nil
	default:
	}
	b, err := n.kids[1].text(in)
	if err != nil {
		return false, err
	}
	switch n.op {
	case opEqual:
		return a == b, nil
	case opPrefix:
		return strings.HasPrefix(a, b), nil
	case opSuffix:
		return strings.HasSuffix(a, b), nil
	case opContains:
		return strings.Contains(a, b), nil
	default:
		return false, errBroken
	}
}
