package router

import (
	"cmp"
	"maps"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// manyCandidates is the number of candidates of one path from which an index pays.
const manyCandidates = 16

// list is candidates that are asked in their order.
type list struct {
	all   []candidate
	index *index // nil for few
}

// index finds the candidates of a list that a request can meet at all. One that
// demands an exact header field is filed under its value, one whose expression
// begins with plain text under that; all others are asked always. Lists hold
// positions in ascending order.
type index struct {
	headers []headerIndex
	starts  map[string][]int32
	lengths []int // of the keys of starts
	rest    []int32
}

type headerIndex struct {
	name   string
	values map[string][]int32
	all    []int32 // for a field that came in several lines
}

const (
	maxHeaders = 4  // names of fields to look for
	maxStart   = 64 // bytes of an expression's beginning
)

// seal ends the making of l.
func (l *list) seal() {
	if len(l.all) < manyCandidates {
		return
	}
	x := &index{starts: map[string][]int32{}}
	for _, name := range tellingHeaders(l.all) {
		x.headers = append(x.headers, headerIndex{name: name, values: map[string][]int32{}})
	}
	for i := range l.all {
		if !x.file(&l.all[i], int32(i)) {
			x.rest = append(x.rest, int32(i))
		}
	}
	x.lengths = slices.Collect(maps.Keys(lengthsOf(x.starts)))
	if len(l.all)-len(x.rest) >= manyCandidates {
		l.index = x
	}
}

// tellingHeaders are the fields of which the most values are asked for.
func tellingHeaders(all []candidate) []string {
	values := map[string]map[string]bool{}
	for i := range all {
		for _, h := range all[i].headers {
			if h.regex != nil {
				continue
			}
			if values[h.name] == nil {
				values[h.name] = map[string]bool{}
			}
			values[h.name][h.value] = true
		}
	}
	names := slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(values[b]), len(values[a])), cmp.Compare(a, b))
	})
	return names[:min(len(names), maxHeaders)]
}

func lengthsOf(m map[string][]int32) map[int]bool {
	out := map[int]bool{}
	for k := range m {
		out[len(k)] = true
	}
	return out
}

// file puts c, at position i, where a request that it accepts will look; false
// when there is no such place.
func (x *index) file(c *candidate, i int32) bool {
	for j := range x.headers {
		h := &x.headers[j]
		for _, cond := range c.headers {
			if cond.name == h.name && cond.regex == nil {
				h.values[cond.value] = append(h.values[cond.value], i)
				h.all = append(h.all, i)
				return true
			}
		}
	}
	if c.regex == nil {
		return false
	}
	start, _ := c.regex.LiteralPrefix()
	if start = start[:min(len(start), maxStart)]; start == "" {
		return false
	}
	x.starts[start] = append(x.starts[start], i)
	return true
}

// first returns the first candidate that accepts r, with its path where that is
// an expression.
func (l *list) first(r *mesh.Request) *candidate {
	if l.index == nil {
		for i := range l.all {
			if l.all[i].meets(r) {
				return &l.all[i]
			}
		}
		return nil
	}
	var room [maxHeaders + 1 + 8][]int32
	hits := l.index.hits(r, room[:0])
	for {
		next := -1 // the list with the lowest position
		for i := range hits {
			if len(hits[i]) > 0 && (next < 0 || hits[i][0] < hits[next][0]) {
				next = i
			}
		}
		if next < 0 {
			return nil
		}
		if c := &l.all[hits[next][0]]; c.meets(r) {
			return c
		}
		hits[next] = hits[next][1:]
	}
}

// hits appends the lists in which candidates for r are.
func (x *index) hits(r *mesh.Request, to [][]int32) [][]int32 {
	to = append(to, x.rest)
	for i := range x.headers {
		h := &x.headers[i]
		switch value, n := lookUp(r, h.name); n {
		case 0:
		case 1:
			to = append(to, h.values[value])
		default: // its lines are compared joined
			to = append(to, h.all)
		}
	}
	for _, n := range x.lengths {
		if n <= len(r.Path) {
			if found := x.starts[r.Path[:n]]; found != nil {
				to = append(to, found)
			}
		}
	}
	return to
}

// meets reports whether r meets the candidate's expression, if its path is one,
// and all its conditions.
func (c *candidate) meets(r *mesh.Request) bool {
	return (c.regex == nil || c.regex.MatchString(r.Path)) && c.accepts(r)
}
