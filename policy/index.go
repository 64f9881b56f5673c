package policy

import (
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// manyRules is the number of rules from which an index pays.
const manyRules = 8

// index finds the rules of a group that a request can match at all. A rule that demands one of
// certain accounts, namespaces, or paths is filed under these; all others are
// asked always. The lists hold positions in ascending order.
type index struct {
	account   map[mesh.Name][]int32
	namespace map[string][]int32
	path      map[string][]int32
	prefix    *affixes // of paths, and their lists
	prefixes  [][]int32
	rest      []int32
}

// key is something that a rule may demand. The second text is a service account's name.
type key struct {
	kind keyKind
	a, b string
}

type keyKind uint8

const (
	keyAccount keyKind = iota
	keyNamespace
	keyPath
	keyPrefix
)

// newIndex returns nil when an index does not pay. Of what a rule demands it takes
// that which the fewest other rules demand, too.
func newIndex(rules []rule) *index {
	if len(rules) < manyRules {
		return nil
	}
	demands := make([][][]key, len(rules))
	often := map[key]int{}
	for i := range rules {
		demands[i] = rules[i].demands()
		for _, d := range demands[i] {
			for _, k := range d {
				often[k]++
			}
		}
	}
	x := &index{account: map[mesh.Name][]int32{}, namespace: map[string][]int32{}, path: map[string][]int32{}}
	prefixes := map[string][]int32{}
	for i := range rules {
		best, fewest := -1, 0
		for j, d := range demands[i] {
			most := 0
			for _, k := range d {
				most = max(most, often[k])
			}
			if best < 0 || most < fewest {
				best, fewest = j, most
			}
		}
		if best < 0 {
			x.rest = append(x.rest, int32(i))
			continue
		}
		for _, k := range demands[i][best] {
			switch k.kind {
			case keyAccount:
				file(x.account, mesh.Name{Namespace: k.a, Name: k.b}, i)
			case keyNamespace:
				file(x.namespace, k.a, i)
			case keyPath:
				file(x.path, k.a, i)
			case keyPrefix:
				file(prefixes, k.a, i)
			}
		}
	}
	if len(rules)-len(x.rest) < manyRules {
		return nil
	}
	if len(prefixes) > 0 {
		list := make([]string, 0, len(prefixes))
		for p := range prefixes {
			list = append(list, p)
		}
		x.prefix = newAffixes(list, false)
		for _, p := range x.prefix.list {
			x.prefixes = append(x.prefixes, prefixes[p])
		}
	}
	return x
}

func file[K comparable](m map[K][]int32, k K, i int) {
	list := m[k]
	if n := len(list); n > 0 && list[n-1] == int32(i) {
		return
	}
	m[k] = append(list, int32(i))
}

// demands returns lists of keys: r matches only requests that have one of each.
func (r *rule) demands() (out [][]key) {
	for _, c := range r.clauses {
		if d, ok := c.demand(); ok {
			out = append(out, d)
		}
	}
	if r.when == nil || r.unless {
		return out
	}
	for _, d := range r.when.Demands() {
		var keys []key
		ok := true
		for _, s := range d.Exact {
			var k key
			switch d.Attribute {
			case "source.principal":
				k, ok = accountKey(s)
			case "source.namespace":
				k = key{kind: keyNamespace, a: s}
			case "request.url_path":
				k = key{kind: keyPath, a: s}
			default:
				ok = false
			}
			if !ok {
				break
			}
			keys = append(keys, k)
		}
		ok = ok && (len(d.Prefix) == 0 || d.Attribute == "request.url_path")
		if !ok {
			continue
		}
		for _, p := range d.Prefix {
			keys = append(keys, key{kind: keyPrefix, a: p})
		}
		out = append(out, keys)
	}
	return out
}

// accountKey is the key of a principal, if it is one.
func accountKey(principal string) (key, bool) {
	id, err := mesh.ParseIdentity("spiffe://" + principal)
	return key{keyAccount, id.Namespace, id.ServiceAccount}, err == nil
}

// demand returns keys one of which a request must have to match c; false when it can match others too.
func (c clause) demand() (out []key, ok bool) {
	for _, a := range c {
		var best []key
		for i := range a {
			if keys, ok := a[i].keys(); ok && (best == nil || better(keys, best)) {
				best = keys
			}
		}
		if best == nil {
			return nil, false
		}
		out = append(out, best...)
	}
	return out, len(c) > 0
}

// better reports whether keys are likely to be of fewer requests than those of best.
func better(keys, best []key) bool {
	return keys[0].kind == keyPath && best[0].kind != keyPath && best[0].kind != keyAccount
}

// keys are those of the values that c compares with; false when not all of them are.
func (c *check) keys() (out []key, ok bool) {
	switch {
	case c.not:
		return nil, false
	case c.attr == attrServiceAccount:
		for _, n := range c.names.list {
			out = append(out, key{keyAccount, n.Namespace, n.Name})
		}
	case c.attr == attrNamespace && c.texts.onlyExact():
		for _, s := range c.texts.exact {
			out = append(out, key{kind: keyNamespace, a: s})
		}
	case c.attr == attrPrincipal && c.texts.onlyExact():
		for _, s := range c.texts.exact {
			k, ok := accountKey(s)
			if !ok {
				return nil, false
			}
			out = append(out, k)
		}
	case c.attr == attrPath && len(c.templates) == 0 && !c.texts.presence && len(c.texts.suffix) == 0:
		for _, s := range c.texts.exact {
			out = append(out, key{kind: keyPath, a: s})
		}
		for _, s := range c.texts.prefix {
			out = append(out, key{kind: keyPrefix, a: s})
		}
	}
	return out, len(out) > 0
}

// serves reports whether the index may be used: a peer of which only the
// principal is known is not filed under anything.
func (x *index) serves(f *facts) bool { return !f.peer.IsZero() || f.principal == "" }

// match returns the first of the candidates that matches.
func (x *index) match(rules []rule, f *facts) *rule {
	best := int32(len(rules))
	best = first(rules, x.rest, f, best)
	if len(x.account) > 0 {
		best = first(rules, x.account[mesh.Name{Namespace: f.peer.Namespace, Name: f.peer.ServiceAccount}], f, best)
	}
	if len(x.namespace) > 0 {
		best = first(rules, x.namespace[f.peer.Namespace], f, best)
	}
	if f.request != nil {
		if len(x.path) > 0 {
			best = first(rules, x.path[f.request.Path], f, best)
		}
		if x.prefix != nil {
			for i := x.prefix.find(f.request.Path); i >= 0; i = x.prefix.parent[i] {
				if x.prefix.has(i, f.request.Path) {
					best = first(rules, x.prefixes[i], f, best)
				}
			}
		}
	} else {
		best = x.firstOfPaths(rules, f, best)
	}
	if int(best) == len(rules) {
		return nil
	}
	return &rules[best]
}

// firstOfPaths asks all rules that demand a path, for a connection: whether they match without
// one is theirs to say.
func (x *index) firstOfPaths(rules []rule, f *facts, best int32) int32 {
	for _, list := range x.path {
		best = first(rules, list, f, best)
	}
	for _, list := range x.prefixes {
		best = first(rules, list, f, best)
	}
	return best
}

// first returns the first position in list of a rule that matches, if it is before best, or best.
func first(rules []rule, list []int32, f *facts, best int32) int32 {
	for _, i := range list {
		if i >= best {
			break
		}
		if rules[i].match(f) {
			return i
		}
	}
	return best
}

// affixes is many prefixes, or suffixes, of which those that a text has are found without
// looking at all: they stand in the order in which those of one text enclose each other.
type affixes struct {
	list   []string
	parent []int32 // the longest other one that each begins with; -1 for none
	suffix bool
}

func newAffixes(list []string, suffix bool) *affixes {
	t := &affixes{list: slices.Clone(list), suffix: suffix}
	slices.SortFunc(t.list, t.compare)
	t.list = slices.Compact(t.list)
	t.parent = make([]int32, len(t.list))
	for i := range t.list {
		p := int32(i) - 1
		for p >= 0 && !t.has(p, t.list[i]) {
			p = t.parent[p]
		}
		t.parent[i] = p
	}
	return t
}

// find returns the last place whose text is not greater than s: of it and its parents
// alone s can have any. -1 for none.
func (t *affixes) find(s string) int32 {
	lo, hi := 0, len(t.list)
	for lo < hi {
		if mid := (lo + hi) / 2; t.compare(t.list[mid], s) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return int32(lo) - 1
}

// has reports whether s has the affix at place i.
func (t *affixes) has(i int32, s string) bool {
	a := t.list[i]
	if len(a) > len(s) {
		return false
	}
	if t.suffix {
		return s[len(s)-len(a):] == a
	}
	return s[:len(a)] == a
}

func (t *affixes) match(s string) bool {
	for i := t.find(s); i >= 0; i = t.parent[i] {
		if t.has(i, s) {
			return true
		}
	}
	return false
}

// compare orders texts from their beginnings, or suffixes from their ends.
func (t *affixes) compare(a, b string) int {
	if !t.suffix {
		switch {
		case a == b:
			return 0
		case a < b:
			return -1
		}
		return 1
	}
	n := min(len(a), len(b))
	for i := 1; i <= n; i++ {
		if x, y := a[len(a)-i], b[len(b)-i]; x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}
