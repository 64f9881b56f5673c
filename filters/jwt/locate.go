package jwt

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// kind is what a token may stand in.
type kind uint8

const (
	inHeader kind = iota
	inParam
	inCookie
)

// location is a place where a token may stand.
type location struct {
	kind kind
	name string
	// forms are what may stand there, of headers the longest prefix first.
	forms []form
}

// form is a token behind a prefix, and the rules that look for it there.
type form struct {
	prefix    string
	verifiers []*verifier
}

// maxLocations bounds the places, which a request's tokens are told by.
const maxLocations = 64

// The places where all look that name none (RFC 6750, 2.1 and 2.3).
var (
	bearerHeader = mesh.JWTHeader{Name: "authorization", Prefix: "Bearer "}
	bearerParam  = "access_token"
)

// locate adds the places of a rule. v is nil for a rule that nobody can verify.
func (s *step) locate(rule *mesh.JWTRule, v *verifier) error {
	headers, params := rule.FromHeaders, rule.FromParams
	if len(headers)+len(params)+len(rule.FromCookies) == 0 {
		headers, params = []mesh.JWTHeader{bearerHeader}, []string{bearerParam}
	}
	for _, h := range headers {
		name := strings.ToLower(h.Name)
		s.add(inHeader, name, h.Prefix, v)
		if strings.ContainsAny(name, "-_") && !slices.Contains(s.likes, name) {
			s.likes = append(s.likes, name)
		}
	}
	for _, p := range params {
		s.add(inParam, p, "", v)
	}
	for _, c := range rule.FromCookies {
		s.add(inCookie, c, "", v)
	}
	if len(s.locations) > maxLocations {
		return fmt.Errorf("tokens may stand in %d places; at most %d are possible", len(s.locations), maxLocations)
	}
	return nil
}

func (s *step) add(k kind, name, prefix string, v *verifier) {
	i := slices.IndexFunc(s.locations, func(l location) bool { return l.kind == k && l.name == name })
	if i < 0 {
		i = len(s.locations)
		s.locations = append(s.locations, location{kind: k, name: name})
	}
	l := &s.locations[i]
	j := slices.IndexFunc(l.forms, func(f form) bool { return strings.EqualFold(f.prefix, prefix) })
	if j < 0 {
		l.forms = append(l.forms, form{prefix: prefix})
		slices.SortStableFunc(l.forms, func(a, b form) int { return len(b.prefix) - len(a.prefix) })
		j = slices.IndexFunc(l.forms, func(f form) bool { return f.prefix == prefix })
	}
	if v != nil && !slices.Contains(l.forms[j].verifiers, v) {
		l.forms[j].verifiers = append(l.forms[j].verifiers, v)
	}
}

// find returns the token that stands there. several is for more than one: who gets the request after us could
// take another than we did.
func (l *location) find(r *mesh.Request) (token string, as *form, several bool) {
	switch l.kind {
	case inHeader:
		for i := range r.Fields {
			if r.Fields[i].Name != l.name {
				continue
			}
			f, v := l.form(r.Fields[i].Value)
			if f == nil {
				continue
			}
			if as != nil {
				return "", as, true
			}
			token, as = v, f
		}
	case inParam:
		if !r.HasQuery {
			return "", nil, false
		}
		for pair := range strings.SplitSeq(r.Query, "&") {
			name, v, _ := strings.Cut(pair, "=")
			if plain(name) != l.name {
				continue
			}
			if as != nil {
				return "", as, true
			}
			token, as = plain(v), &l.forms[0]
		}
	case inCookie:
		for i := range r.Fields {
			if r.Fields[i].Name != "cookie" {
				continue
			}
			for pair := range strings.SplitSeq(r.Fields[i].Value, ";") {
				name, v, ok := cookie(pair)
				if !ok || name != l.name {
					continue
				}
				if as != nil {
					return "", as, true
				}
				token, as = v, &l.forms[0]
			}
		}
	}
	return token, as, false
}

// form returns the first form that a header's value has, with what stands behind its prefix. Schemes of authorization
// are compared without regard to case (RFC 9110, 11.1), and a tab is as good as a space behind them: there are
// servers that take it so.
func (l *location) form(value string) (*form, string) {
	for i := range l.forms {
		f := &l.forms[i]
		if n := len(f.prefix); len(value) >= n && samePrefix(value[:n], f.prefix) {
			return f, strings.Trim(value[n:], " \t")
		}
	}
	return nil, ""
}

// samePrefix compares two texts of one length.
func samePrefix(value, prefix string) bool {
	if n := len(prefix) - 1; n > 0 && prefix[n] == ' ' && value[n] == '\t' {
		value, prefix = value[:n], prefix[:n]
	}
	return strings.EqualFold(value, prefix)
}

func cookie(pair string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(strings.Trim(pair, " \t"), "=")
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return name, value, ok
}

// plain undoes the encoding of a query's names and values, for those that have any. What cannot be
// undone stays: it is no token then.
func plain(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

// remove takes the token out of the request.
func (l *location) remove(x *filters.Exchange) {
	r := x.Req
	switch l.kind {
	case inHeader:
		r.Fields.Del(l.name)
	case inParam:
		b, n := x.Append(), 0
		for pair := range strings.SplitSeq(r.Query, "&") {
			if name, _, _ := strings.Cut(pair, "="); plain(name) == l.name {
				continue
			}
			if n++; n > 1 {
				b = append(b, '&')
			}
			b = append(b, pair...)
		}
		r.Query, r.HasQuery = x.Text(b), n > 0
	case inCookie:
		for i := range r.Fields {
			if r.Fields[i].Name == "cookie" {
				r.Fields[i].Value = l.without(x, r.Fields[i].Value)
			}
		}
		r.Fields = slices.DeleteFunc(r.Fields, func(f mesh.Field) bool { return f.Name == "cookie" && f.Value == "" })
	}
}

// without is a Cookie field's value without the location's cookie.
func (l *location) without(x *filters.Exchange, value string) string {
	b, n := x.Append(), 0
	for pair := range strings.SplitSeq(value, ";") {
		pair = strings.Trim(pair, " \t")
		if name, _, ok := cookie(pair); pair == "" || ok && name == l.name {
			continue
		}
		if n++; n > 1 {
			b = append(b, "; "...)
		}
		b = append(b, pair...)
	}
	return x.Text(b)
}
