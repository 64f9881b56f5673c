package policy

import "cairnproxy.dev/cairn/mesh"

// manyRules is the number of rules in a policy from which an index pays.
const manyRules = 16

// index finds the rules of one policy that a peer can match at all. A rule whose every source
// names accounts, or namespaces, exactly is filed under these; all others are
// asked always. The lists hold positions in ascending order.
type index struct {
	account   map[mesh.Name][]int32
	namespace map[string][]int32
	rest      []int32
}

// newIndex returns nil when an index does not pay.
func newIndex(rules []rule) *index {
	if len(rules) < manyRules {
		return nil
	}
	x := &index{account: map[mesh.Name][]int32{}, namespace: map[string][]int32{}}
	for i := range rules {
		if !x.file(&rules[i], int32(i)) {
			x.rest = append(x.rest, int32(i))
		}
	}
	if len(rules)-len(x.rest) < manyRules {
		return nil
	}
	return x
}

// file puts r, at position i, under the peers that one of its clauses demands; false when
// there is no such clause.
func (x *index) file(r *rule, i int32) bool {
	for _, c := range r.clauses {
		accounts, namespaces, ok := c.peers()
		if !ok {
			continue
		}
		for _, a := range accounts {
			x.account[a] = appendOnce(x.account[a], i)
		}
		for _, n := range namespaces {
			x.namespace[n] = appendOnce(x.namespace[n], i)
		}
		return true
	}
	return false
}

func appendOnce(list []int32, i int32) []int32 {
	if n := len(list); n > 0 && list[n-1] == i {
		return list
	}
	return append(list, i)
}

// peers returns the accounts and namespaces outside of which c cannot match;
// false when it can match others too.
func (c clause) peers() (accounts []mesh.Name, namespaces []string, ok bool) {
	for _, a := range c {
		found := false
		for i := range a {
			names, ns, exact := a[i].peers()
			if exact {
				accounts, namespaces, found = append(accounts, names...), append(namespaces, ns...), true
				break
			}
		}
		if !found {
			return nil, nil, false
		}
	}
	return accounts, namespaces, len(c) > 0
}

func (c *check) peers() (accounts []mesh.Name, namespaces []string, exact bool) {
	switch {
	case c.not:
		return nil, nil, false
	case c.attr == attrServiceAccount:
		return c.names, nil, true
	case c.attr == attrNamespace && c.texts.onlyExact():
		return nil, c.texts.exact, true
	case c.attr == attrPrincipal && c.texts.onlyExact():
		for _, p := range c.texts.exact {
			id, err := mesh.ParseIdentity("spiffe://" + p)
			if err != nil {
				return nil, nil, false
			}
			accounts = append(accounts, mesh.Name{Namespace: id.Namespace, Name: id.ServiceAccount})
		}
		return accounts, nil, true
	}
	return nil, nil, false
}

// serves reports whether the index may be used: a peer of which only the
// principal is known is not filed under anything.
func (x *index) serves(f *facts) bool { return !f.peer.IsZero() || f.principal == "" }

// match asks the candidates in the order of the rules.
func (x *index) match(rules []rule, f *facts) *rule {
	a := x.account[mesh.Name{Namespace: f.peer.Namespace, Name: f.peer.ServiceAccount}]
	b := x.namespace[f.peer.Namespace]
	c := x.rest
	for {
		list := &a
		if len(b) > 0 && (len(*list) == 0 || b[0] < (*list)[0]) {
			list = &b
		}
		if len(c) > 0 && (len(*list) == 0 || c[0] < (*list)[0]) {
			list = &c
		}
		if len(*list) == 0 {
			return nil
		}
		if r := &rules[(*list)[0]]; r.match(f) {
			return r
		}
		*list = (*list)[1:]
	}
}
