package router

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Rule is one rule of one route: alternative matches and what is behind them.
type Rule[P any] struct {
	// Object is the route, Created its age and Rule the rule's index in it:
	// they order rules whose matches are equally specific.
	Object  mesh.Name
	Created time.Time
	Rule    int
	// Hostnames restrict the rule to requests with these in their authority; "*.example.com" is for
	// all names that end so. None at all means every request.
	Hostnames []string
	// Otherwise makes the rule take, after all others, requests for names that no
	// rule's Hostnames are for. It has no matches.
	Otherwise bool
	// Matches are alternatives; none at all means "every request".
	Matches []mesh.RouteMatch
	// Value is what Table.Match returns.
	Value P
}

// RuleError says why one match of one rule is not part of the table.
type RuleError struct {
	Object mesh.Name
	Rule   int
	Match  int
	// Field is the part of the match, as a path like "headers[0].value".
	Field string
	Err   error
}

// Error names the route, the rule and the field.
func (e *RuleError) Error() string {
	return fmt.Sprintf("route %s: rules[%d].matches[%d].%s: %v", e.Object, e.Rule, e.Match, e.Field, e.Err)
}

// Unwrap returns Err.
func (e *RuleError) Unwrap() error { return e.Err }

// Match tells how a rule matched. It is filled by Table.Match.
type Match struct {
	// Kind is how the path was compared. Matches without a path count as the
	// prefix "/".
	Kind mesh.MatchKind
	// Prefix is how many bytes at the beginning of the request's path the
	// matched prefix covers, without the prefix's trailing slash: 4 for "/foo"
	// as for "/foo/"; 0 for the prefix "/" and for other kinds.
	Prefix int
	// Rule is the index, in the slice given to New, of the rule; Match is the
	// index of its match, 0 for a rule without matches.
	Rule, Match int
}

// Table holds the rules of one service port in matching order.
type Table[P any] struct {
	values []P
	exact  map[string]*list
	tree   *node // of the prefixes, except "/"
	regex  list
	root   list // the prefix "/" and matches without a path
	// otherwise is for names that no rule is for; nil for none.
	otherwise *candidate
	hosts     *hostTables[P] // of rules with host names, which go before the others; nil for none
}

// New builds a table. A match that does not compile is left out and reported;
// everything else of the rules is live. The errors are in the order of rules.
func New[P any](rules []Rule[P]) (*Table[P], []*RuleError) {
	t := &Table[P]{values: make([]P, len(rules)), tree: &node{}}
	var hosts map[string][]candidate
	var all []candidate
	var errs []*RuleError
	for i := range rules {
		r := &rules[i]
		t.values[i] = r.Value
		matches := r.Matches
		if len(matches) == 0 {
			matches = []mesh.RouteMatch{{}}
		}
		if r.Otherwise {
			t.otherwise = &candidate{tier: tierRoot, rule: int32(i)}
			continue
		}
		object := r.Object.String()
		for m := range matches {
			c, field, err := compile(&matches[m])
			if err != nil {
				errs = append(errs, &RuleError{Object: r.Object, Rule: r.Rule, Match: m, Field: field, Err: err})
				continue
			}
			c.rule, c.match = int32(i), int32(m)
			c.order = &order{object: object, created: r.Created, rule: r.Rule}
			if len(r.Hostnames) == 0 {
				all = append(all, c)
			}
			for _, h := range r.Hostnames {
				if hosts == nil {
					hosts = map[string][]candidate{}
				}
				hosts[h] = append(hosts[h], c)
			}
		}
	}
	t.fill(all)
	if hosts != nil {
		t.hosts = newHostTables[P](hosts)
	}
	return t, errs
}

// fill puts the candidates in their order.
func (t *Table[P]) fill(all []candidate) {
	slices.SortStableFunc(all, precedence)
	for _, c := range all {
		t.insert(c)
	}
	t.tree.link(nil)
	for _, l := range t.exact {
		l.seal()
	}
	t.regex.seal()
	t.root.seal()
}

// precedence orders candidates as the package comment says.
func precedence(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(a.tier, b.tier),
		cmp.Compare(b.length, a.length),
		cmp.Compare(boolRank(a.method != ""), boolRank(b.method != "")),
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(len(b.query), len(a.query)),
		a.order.created.Compare(b.order.created),
		strings.Compare(a.order.object, b.order.object),
		cmp.Compare(a.order.rule, b.order.rule),
		cmp.Compare(a.match, b.match),
	)
}

func boolRank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// insert appends c, the next in order of precedence, to the list of its path.
func (t *Table[P]) insert(c candidate) {
	switch c.tier {
	case tierExact:
		if t.exact == nil {
			t.exact = make(map[string]*list)
		}
		l := t.exact[c.path]
		if l == nil {
			l = &list{}
			t.exact[c.path] = l
		}
		l.all = append(l.all, c)
	case tierPrefix:
		n := t.tree.at(c.path)
		n.list.all = append(n.list.all, c)
	case tierRegex:
		t.regex.all = append(t.regex.all, c)
	default:
		t.root.all = append(t.root.all, c)
	}
}

// Match returns the value of the first rule in order of precedence that r
// matches, and fills how. It returns false, and leaves how alone, when no rule
// matches. how must not be nil. Strings of r are not kept.
func (t *Table[P]) Match(r *mesh.Request, how *Match) (P, bool) {
	c, known := (*candidate)(nil), false
	if t.hosts != nil {
		c, known = t.hosts.find(r)
	}
	if c == nil {
		c = t.find(r)
	}
	if c == nil && !known {
		c = t.otherwise
	}
	if c == nil {
		var none P
		return none, false
	}
	*how = Match{Kind: c.kind(), Rule: int(c.rule), Match: int(c.match)}
	if c.tier == tierPrefix {
		how.Prefix = len(c.path)
	}
	return t.values[c.rule], true
}

func (t *Table[P]) find(r *mesh.Request) *candidate {
	if l := t.exact[r.Path]; l != nil {
		if c := l.first(r); c != nil {
			return c
		}
	}
	for n := t.tree.longest(r.Path); n != nil; n = n.up {
		if c := n.list.first(r); c != nil {
			return c
		}
	}
	if c := t.regex.first(r); c != nil {
		return c
	}
	return t.root.first(r)
}
