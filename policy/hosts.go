package policy

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// foldTexts is texts for host names: ASCII letters are equal in either case, and
// a trailing dot of the name compared does not count.
type foldTexts struct {
	list []mesh.L4String
	// exact is a table of what is compared whole, when there is much; list is of the rest then.
	exact map[string]struct{}
	// ports are those of exact that may have a port.
	ports []mesh.L4String
}

func parseFold(list []string) *foldTexts {
	t := &foldTexts{}
	exact := 0
	for _, s := range list {
		p := parseText(strings.ToLower(s))
		t.list = append(t.list, p)
		if p.Kind == mesh.L4Exact {
			exact++
		}
	}
	if exact <= manyTexts {
		return t
	}
	t.exact = make(map[string]struct{}, exact)
	rest := t.list[:0]
	for _, p := range t.list {
		switch {
		case p.Kind != mesh.L4Exact:
			rest = append(rest, p)
			continue
		case strings.Contains(p.Value, ":"):
			t.ports = append(t.ports, p)
		}
		t.exact[p.Value] = struct{}{}
	}
	t.list = rest
	return t
}

// match compares a request's host, with its port and without.
func (t *foldTexts) match(r *mesh.Request) bool {
	if matchFold(t.list, r.Host) || r.Authority != r.Host && matchFold(t.list, r.Authority) {
		return true
	}
	if t.exact == nil {
		return false
	}
	if _, ok := t.exact[strings.TrimSuffix(r.Host, ".")]; ok { // a request's Host is in lower case
		return true
	}
	return r.Authority != r.Host && matchFold(t.ports, r.Authority)
}

func matchFold(list []mesh.L4String, s string) bool {
	s = strings.TrimSuffix(s, ".")
	for i := range list {
		p := &list[i]
		n := len(s) - len(p.Value)
		switch p.Kind {
		case mesh.L4Exact:
			if n == 0 && equalFold(s, p.Value) {
				return true
			}
		case mesh.L4Prefix:
			if n >= 0 && equalFold(s[:len(p.Value)], p.Value) {
				return true
			}
		case mesh.L4Suffix:
			if n >= 0 && equalFold(s[n:], p.Value) {
				return true
			}
		default:
			if s != "" {
				return true
			}
		}
	}
	return false
}

// equalFold compares s with lower, which is in lower case and of the same length.
func equalFold(s, lower string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
