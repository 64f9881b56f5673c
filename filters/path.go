package filters

import (
	"errors"
	"fmt"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// EditedPath returns Req.Path after e. A replaced prefix follows Gateway API's
// table: slashes at the seam are neither doubled nor lost, and the result is
// never empty.
//
//	path       prefix   replacement   result
//	/foo/bar   /foo     /xyz          /xyz/bar
//	/foo/bar   /foo/    /xyz/         /xyz/bar
//	/foo       /foo     /xyz          /xyz
//	/foo/      /foo     /xyz          /xyz/
//	/foo/bar   /foo     (empty)       /bar
//	/foo       /foo     / or (empty)  /
//
// A path that is not one, the "*" of OPTIONS, stays.
func (x *Exchange) EditedPath(e *mesh.PathEdit) string {
	path := x.Req.Path
	switch {
	case e == nil || !strings.HasPrefix(path, "/"):
		return path
	case !e.Prefix:
		if e.Value == "" {
			return "/"
		}
		return e.Value
	}
	if n := x.MatchedPrefix; n > 0 && n <= len(path) {
		path = path[n:]
	}
	replacement := strings.TrimSuffix(e.Value, "/")
	switch {
	case replacement == "" && path == "":
		return "/"
	case replacement == "":
		return path
	case path == "":
		return replacement
	}
	return x.Concat(replacement, path, "")
}

// CheckPath says what is wrong with a path edit of a rule.
func CheckPath(e *mesh.PathEdit) error {
	if e == nil || e.Value == "" {
		return nil
	}
	if e.Value[0] != '/' {
		return fmt.Errorf("path %q does not begin with /", e.Value)
	}
	for i := range len(e.Value) {
		switch c := e.Value[i]; {
		case c <= ' ' || c >= 0x7f:
			return fmt.Errorf("path %q has a character that must be percent-encoded", e.Value)
		case c == '?' || c == '#':
			return fmt.Errorf("path %q has a %q: only a path can be set here", e.Value, c)
		}
	}
	return nil
}

// CheckHostname says what is wrong with the hostname of a rule's edit; an empty one is right.
func CheckHostname(h string) error {
	if len(h) > 253 {
		return errors.New("hostname is longer than 253 characters")
	}
	for i := range len(h) {
		c := h[i]
		if c != '-' && c != '.' && c != '_' && !('a' <= c && c <= 'z') && !('A' <= c && c <= 'Z') && !('0' <= c && c <= '9') {
			return fmt.Errorf("hostname %q has the character %q", h, c)
		}
	}
	return nil
}
