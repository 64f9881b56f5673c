package extauthz

import (
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// names is a list of header names: whole, or beginnings (NAME*), or ends (*NAME).
type names struct {
	whole         map[string]bool
	begins, ends  []string
	all, anything bool // "*"; not empty
}

func newNames(list []string) names {
	n := names{anything: len(list) > 0}
	for _, s := range list {
		s = strings.ToLower(s)
		switch {
		case s == "*":
			n.all = true
		case strings.HasSuffix(s, "*"):
			n.begins = append(n.begins, s[:len(s)-1])
		case strings.HasPrefix(s, "*"):
			n.ends = append(n.ends, s[1:])
		default:
			if n.whole == nil {
				n.whole = map[string]bool{}
			}
			n.whole[s] = true
		}
	}
	return n
}

// has reports whether a name, in lower case, is one of them.
func (n *names) has(name string) bool {
	if n.all || n.whole[name] {
		return true
	}
	for _, s := range n.begins {
		if strings.HasPrefix(name, s) {
			return true
		}
	}
	for _, s := range n.ends {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

const (
	// maxFields and maxFieldBytes bound what an answer may change.
	maxFields     = 64
	maxFieldBytes = 64 << 10
)

// ours reports whether a field is about the message, which is ours to say.
func ours(name string) bool {
	switch name {
	case "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection", "http2-settings":
		return true
	}
	return strings.HasPrefix(name, ":")
}

// edits collects what an answer changes.
type edits struct{ fields, bytes int }

// add appends an edit to list. What is ours is left out; what is no field makes the answer invalid.
func (e *edits) add(list *[]filters.FieldEdit, name, value string, how filters.FieldAction) error {
	name, value = strings.ToLower(name), strings.Trim(value, " \t")
	if ours(name) {
		return nil
	}
	e.fields++
	e.bytes += len(name) + len(value)
	if !isName(name) || !isValue(value) || e.fields > maxFields || e.bytes > maxFieldBytes {
		return errInvalid
	}
	*list = append(*list, filters.FieldEdit{Field: mesh.Field{Name: name, Value: value}, How: how})
	return nil
}

// isName reports whether s is a token in lower case (RFC 9110, 5.6.2).
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
