package source

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a description of the mesh, told so
// that the one who wrote it can put it right.
type Problem struct {
	// File and Line are the place of the offending field; Line counts from 1
	// and is 0 when the problem concerns the file as a whole.
	File string `json:"file"`
	Line int    `json:"line"`
	// Object names what was being described, like "HTTPRoute default/reviews";
	// empty when the text could not be read that far.
	Object string `json:"object"`
	// Field is the path of the offending field, like "spec.rules[0].backendRefs[1].port".
	Field string `json:"field"`
	// Message says what is wrong and ends with what to do about it.
	Message string `json:"message"`
	// Served says that the rest is served all the same: a reference leads to nothing, or
	// another object goes first, and no more than what depends on that answers an error.
	// Any other problem refuses the description as a whole.
	Served bool `json:"served,omitempty"`
}

// Refused returns the problems for which a description is refused, nil for none.
func Refused(problems []Problem) []Problem {
	var out []Problem
	for _, p := range problems {
		if !p.Served {
			out = append(out, p)
		}
	}
	return out
}

// String returns the problem on one line: "file:line: object: field: message",
// without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	for _, s := range []string{p.Object, p.Field} {
		if s != "" {
			b.WriteString(s)
			b.WriteString(": ")
		}
	}
	b.WriteString(p.Message)
	return b.String()
}

// Compare orders problems by place, for printing.
func (p Problem) Compare(q Problem) int {
	if c := strings.Compare(p.File, q.File); c != 0 {
		return c
	}
	if p.Line != q.Line {
		if p.Line < q.Line {
			return -1
		}
		return 1
	}
	if c := strings.Compare(p.Object, q.Object); c != 0 {
		return c
	}
	if c := strings.Compare(p.Field, q.Field); c != 0 {
		return c
	}
	return strings.Compare(p.Message, q.Message)
}
