// Package headers is the filter behind Gateway API's RequestHeaderModifier and
// ResponseHeaderModifier, of rules and of backends.
//
// Fields that frame the message or belong to one connection cannot be changed, and
// neither can the host: that is what a URLRewrite is for.
package headers

import (
	"fmt"
	"strings"

	"golang.org/x/net/http/httpguts"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Spec is the filter.
var Spec = filters.Spec{Name: "headers", Build: build}

// refused are the fields that rules may not touch: those of a connection (RFC
// 9110 section 7.6.1), those that frame the message, and the host.
var refused = map[string]string{
	"connection":        "it belongs to one connection",
	"keep-alive":        "it belongs to one connection",
	"proxy-connection":  "it belongs to one connection",
	"te":                "it belongs to one connection",
	"trailer":           "it belongs to one connection",
	"transfer-encoding": "it frames the message",
	"content-length":    "it frames the message",
	"upgrade":           "it belongs to one connection",
	"host":              "use a URLRewrite filter with a hostname",
}

func build(c filters.BuildContext) (filters.Step, error) {
	var s filters.Step
	if e := c.Filters.RequestHeaders; !e.IsZero() {
		edits, err := compile(e)
		if err != nil {
			return s, fmt.Errorf("request: %w", err)
		}
		s.OnRequest = request{edits}
	}
	if e := c.Filters.ResponseHeaders; !e.IsZero() {
		edits, err := compile(e)
		if err != nil {
			return s, fmt.Errorf("response: %w", err)
		}
		s.OnResponse = response{edits}
	}
	return s, nil
}

// compile checks e and returns a copy with names in lower case.
func compile(e *mesh.HeaderEdits) (*mesh.HeaderEdits, error) {
	out := &mesh.HeaderEdits{}
	for _, part := range []struct {
		from []mesh.Field
		to   *[]mesh.Field
	}{{e.Set, &out.Set}, {e.Add, &out.Add}} {
		for _, f := range part.from {
			name, err := checkName(f.Name)
			if err != nil {
				return nil, err
			}
			if !httpguts.ValidHeaderFieldValue(f.Value) || f.Value != strings.Trim(f.Value, " \t") {
				return nil, fmt.Errorf("field %s: %q is not a field value", name, f.Value)
			}
			*part.to = append(*part.to, mesh.Field{Name: name, Value: f.Value})
		}
	}
	for _, n := range e.Remove {
		name, err := checkName(n)
		if err != nil {
			return nil, err
		}
		out.Remove = append(out.Remove, name)
	}
	return out, nil
}

func checkName(s string) (string, error) {
	name := strings.ToLower(s)
	if strings.HasPrefix(name, ":") {
		return "", fmt.Errorf("field %s cannot be changed: it is not a header field", s)
	}
	if !httpguts.ValidHeaderFieldName(name) {
		return "", fmt.Errorf("%q is not a field name", s)
	}
	if why, ok := refused[name]; ok {
		return "", fmt.Errorf("field %s cannot be changed: %s", s, why)
	}
	return name, nil
}

// apply sets, then adds, then removes.
func apply(f *mesh.Fields, e *mesh.HeaderEdits) {
	for i := range e.Set {
		f.Set(e.Set[i].Name, e.Set[i].Value)
	}
	for i := range e.Add {
		f.Add(e.Add[i].Name, e.Add[i].Value)
	}
	for _, name := range e.Remove {
		f.Del(name)
	}
}

type request struct{ edits *mesh.HeaderEdits }

func (s request) Request(x *filters.Exchange) filters.Result {
	apply(&x.Req.Fields, s.edits)
	return filters.Continue
}

type response struct{ edits *mesh.HeaderEdits }

func (s response) Response(x *filters.Exchange) filters.Result {
	if x.Resp != nil {
		apply(&x.Resp.Fields, s.edits)
	}
	return filters.Continue
}
