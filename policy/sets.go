package policy

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// nameSet is a list of names, with a table of them where there are many.
type nameSet struct {
	list  []mesh.Name
	table map[mesh.Name]struct{}
}

func newNameSet(list []mesh.Name) nameSet {
	s := nameSet{list: list}
	if len(list) > manyTexts {
		s.table = make(map[mesh.Name]struct{}, len(list))
		for _, n := range list {
			s.table[n] = struct{}{}
		}
	}
	return s
}

func (s *nameSet) has(n mesh.Name) bool {
	if s.table != nil {
		_, ok := s.table[n]
		return ok
	}
	return slices.Contains(s.list, n)
}

// ipSet is a list of ranges of addresses. Many are looked up by each length of a prefix that
// some of them have.
type ipSet struct {
	list      []netip.Prefix
	table     map[netip.Prefix]struct{}
	four, six []int // the lengths of IPv4 and of IPv6 ranges
}

func newIPSet(list []netip.Prefix) ipSet {
	s := ipSet{list: list}
	if len(list) <= manyTexts {
		return s
	}
	s.table = make(map[netip.Prefix]struct{}, len(list))
	for _, p := range list {
		s.table[p] = struct{}{}
		lengths := &s.six
		if p.Addr().Is4() {
			lengths = &s.four
		}
		if !slices.Contains(*lengths, p.Bits()) {
			*lengths = append(*lengths, p.Bits())
		}
	}
	return s
}

// contains reports whether a, which is normal, is in one of the ranges.
func (s *ipSet) contains(a netip.Addr) bool {
	if s.table == nil {
		for _, p := range s.list {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	lengths := s.six
	if a.Is4() {
		lengths = s.four
	}
	for _, n := range lengths {
		p, err := a.Prefix(n)
		if err != nil {
			return false
		}
		if _, ok := s.table[p]; ok {
			return true
		}
	}
	return false
}
