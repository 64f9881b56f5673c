package policy

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

var tokenPrincipals = []string{"*", "iss/sub", "iss/*", "*/sub", "other/sub"}

// token is none, or a random one.
func (c chooser) token() *mesh.Token {
	if c.IntN(3) == 0 {
		return nil
	}
	t := &mesh.Token{Principal: c.of("iss/sub", "iss/b", "other/sub"), Presenter: c.of("p", "q", ""), Audiences: c.some("x", "yz", "z"), Claims: map[string]any{}}
	claim := func() any {
		return []any{"b", "cd", "", 3.0, true, nil, []any{"b", 1.0}, []any{}, []any{"x", "cd"}, map[string]any{"m": "b"}}[c.IntN(10)]
	}
	t.Claims["a"] = claim()
	t.Claims["n"] = map[string]any{"m": claim()}
	if c.IntN(5) == 0 {
		t.Claims["n"] = claim()
	}
	return t
}

// ofToken says what a pattern says of the texts that a condition's key names.
func ofToken(r *mesh.Request, key string) func(string) bool {
	return func(p string) bool {
		return anyOf(tokenTexts(r.Token, key), func(s string) bool { return pattern(p).MatchString(s) })
	}
}

func tokenTexts(t *mesh.Token, key string) (out []string) {
	switch {
	case t == nil:
		return nil
	case key == "request.auth.principal":
		return []string{t.Principal}
	case key == "request.auth.presenter":
		return []string{t.Presenter}
	case key == "request.auth.audiences":
		return t.Audiences
	}
	var v any = t.Claims
	for _, name := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(key, "request.auth.claims["), "]"), "][") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
