package router

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Limits on regular expressions. Go's engine needs time in proportion to the
// product of program and subject, so both are bounded: the subject by the limit on
// header sections, the program here.
const (
	// MaxRegexLength is the longest expression in bytes; Gateway API's own limit for header values.
	MaxRegexLength = 4096
	// MaxRegexProgram is the most instructions that an expression may compile to.
	MaxRegexProgram = 4096
)

// tier is the first criterion of precedence: the kind of path.
type tier uint8

const (
	tierExact tier = iota
	tierPrefix
	tierRegex
	tierRoot
)

// candidate is one compiled match.
type candidate struct {
	tier tier
	// path is the exact path, the prefix without its trailing slash, or the
	// source of the expression; "" in tierRoot.
	path string
	// length is what is compared in its tier: of the path, or RouteMatch.Precedence.
	length  int
	regex   *regexp.Regexp
	method  string
	headers []condition
	query   []condition
	// rule and match are indexes into New's argument.
	rule, match int32
	order       *order
}

// order is what decides between equally specific candidates.
type order struct {
	object  string
	created time.Time
	rule    int
}

// condition is a header or query condition. regex is nil for exact ones.
type condition struct {
	name  string
	value string
	regex *regexp.Regexp
}

func (c *candidate) kind() mesh.MatchKind {
	switch c.tier {
	case tierExact:
		return mesh.MatchExact
	case tierRegex:
		return mesh.MatchRegex
	default:
		return mesh.MatchPrefix
	}
}

// accepts reports whether r meets every condition beside the path.
func (c *candidate) accepts(r *mesh.Request) bool {
	if c.method != "" && c.method != r.Method {
		return false
	}
	for i := range c.headers {
		if !c.headers[i].header(r) {
			return false
		}
	}
	for i := range c.query {
		if !c.query[i].parameter(r) {
			return false
		}
	}
	return true
}

// compile turns m into a candidate; on an error, field says which part of m is wrong.
func compile(m *mesh.RouteMatch) (c candidate, field string, err error) {
	c.tier, c.method = tierRoot, m.Method
	if m.Path != nil {
		if err := c.compilePath(m.Path); err != nil {
			return c, "path.value", err
		}
		if c.length = len(c.path); c.tier == tierRegex && m.Precedence > 0 {
			c.length = int(m.Precedence)
		}
	}
	for i, h := range m.Headers {
		h.Name = strings.ToLower(h.Name)
		if c.headers, err = addCondition(c.headers, h); err != nil {
			return c, fmt.Sprintf("headers[%d].value", i), err
		}
	}
	for i, q := range m.Query {
		if c.query, err = addCondition(c.query, q); err != nil {
			return c, fmt.Sprintf("queryParams[%d].value", i), err
		}
	}
	return c, "", nil
}

func (c *candidate) compilePath(p *mesh.StringMatch) (err error) {
	if p.Kind == mesh.MatchRegex {
		c.tier, c.path = tierRegex, p.Value
		c.regex, err = compileRegex(p.Value)
		return err
	}
	if p.Value == "" && p.Kind == mesh.MatchPrefix {
		return nil
	}
	if !strings.HasPrefix(p.Value, "/") {
		return fmt.Errorf("%q does not begin with /", p.Value)
	}
	switch p.Kind {
	case mesh.MatchExact:
		c.tier, c.path = tierExact, p.Value
	case mesh.MatchPrefix:
		if c.path = strings.TrimSuffix(p.Value, "/"); c.path != "" {
			c.tier = tierPrefix
		}
	default:
		return fmt.Errorf("unknown kind of match %d", p.Kind)
	}
	return nil
}

// addCondition appends n unless its name is there already: of several
// conditions on one name Gateway API lets the first one count alone.
func addCondition(list []condition, n mesh.NamedMatch) ([]condition, error) {
	if n.Name == "" {
		return list, errors.New("the name is empty")
	}
	for i := range list {
		if list[i].name == n.Name {
			return list, nil
		}
	}
	c := condition{name: n.Name, value: n.Value}
	switch n.Kind {
	case mesh.MatchExact:
	case mesh.MatchRegex:
		re, err := compileRegex(n.Value)
		if err != nil {
			return list, err
		}
		c.regex = re
	default:
		return list, fmt.Errorf("kind of match %d is not for headers and query parameters", n.Kind)
	}
	return append(list, c), nil
}

// compileRegex compiles expr so that it matches whole strings only.
func compileRegex(expr string) (*regexp.Regexp, error) {
	if len(expr) > MaxRegexLength {
		return nil, fmt.Errorf("regular expression has %d bytes, at most %d are allowed", len(expr), MaxRegexLength)
	}
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, err
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if len(prog.Inst) > MaxRegexProgram {
		return nil, fmt.Errorf("regular expression needs %d instructions, at most %d are allowed", len(prog.Inst), MaxRegexProgram)
	}
	// Anchor the parsed form, not the text: "a|b" and `\Qa` would escape from
	// brackets put around them.
	whole := &syntax.Regexp{Op: syntax.OpConcat, Flags: syntax.Perl, Sub: []*syntax.Regexp{
		{Op: syntax.OpBeginText, Flags: syntax.Perl},
		parsed,
		{Op: syntax.OpEndText, Flags: syntax.Perl},
	}}
	return regexp.Compile(whole.String())
}
