package policy

import (
	"fmt"
	"strings"
)

const (
	oneSegment  = "{*}"
	anySegments = "{**}"
)

// template is a path with the operators {*}, one segment that is not empty, and
// {**}, anything, which is the last operator. Both stand for whole segments:
//
//	/a/{*}/b     head "/a/{*}/b"
//	/a/{**}/b    head "/a/", rest true, tail "/b"
type template struct {
	head string
	rest bool
	tail string
}

// isTemplate reports whether a path pattern uses the operators.
func isTemplate(s string) bool {
	return strings.Contains(s, oneSegment) || strings.Contains(s, anySegments)
}

func parseTemplate(s string) (template, error) {
	if !strings.HasPrefix(s, "/") {
		return template{}, fmt.Errorf("path template %q does not begin with /", s)
	}
	last := false
	for segment := range strings.SplitSeq(s[1:], "/") {
		switch {
		case segment == oneSegment && !last:
		case segment == anySegments && !last:
			last = true
		case strings.ContainsAny(segment, "{}*"):
			return template{}, fmt.Errorf("path template %q: %q is not allowed there", s, segment)
		}
	}
	t := template{}
	t.head, t.tail, t.rest = strings.Cut(s, anySegments)
	return t, nil
}

func matchTemplate(list []template, path string) bool {
	for i := range list {
		if list[i].match(path) {
			return true
		}
	}
	return false
}

func (t *template) match(path string) bool {
	head := t.head
	for head != "" {
		literal, rest, more := strings.Cut(head, oneSegment)
		var ok bool
		if path, ok = strings.CutPrefix(path, literal); !ok {
			return false
		}
		if head = rest; !more {
			break
		}
		n := strings.IndexByte(path, '/')
		if n < 0 {
			n = len(path)
		}
		if n == 0 {
			return false
		}
		path = path[n:]
	}
	if !t.rest {
		return path == ""
	}
	return strings.HasSuffix(path, t.tail)
}
