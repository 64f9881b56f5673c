package policy

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// manyTexts is the number of exact strings from which a set is used instead of
// comparing one by one.
const manyTexts = 8

// texts is a list of string patterns in Istio's form.
type texts struct {
	presence bool
	exact    []string
	index    map[string]struct{} // of exact, when there are many
	prefix   []string
	suffix   []string
	globs    []string
	// tables of prefix and suffix, when there are many
	prefixes, suffixes *affixes
}

// parseText reads one pattern: "*" is presence, a leading star a suffix, a
// trailing star a prefix, in this order: in "*a*" the second star is a letter.
func parseText(s string) mesh.L4String {
	switch {
	case s == "*":
		return mesh.L4String{Kind: mesh.L4Presence}
	case strings.HasPrefix(s, "*"):
		return mesh.L4String{Kind: mesh.L4Suffix, Value: s[1:]}
	case strings.HasSuffix(s, "*"):
		return mesh.L4String{Kind: mesh.L4Prefix, Value: s[:len(s)-1]}
	}
	return mesh.L4String{Kind: mesh.L4Exact, Value: s}
}

func parseTexts(list []string) *texts {
	t := &texts{}
	for _, s := range list {
		t.add(parseText(s))
	}
	t.done()
	return t
}

// done makes the tables of many prefixes and suffixes. Until then these are compared one by one.
func (t *texts) done() {
	if len(t.prefix) > manyTexts {
		t.prefixes = newAffixes(t.prefix, false)
	}
	if len(t.suffix) > manyTexts {
		t.suffixes = newAffixes(t.suffix, true)
	}
}

// parseGlobs is parseTexts for namespaces, in which Istio takes every star for
// "anything".
func parseGlobs(list []string) *texts {
	t := &texts{}
	for _, s := range list {
		if isGlob(s) {
			t.globs = append(t.globs, s)
		} else {
			t.add(parseText(s))
		}
	}
	t.done()
	return t
}

// isGlob reports whether s has stars beyond a single one at its beginning or end.
func isGlob(s string) bool {
	return strings.Count(s, "*") > 1 || strings.Contains(strings.Trim(s, "*"), "*")
}

// add reports whether s is of a known kind.
func (t *texts) add(s mesh.L4String) bool {
	switch s.Kind {
	case mesh.L4Exact:
		t.exact = append(t.exact, s.Value)
		if t.index != nil {
			t.index[s.Value] = struct{}{}
		} else if len(t.exact) > manyTexts {
			t.index = make(map[string]struct{}, len(t.exact))
			for _, e := range t.exact {
				t.index[e] = struct{}{}
			}
		}
	case mesh.L4Prefix:
		t.prefix = append(t.prefix, s.Value)
	case mesh.L4Suffix:
		t.suffix = append(t.suffix, s.Value)
	case mesh.L4Presence:
		t.presence = true
	default:
		return false
	}
	return true
}

// onlyExact reports whether only listed strings match.
func (t *texts) onlyExact() bool {
	return !t.presence && len(t.prefix)+len(t.suffix)+len(t.globs) == 0
}

func (t *texts) match(s string) bool {
	if t.presence && s != "" {
		return true
	}
	if t.index != nil {
		if _, ok := t.index[s]; ok {
			return true
		}
	} else if slices.Contains(t.exact, s) {
		return true
	}
	if t.hasAffix(s) {
		return true
	}
	for _, g := range t.globs {
		if glob(g, s) {
			return true
		}
	}
	return false
}

func (t *texts) hasAffix(s string) bool {
	if t.prefixes != nil {
		if t.prefixes.match(s) {
			return true
		}
	} else {
		for _, p := range t.prefix {
			if strings.HasPrefix(s, p) {
				return true
			}
		}
	}
	if t.suffixes != nil {
		return t.suffixes.match(s)
	}
	for _, p := range t.suffix {
		if strings.HasSuffix(s, p) {
			return true
		}
	}
	return false
}

// glob reports whether s is pattern with each star replaced by something.
func glob(pattern, s string) bool {
	star, mark, p, i := -1, 0, 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchJoined is match for a field that came in several lines.
func (t *texts) matchJoined(f mesh.Fields, name string) bool {
	j := joined{f, name}
	n := j.len()
	for _, e := range t.exact {
		if n == len(e) && j.at(0, e) {
			return true
		}
	}
	for _, p := range t.prefix {
		if n >= len(p) && j.at(0, p) {
			return true
		}
	}
	for _, p := range t.suffix {
		if n >= len(p) && j.at(n-len(p), p) {
			return true
		}
	}
	return false
}

// joined is the value of a field's lines with commas between, without building it.
type joined struct {
	fields mesh.Fields
	name   string
}

func (j joined) len() int {
	n := -1
	for i := range j.fields {
		if j.fields[i].Name == j.name {
			n += 1 + len(j.fields[i].Value)
		}
	}
	return n
}

// at reports whether want stands at the offset; the joined value is long enough.
func (j joined) at(offset int, want string) bool {
	first := true
	for i := range j.fields {
		if j.fields[i].Name != j.name {
			continue
		}
		if !first {
			if offset, want = eat(",", offset, want); offset < 0 {
				return false
			}
		}
		first = false
		if offset, want = eat(j.fields[i].Value, offset, want); offset < 0 {
			return false
		}
	}
	return want == ""
}

// eat compares piece, from offset on, with the beginning of want; it returns
// the offset left for the next piece, or -1 when they differ, and the rest of want.
func eat(piece string, offset int, want string) (int, string) {
	if offset >= len(piece) {
		return offset - len(piece), want
	}
	piece = piece[offset:]
	n := min(len(piece), len(want))
	if piece[:n] != want[:n] {
		return -1, want
	}
	return 0, want[n:]
}
