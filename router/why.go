package router

import (
	"fmt"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// WhyNot says which part of m is the first that r does not meet, with what r has in its place; "" when r meets
// all of it. It is for people, compiles m and allocates: Table.Match decides. That r meets a match does not mean that the
// match is taken, as another may go before it.
func WhyNot(m *mesh.RouteMatch, r *mesh.Request) string {
	c, field, err := compile(m)
	if err != nil {
		return fmt.Sprintf("%s is not valid: %v", field, err)
	}
	if !c.meetsPath(r.Path) {
		return fmt.Sprintf("path %s, and not %s", strconv.Quote(r.Path), pathText(m.Path))
	}
	if c.method != "" && c.method != r.Method {
		return fmt.Sprintf("method %s, and not %s", strconv.Quote(r.Method), c.method)
	}
	for i := range c.headers {
		h := &c.headers[i]
		if h.header(r) {
			continue
		}
		v, n := lookUp(r, h.name)
		if n == 0 {
			return "there is no header " + h.name
		}
		if n > 1 {
			v = joined(r.Fields, h.name)
		}
		return fmt.Sprintf("header %s is %s, and not %s", h.name, strconv.Quote(v), h.want())
	}
	for i := range c.query {
		if q := &c.query[i]; !q.parameter(r) {
			return fmt.Sprintf("query %s, where %s has to be %s", strconv.Quote(r.Query), q.name, q.want())
		}
	}
	return ""
}

// meetsPath reports whether one path meets the path of c, which the table finds out for all together.
func (c *candidate) meetsPath(path string) bool {
	switch c.tier {
	case tierExact:
		return path == c.path
	case tierRegex:
		return c.regex.MatchString(path)
	case tierPrefix:
		rest, ok := strings.CutPrefix(path, c.path)
		return ok && (rest == "" || rest[0] == '/')
	default:
		return true
	}
}

func pathText(p *mesh.StringMatch) string {
	switch {
	case p == nil:
		return "any"
	case p.Kind == mesh.MatchRegex:
		return "~ " + p.Value
	case p.Kind == mesh.MatchPrefix:
		return "below " + p.Value
	}
	return p.Value
}

func (c *condition) want() string {
	if c.regex != nil {
		return "~ " + c.regex.String()
	}
	return strconv.Quote(c.value)
}

// MeetsHost reports whether a request for authority is one for hostname, which may begin with "*.".
func MeetsHost(hostname, authority string) bool {
	t, _ := New([]Rule[struct{}]{{Hostnames: []string{hostname}}})
	_, ok := t.Match(&mesh.Request{Authority: authority, Path: "/"}, new(Match))
	return ok
}
