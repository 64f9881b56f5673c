package object

import (
	"cmp"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// annotationSkew is how far an issuer's clock may be from ours; Istio's API has no field for it.
const annotationSkew = groupPolicy + "/clock-skew"

// maxJWTRules bounds the rules of a RequestAuthentication, and maxJWTNames each of their lists.
const maxJWTRules, maxJWTNames = 256, 64

// requestAuthentication translates a RequestAuthentication. One with a problem is marked Invalid, so
// that requests with tokens are refused where it is served all the same.
func (t *translator) requestAuthentication(o *Object, v *RequestAuthentication) *mesh.RequestAuthentication {
	spec := &v.Spec
	p := &mesh.RequestAuthentication{Name: o.Name, Origin: o.Origin, Selector: t.policySelector(o, spec.Selector)}
	t.begin()
	// Targets are those of AuthorizationPolicies, under the same names.
	var targets mesh.AuthorizationPolicy
	t.policyTargets(o, &AuthorizationPolicySpec{Selector: spec.Selector, TargetRef: spec.TargetRef, TargetRefs: spec.TargetRefs}, &targets)
	p.TargetRefs = targets.TargetRefs

	skew := t.span(o, "metadata.annotations["+annotationSkew+"]", v.Annotations[annotationSkew])
	if n := len(spec.JWTRules); n > maxJWTRules {
		t.bad(o, "spec.jwtRules", "it has %d rules; at most %d are possible: make several of it", n, maxJWTRules)
		// It is served on to refuse tokens, and to remove what clients put into the headers of all rules.
	}
	for i := range spec.JWTRules {
		r := t.jwtRule(o, elem("spec.jwtRules", i), &spec.JWTRules[i])
		r.ClockSkew = skew
		p.Rules = append(p.Rules, r)
	}
	p.Invalid = t.invalid(o)
	if len(p.TargetRefs) == 0 {
		t.note(o, "only waypoints verify tokens; add targetRefs for one to do so")
	}
	if len(v.Spec.JWTRules) == 0 && p.Invalid == "" {
		t.note(o, "a RequestAuthentication without jwtRules has no effect")
	}
	t.tokenStatus(o, spec.TargetRef != nil, p)
	return p
}

// tokenStatus says what became of p at each of its targets. The trail is of its translation.
func (t *translator) tokenStatus(o *Object, single bool, p *mesh.RequestAuthentication) {
	if len(p.TargetRefs) == 0 {
		return
	}
	t.setStatus(o, targetStatuses(o, single, p.TargetRefs, func(path string, ref mesh.TargetRef, name mesh.Name) mesh.Condition {
		if c, ok := t.targetCondition(conditionAccepted, path); ok {
			return c
		}
		if p.Invalid != "" {
			return badCondition(conditionAccepted, reasonInvalid, p.Invalid+"; until it is corrected requests with tokens are refused here")
		}
		if message := t.unbound(ref, name); message != "" {
			return badCondition(conditionAccepted, reasonNotBound, message)
		}
		return goodCondition(conditionAccepted)
	}))
}

func (t *translator) jwtRule(o *Object, path string, in *JWTRule) mesh.JWTRule {
	r := mesh.JWTRule{
		Issuer: in.Issuer, Audiences: t.jwtNames(o, path+".audiences", in.Audiences), Forward: in.ForwardOriginalToken,
		FromParams: t.jwtNames(o, path+".fromParams", in.FromParams), FromCookies: t.jwtNames(o, path+".fromCookies", in.FromCookies),
		SpaceDelimited: t.jwtNames(o, path+".spaceDelimitedClaims", in.SpaceDelimitedClaims),
		Timeout:        t.span(o, path+".timeout", in.Timeout),
	}
	for i, c := range in.FromCookies {
		if c != "" && !isToken(c) {
			t.bad(o, elem(path+".fromCookies", i), "%q is not the name of a cookie; use letters, digits, '-' and '_'", clip(c))
		}
	}
	t.jwtKeys(o, path, in, &r)
	seen := map[mesh.JWTHeader]bool{}
	for i, h := range in.FromHeaders {
		at, h := elem(path+".fromHeaders", i), mesh.JWTHeader{Name: strings.ToLower(h.Name), Prefix: h.Prefix}
		switch {
		case !isToken(h.Name):
			t.bad(o, at+".name", "%q is not a valid header name; use letters, digits and '-'", clip(h.Name))
		case h.Name == "cookie":
			t.bad(o, at+".name", "a cookie is not read as a header; use fromCookies")
		case !isFieldValue(strings.TrimRight(h.Prefix, " ")):
			t.bad(o, at+".prefix", "%q cannot stand in a header; remove control characters and spaces before it", clip(h.Prefix))
		case seen[h]:
			t.bad(o, at, "header %s is named twice; keep one", clip(h.Name))
		}
		seen[h] = true
		r.FromHeaders = append(r.FromHeaders, h)
	}
	t.jwtOutputs(o, path, in, &r)
	return r
}

// jwtNames checks a list of texts.
func (t *translator) jwtNames(o *Object, path string, list []string) []string {
	if len(list) > maxJWTNames {
		t.bad(o, path, "the list has %d entries; at most %d are possible", len(list), maxJWTNames)
		return nil
	}
	for i, s := range list {
		if s == "" {
			t.bad(o, elem(path, i), "an empty value names nothing; fill it or remove it")
		}
	}
	return list
}

// jwtKeys checks where the keys of a rule come from.
func (t *translator) jwtKeys(o *Object, path string, in *JWTRule, r *mesh.JWTRule) {
	uri, at := in.JWKSURI, path+".jwksUri"
	if uri == "" && in.JWKSURIOld != "" {
		uri, at = in.JWKSURIOld, path+".jwks_uri"
	}
	switch {
	case in.JWKS != "" && uri != "":
		t.bad(o, path+".jwks", "jwks and jwksUri exclude each other; remove one")
	case in.JWKS != "":
		r.JWKS = in.JWKS
		if problem := checkJWKS(in.JWKS); problem != "" {
			t.bad(o, path+".jwks", "%s", problem)
		}
	case uri != "":
		r.JWKSURI = t.jwksURI(o, at, uri)
	case in.Issuer == "":
		t.bad(o, path+".issuer", "without an issuer there is nowhere to get keys from; add issuer, jwksUri or jwks")
	case !isWebURL(in.Issuer):
		t.bad(o, path+".jwksUri", "issuer %q is not a URL with an OpenID configuration; add jwksUri or jwks", clip(in.Issuer))
	}
}

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == ""
}

// jwksURI checks a place of keys. That of a file is relative to the manifest's folder.
func (t *translator) jwksURI(o *Object, path, s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		t.bad(o, path, "%q is not a URL; write it like https://login.example.com/keys", clip(s))
	case u.User != nil:
		t.bad(o, path, "the URL has a user or a password in it; remove it: public keys need none")
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return s
	case u.Scheme != "file":
		t.bad(o, path, "%q is not a place of keys; use an http, https or file URL", clip(s))
	case o.Origin.File == "":
		t.bad(o, path, "a file can only be named in a manifest that is one; use jwks, or an http or https URL")
	default:
		name := cmp.Or(u.Opaque, u.Host+u.Path)
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(o.Origin.File), name)
		}
		if abs, err := filepath.Abs(name); err == nil {
			name = abs
		}
		t.noteKeyFile(o, path, name)
		return "file://" + name
	}
	return ""
}

// unwritable are the headers that a claim cannot be put into: they say where a request goes, how long it is, and
// who sends it.
var unwritable = []string{
	"host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade", "te", "trailer",
	"cookie", "x-forwarded-client-cert", "x-forwarded-proto", "x-request-id",
}

// jwtOutputs checks the headers that a rule writes.
func (t *translator) jwtOutputs(o *Object, path string, in *JWTRule, r *mesh.JWTRule) {
	taken := map[string]bool{}
	header := func(at, s string) string {
		s = strings.ToLower(s)
		switch {
		case !isToken(s):
			t.bad(o, at, "%q is not a valid header name; use letters, digits and '-'", clip(s))
		case slices.Contains(unwritable, s):
			t.bad(o, at, "header %s has a meaning of its own; use another", s)
		case slices.ContainsFunc(in.FromHeaders, func(h JWTHeader) bool { return strings.EqualFold(h.Name, s) }), len(in.FromHeaders) == 0 && s == "authorization":
			t.bad(o, at, "header %s is where tokens are looked for; use another", s)
		case taken[s]:
			t.bad(o, at, "header %s is written twice; keep one", s)
		}
		taken[s] = true
		return s
	}
	if in.OutputPayloadToHeader != "" {
		r.OutputPayloadToHeader = header(path+".outputPayloadToHeader", in.OutputPayloadToHeader)
	}
	if n := len(in.OutputClaimToHeaders); n > maxJWTNames {
		t.bad(o, path+".outputClaimToHeaders", "the list has %d entries; at most %d are possible", n, maxJWTNames)
		// All the same none of them is a client's to write: see jwtRules above.
	}
	for i, c := range in.OutputClaimToHeaders {
		at := elem(path+".outputClaimToHeaders", i)
		if c.Claim == "" {
			t.bad(o, at+".claim", "it names no claim; add one, such as sub, or realm.id for a claim inside another")
		}
		r.OutputClaims = append(r.OutputClaims, mesh.JWTClaimHeader{Header: header(at+".header", c.Header), Claim: c.Claim})
	}
}
