package policy

import "cairnproxy.dev/cairn/expr"

// group is rules of which any may match, in the order in which they are asked.
type group struct {
	rules []rule
	// index finds candidates among many rules; nil for few.
	index *index
}

// rule matches when every clause does and its expression, if it has one, is what it should be.
type rule struct {
	of      *written
	index   int    // in the policy as written
	name    string // of an AccessPolicy's rule
	effect  string // likewise
	reason  string // what a verdict says where the rule refuses
	details string
	clauses []clause
	// when is an expression; nil for none. The rule matches where it is true, or with unless, where it
	// is false; where it fails, the rule matches with failing.
	when            *expr.Program
	unless, failing bool
	// never says why the rule cannot match; "" for one that can.
	never string
}

// clause matches when one of its alternatives does. A clause without alternatives never matches.
type clause []alternative

// alternative matches when all of its checks hold.
type alternative []check

func (g *group) add(r rule) { g.rules = append(g.rules, r) }

func (g *group) done() { g.index = newIndex(g.rules) }

// match returns the first rule that matches, or nil.
func (g *group) match(f *facts) *rule {
	if g.index != nil && g.index.serves(f) {
		return g.index.match(g.rules, f)
	}
	for i := range g.rules {
		if g.rules[i].match(f) {
			return &g.rules[i]
		}
	}
	return nil
}

func (r *rule) match(f *facts) bool {
	for _, c := range r.clauses {
		if !c.match(f) {
			return false
		}
	}
	if r.when == nil {
		return true
	}
	ok, err := r.when.Bool(&f.input)
	if err != nil {
		return r.failing
	}
	return ok != r.unless
}

func (c clause) match(f *facts) bool {
	for i := range c {
		if c[i].match(f) {
			return true
		}
	}
	return false
}

func (a alternative) match(f *facts) bool {
	for i := range a {
		if !a[i].holds(f) {
			return false
		}
	}
	return true
}
