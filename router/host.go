package router

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// hostTables are the tables of rules that are for some host names only. What no rule of
// a more specific name takes is looked for at the less specific ones: Gateway API
// puts the length of the name before everything else.
type hostTables[P any] struct {
	exact map[string]*Table[P]
	wild  []wildTable[P] // the longest first
}

// wildTable is for the names that end in suffix, ".example.com".
type wildTable[P any] struct {
	suffix string
	table  *Table[P]
}

func newHostTables[P any](hosts map[string][]candidate) *hostTables[P] {
	h := &hostTables[P]{exact: map[string]*Table[P]{}}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		t := &Table[P]{tree: &node{}}
		t.fill(hosts[name])
		if suffix, ok := strings.CutPrefix(name, "*"); ok {
			h.wild = append(h.wild, wildTable[P]{suffix, t})
		} else {
			h.exact[name] = t
		}
	}
	slices.SortStableFunc(h.wild, func(a, b wildTable[P]) int { return cmp.Compare(len(b.suffix), len(a.suffix)) })
	return h
}

// find returns the first candidate for r; known is whether some rule is for its host name.
func (h *hostTables[P]) find(r *mesh.Request) (c *candidate, known bool) {
	host := hostOf(r.Authority)
	if t := h.exact[host]; t != nil {
		known = true
		if c := t.find(r); c != nil {
			return c, true
		}
	}
	for i := range h.wild {
		w := &h.wild[i]
		if len(host) > len(w.suffix) && strings.HasSuffix(host, w.suffix) {
			known = true
			if c := w.table.find(r); c != nil {
				return c, true
			}
		}
	}
	return nil, known
}

// hostOf is the name in an authority: without port and without a final dot, in lower
// case. It allocates for names that are not.
func hostOf(authority string) string {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && strings.IndexByte(authority[i:], ']') < 0 {
		authority = authority[:i]
	}
	return strings.ToLower(strings.TrimSuffix(authority, "."))
}
