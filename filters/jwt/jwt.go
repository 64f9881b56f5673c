package jwt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unsafe"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Spec is the filter that verifies tokens as all of list say, together. It works at the level of the service: before
// authorization, which asks about tokens, and before a rule is chosen. r may be nil for an empty list.
func Spec(list []*mesh.RequestAuthentication, r *Registry) filters.Spec {
	return filters.Spec{Name: "jwt", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level != filters.LevelService || len(list) == 0 {
			return filters.Step{}, nil
		}
		if r == nil {
			return filters.Step{}, errors.New("there is nowhere to keep keys")
		}
		s, err := newStep(list, r)
		if err != nil || len(s.locations) == 0 {
			return filters.Step{}, err
		}
		return filters.Step{OnRequest: s}, nil
	}}
}

// step is all rules of a service.
type step struct {
	locations []location
	// strip are the fields that rules put into requests: a client's own are removed.
	strip []string
	// likes are the headers where tokens may stand that CGI and its like (WSGI, Rack, PHP) have other names for:
	// what is there under those is no token that was verified, and is removed.
	likes []string
	// broken says that a policy cannot be understood: all tokens are refused.
	broken bool
	counts *totals
}

func newStep(list []*mesh.RequestAuthentication, r *Registry) (*step, error) {
	s := &step{counts: r.counts()}
	for _, p := range list {
		s.broken = s.broken || p.Invalid != ""
	}
	for _, p := range list {
		for i := range p.Rules {
			rule := &p.Rules[i]
			s.strips(rule)
			var v *verifier
			if !s.broken {
				var err error
				if v, err = r.verifier(rule); err != nil {
					return nil, fmt.Errorf("RequestAuthentication %s, rule %d: %w", p.Name, i, err)
				}
			}
			if err := s.locate(rule, v); err != nil {
				return nil, fmt.Errorf("RequestAuthentication %s: %w", p.Name, err)
			}
		}
	}
	if s.broken { // who knows which places it meant
		if err := s.locate(&mesh.JWTRule{}, nil); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *step) strips(rule *mesh.JWTRule) {
	names := []string{rule.OutputPayloadToHeader}
	for _, c := range rule.OutputClaims {
		names = append(names, c.Header)
	}
	for _, n := range names {
		if n = strings.ToLower(n); n != "" && !slices.Contains(s.strip, n) {
			s.strip = append(s.strip, n)
		}
	}
}

// maxWaits bounds how often one request waits for keys.
const maxWaits = 4

// Request verifies the request's tokens.
func (s *step) Request(x *filters.Exchange) filters.Result {
	s.hideQuery(x)
	if isPreflight(x.Req) {
		// Browsers send no tokens with it, and Istio has Envoy let it through, too. It has no principal.
		s.sanitize(x.Req)
		return filters.Continue
	}
	return s.run(x, 0)
}

// hideQuery keeps the query out of logs if a token stands in it, whatever becomes of the request.
func (s *step) hideQuery(x *filters.Exchange) {
	if !x.Req.HasQuery {
		return
	}
	for i := range s.locations {
		if l := &s.locations[i]; l.kind == inParam {
			if _, as, _ := l.find(x.Req); as != nil {
				x.Notes().SecretQuery = true
				return
			}
		}
	}
}

func isPreflight(r *mesh.Request) bool {
	return r.Method == http.MethodOptions && r.Fields.Has("origin") && r.Fields.Has("access-control-request-method")
}

func (s *step) run(x *filters.Exchange, waits int) filters.Result {
	var first *verified
	fresh := false   // a signature was verified
	var taken uint64 // the locations whose tokens do not go on
	for i := range s.locations {
		l := &s.locations[i]
		token, as, several := l.find(x.Req)
		switch {
		case as == nil:
			continue
		case s.broken:
			return s.refuse(x, failPolicy)
		case several:
			return s.refuse(x, failSeveral)
		}
		d := digest(sha256.Sum256(unsafe.Slice(unsafe.StringData(token), len(token))))
		v, by := as.recall(&d)
		var f *failure
		if v != nil {
			f = by.timely(v.begins, v.expires, x.Now)
		} else {
			var keys *keySet
			fresh = true
			v, by, f, keys = as.verify(x, token, &d)
			if keys != nil && waits < maxWaits && keys.join(x, func(x *filters.Exchange) filters.Result { return s.run(x, waits+1) }) {
				return filters.Park
			}
		}
		if f != nil {
			return s.refuse(x, f)
		}
		if !by.rule.Forward {
			taken |= 1 << i
		}
		if first == nil {
			first = v
		}
	}
	s.sanitize(x.Req)
	if first == nil {
		return filters.Continue
	}
	if fresh {
		s.counts.verified.Inc()
	} else {
		s.counts.cached.Inc()
	}
	for i := range s.locations {
		if taken&(1<<i) != 0 {
			s.locations[i].remove(x)
		}
	}
	x.Req.Fields = append(x.Req.Fields, first.out...)
	x.Req.Token = &first.token
	return filters.Continue
}

func (s *step) refuse(x *filters.Exchange, f *failure) filters.Result {
	s.counts.refused.Inc()
	return f.answer(x)
}

// recall returns the token if one of the rules has accepted it before.
func (f *form) recall(d *digest) (*verified, *verifier) {
	for _, v := range f.verifiers {
		if ok := v.recall(d); ok != nil {
			return ok, v
		}
	}
	return nil, nil
}

// verify verifies the token with the first rule that accepts it. With a failure come the keys that may help,
// if they are fetched once more.
func (f *form) verify(x *filters.Exchange, token string, d *digest) (*verified, *verifier, *failure, *keySet) {
	p, bad := parse(token)
	if bad != nil {
		return nil, nil, bad, nil
	}
	bad = failIssuer
	var keys *keySet
	for _, v := range f.verifiers {
		if !v.takes(p) {
			continue
		}
		ok, fail, wait := v.verify(token, p, d, x.Now)
		if fail == nil {
			return ok, v, nil, nil
		}
		if bad = fail; wait {
			keys = v.keys
		}
	}
	return nil, nil, bad, keys
}

// sanitize removes the fields that only rules may write, also in the spelling with underscores that CGI and
// its like (WSGI, Rack, PHP) take for the same.
func (s *step) sanitize(r *mesh.Request) {
	if len(s.strip)+len(s.likes) == 0 || !slices.ContainsFunc(r.Fields, s.claims) {
		return
	}
	r.Fields = slices.DeleteFunc(r.Fields, s.claims)
}

func (s *step) claims(f mesh.Field) bool {
	return slices.ContainsFunc(s.strip, func(name string) bool { return alike(f.Name, name) }) ||
		slices.ContainsFunc(s.likes, func(name string) bool { return alike(f.Name, name) }) && !slices.Contains(s.likes, f.Name)
}

// alike compares names, with - and _ as the same.
func alike(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if x, y := a[i], b[i]; x != y && (x != '-' && x != '_' || y != '-' && y != '_') {
			return false
		}
	}
	return true
}
