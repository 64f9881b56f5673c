package router

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// header reports whether r's field of that name has the value. Several lines of one
// name count as one value joined with commas (RFC 9110 section 5.3), cookies with
// semicolons (RFC 9113 section 8.2.3), as in Envoy.
// Host and :authority stand for the request's authority, which is not among its fields.
func (c *condition) header(r *mesh.Request) bool {
	first, n := lookUp(r, c.name)
	switch {
	case n == 0:
		return false
	case n == 1:
		return c.holds(first)
	case c.regex != nil:
		return c.regex.MatchString(joined(r.Fields, c.name))
	default:
		return c.equalsJoined(r.Fields)
	}
}

// lookUp returns the first value of a field and in how many lines it came.
func lookUp(r *mesh.Request, name string) (first string, n int) {
	if name == "host" || name == ":authority" {
		if r.Authority == "" {
			return "", 0
		}
		return r.Authority, 1
	}
	for i := range r.Fields {
		if r.Fields[i].Name == name {
			if n == 0 {
				first = r.Fields[i].Value
			}
			n++
		}
	}
	return first, n
}

func (c *condition) holds(value string) bool {
	if c.regex != nil {
		return c.regex.MatchString(value)
	}
	return value == c.value
}

// equalsJoined compares the comma-joined value piece by piece.
func (c *condition) equalsJoined(fields mesh.Fields) bool {
	rest, n := c.value, 0
	for i := range fields {
		if fields[i].Name != c.name {
			continue
		}
		var ok bool
		if n > 0 {
			if rest, ok = strings.CutPrefix(rest, separator(c.name)); !ok {
				return false
			}
		}
		if rest, ok = strings.CutPrefix(rest, fields[i].Value); !ok {
			return false
		}
		n++
	}
	return rest == ""
}

// separator is what stands between the lines of one field when they are joined.
func separator(name string) string {
	if name == "cookie" {
		return "; "
	}
	return ","
}

func joined(fields mesh.Fields, name string) string {
	var b strings.Builder
	n := 0
	for i := range fields {
		if fields[i].Name == name {
			if n > 0 {
				b.WriteString(separator(name))
			}
			b.WriteString(fields[i].Value)
			n++
		}
	}
	return b.String()
}

// parameter reports whether the first query parameter of that name has the
// value. Names and values are compared decoded: %XX and + for a space; an
// escape that is not one stands for itself. A parameter without "=" has the
// empty value.
func (c *condition) parameter(r *mesh.Request) bool {
	rest := r.Query
	for rest != "" {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(pair, "=")
		if !decodedEqual(name, c.name) {
			continue
		}
		if c.regex == nil {
			return decodedEqual(value, c.value)
		}
		return c.regex.MatchString(decoded(value))
	}
	return false
}

// decodedEqual reports whether s, decoded, is want.
func decodedEqual(s, want string) bool {
	for len(s) > 0 {
		if len(want) == 0 {
			return false
		}
		b, n := decodeByte(s)
		if b != want[0] {
			return false
		}
		s, want = s[n:], want[1:]
	}
	return want == ""
}

// decoded returns s decoded; s itself when there is nothing to decode.
func decoded(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for len(s) > 0 {
		c, n := decodeByte(s)
		b.WriteByte(c)
		s = s[n:]
	}
	return b.String()
}

// decodeByte decodes the first byte of s, which is not empty, and says how many
// bytes of s it took.
func decodeByte(s string) (b byte, n int) {
	switch {
	case s[0] == '+':
		return ' ', 1
	case s[0] == '%' && len(s) >= 3:
		hi, lo := unhex(s[1]), unhex(s[2])
		if hi < 16 && lo < 16 {
			return hi<<4 | lo, 3
		}
	}
	return s[0], 1
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}
