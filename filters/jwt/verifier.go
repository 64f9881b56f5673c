package jwt

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cairnproxy.dev/cairn/mesh"
)

// defaultSkew is Envoy's.
const defaultSkew = 60 * time.Second

// verifier is a rule: an issuer, its keys, and what was verified with them. All steps of that rule share it.
type verifier struct {
	rule *mesh.JWTRule
	keys *keySet
	skew int64 // seconds
	// known is made with the first token.
	known atomic.Pointer[table]
}

func newVerifier(rule *mesh.JWTRule, k *keySet) *verifier {
	skew := rule.ClockSkew
	if skew == 0 {
		skew = defaultSkew
	}
	return &verifier{rule: rule, keys: k, skew: int64(skew / time.Second)}
}

// recall returns the token if it was verified before.
func (v *verifier) recall(d *digest) *verified {
	t := v.known.Load()
	if t == nil {
		return nil
	}
	return t.get(d, v.keys.current.Load())
}

// takes reports whether a token is of the verifier's issuer. A rule without one takes all.
func (v *verifier) takes(p *parsed) bool { return v.rule.Issuer == "" || v.rule.Issuer == p.issuer }

// verify verifies a token. wait, with a failure, says that other keys may help.
func (v *verifier) verify(token string, p *parsed, d *digest, now time.Time) (ok *verified, f *failure, wait bool) {
	if f := v.timely(p.begins, p.expires, now); f != nil {
		return nil, f, false
	}
	if len(v.rule.Audiences) > 0 && !slices.ContainsFunc(p.audience, func(a string) bool {
		return slices.ContainsFunc(v.rule.Audiences, func(b string) bool { return sameAudience(a, b) })
	}) {
		return nil, failAudience, false
	}
	ks := v.keys.current.Load()
	if ks == nil {
		return nil, failFetch, true
	}
	// What is read here is read a second time, by the library that verifies it: the two have to agree.
	sig, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(sig.Signatures) != 1 || sig.Signatures[0].Protected.Algorithm != string(p.alg) {
		return nil, failForm, false
	}
	tried, found := ks.find(p.kid, p.alg, func(public any) bool {
		_, err := sig.Verify(public)
		return err == nil
	})
	switch {
	case tried == 0:
		return nil, failNoKey, true
	case !found:
		// Keys without names may have been replaced without a trace.
		return nil, failSignature, p.kid == "" || !ks.names(p.kid)
	}
	out := v.accept(p, *d, ks)
	if len(token) <= maxKept {
		v.keep(out, now)
	}
	return out, nil, false
}

func (v *verifier) keep(out *verified, now time.Time) {
	t := v.known.Load()
	if t == nil {
		v.known.CompareAndSwap(nil, new(table))
		t = v.known.Load()
	}
	t.put(out, now.Unix()-v.skew)
}

// timely says what is wrong with a token's times; nil for nothing.
func (v *verifier) timely(begins, expires int64, now time.Time) *failure {
	t := now.Unix()
	switch {
	case expires != 0 && t > expires+v.skew:
		return failExpired
	case begins > t+v.skew:
		return failEarly
	}
	return nil
}

// sameAudience compares as Envoy does: without scheme and without a slash at the end.
func sameAudience(a, b string) bool { return a == b || bare(a) == bare(b) }

func bare(s string) string {
	for _, scheme := range [...]string{"https://", "http://"} {
		if len(s) > len(scheme) && s[:len(scheme)] == scheme {
			s = s[len(scheme):]
			break
		}
	}
	if n := len(s); n > 0 && s[n-1] == '/' {
		s = s[:n-1]
	}
	return s
}
