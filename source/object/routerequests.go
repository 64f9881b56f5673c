package object

import (
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ruleRequests is what a rule itself says of its requests; nil for nothing.
func (t *translator) ruleRequests(r *routeObject, i int) *mesh.RequestPolicy {
	in, path := &r.rules[i], elem("spec.rules", i)
	out := mesh.RequestPolicy{
		Timeouts: t.timeouts(r.Object, path+".timeouts", in.timeouts),
		Retry:    t.retry(r.Object, path+".retry", in.retry),
		Session:  t.session(r.Object, path+".sessionPersistence", in.session, sessionOwner(r, i)),
	}
	if out == (mesh.RequestPolicy{}) {
		return nil
	}
	return &out
}

func (t *translator) timeouts(o *Object, path string, in *gwv1.HTTPRouteTimeouts) *mesh.Timeouts {
	if in == nil {
		return nil
	}
	out := mesh.Timeouts{Request: t.timeout(o, path+".request", in.Request), PerTry: t.timeout(o, path+".backendRequest", in.BackendRequest)}
	if out.Request > 0 && out.PerTry > out.Request {
		t.bad(o, path+".backendRequest", "it is longer than timeouts.request; make it %s or less", *in.Request)
	}
	if out == (mesh.Timeouts{}) {
		return nil
	}
	return &out
}

// timeout is a duration of which 0 means that there is no timeout.
func (t *translator) timeout(o *Object, path string, in *gwv1.Duration) time.Duration {
	if d := t.duration(o, path, in); d > 0 || in == nil {
		return d
	}
	return mesh.Never
}

// defaultAttempts is how often a retry stanza that does not say so tries again; Istio's default.
const defaultAttempts = 2

// maxAttempts bounds what a rule may ask for: each attempt multiplies the load of a bad moment.
const maxAttempts = 100

// retry translates a rule's retry stanza (GEP-1731). Connection errors are tried
// again whenever there is one, as the specification recommends.
func (t *translator) retry(o *Object, path string, in *gwv1.HTTPRouteRetry) *mesh.Retry {
	if in == nil {
		return nil
	}
	out := &mesh.Retry{
		Attempts: deref(in.Attempts, defaultAttempts),
		On:       mesh.RetryConnectFailure | mesh.RetryRefusedStream | mesh.RetryReset | mesh.RetryPerTryTimeout,
	}
	if out.Attempts < 1 || out.Attempts > maxAttempts {
		t.bad(o, path+".attempts", "%d is out of range; use 1 to %d", out.Attempts, maxAttempts)
	}
	for i, c := range in.Codes {
		at := elem(path+".codes", i)
		switch code := int(c); {
		case code < 400 || code > 599:
			t.bad(o, at, "%d is not the status of an error; use 400 to 599", code)
		case slices.Contains(out.Codes, code):
			t.bad(o, at, "code %d is listed twice; remove one", code)
		default:
			out.Codes = append(out.Codes, code)
		}
	}
	if b := t.duration(o, path+".backoff", in.Backoff); b > 0 {
		// No pause may be shorter than what is asked for; a quarter more spreads the tries.
		out.BackoffMin, out.BackoffBase, out.BackoffMax = b, b+b/4, 10*b
	}
	return out
}

// maxSessionName is Gateway API's limit.
const maxSessionName = 128

// session translates sessionPersistence (GEP-1619). owner tells the rules of all routes apart, for
// a session that has no name of its own.
func (t *translator) session(o *Object, path string, in *gwv1.SessionPersistence, owner string) *mesh.Session {
	if in == nil {
		return nil
	}
	out := &mesh.Session{Name: "cairn-session-" + owner}
	switch typ := deref(in.Type, gwv1.CookieBasedSessionPersistence); typ {
	case gwv1.CookieBasedSessionPersistence:
	case gwv1.HeaderBasedSessionPersistence:
		out.Header = true
	default:
		t.bad(o, path+".type", "%q is not known; use Cookie or Header", clip(string(typ)))
	}
	if in.SessionName != nil {
		out.Name = t.sessionName(o, path+".sessionName", *in.SessionName, out.Header)
	}
	if in.AbsoluteTimeout != nil {
		if out.AbsoluteTimeout = t.duration(o, path+".absoluteTimeout", in.AbsoluteTimeout); *in.AbsoluteTimeout != "" && isZero(*in.AbsoluteTimeout) {
			t.bad(o, path+".absoluteTimeout", "a session that ends at once is none; use a longer time or remove it")
		}
	}
	if in.CookieConfig == nil {
		return out
	}
	if out.Header {
		t.bad(o, path+".cookieConfig", "it has no effect with type Header; remove it")
	}
	switch life := deref(in.CookieConfig.LifetimeType, gwv1.SessionCookieLifetimeType); life {
	case gwv1.SessionCookieLifetimeType:
	case gwv1.PermanentCookieLifetimeType:
		out.Permanent = true
		if in.AbsoluteTimeout == nil {
			t.bad(o, path+".absoluteTimeout", "a permanent cookie needs a lifetime; set absoluteTimeout")
		}
	default:
		t.bad(o, path+".cookieConfig.lifetimeType", "%q is not known; use Session or Permanent", clip(string(life)))
	}
	return out
}

func isZero(d gwv1.Duration) bool {
	v, err := time.ParseDuration(string(d))
	return err == nil && v == 0
}

// takenHeaders have a meaning for proxies or browsers that a session would destroy.
var takenHeaders = []string{
	"authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "host", "keep-alive", "location",
	"proxy-authorization", "proxy-connection", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade", "via", "forwarded", "x-forwarded-for",
}

// sessionName checks the name of a session's cookie or header.
func (t *translator) sessionName(o *Object, path, name string, header bool) string {
	lower := strings.ToLower(name)
	switch {
	case len(name) > maxSessionName:
		t.bad(o, path, "the name is %d bytes long; keep it to %d", len(name), maxSessionName)
	case !isToken(name):
		t.bad(o, path, "%q cannot be the name of a cookie or header; use letters, digits, '-' and '_'", clip(name))
	case header && slices.Contains(takenHeaders, lower):
		t.bad(o, path, "header %q has a meaning of its own; use another name, such as x-session", clip(name))
	case !header && (strings.HasPrefix(lower, "__host-") || strings.HasPrefix(lower, "__secure-")):
		t.bad(o, path, "browsers take cookies called __Host- or __Secure- by https alone; use another name")
	}
	if header {
		return lower
	}
	return name
}

// sessionOwner is a short name for a rule, which stays the same when others come and go where it is named.
func sessionOwner(r *routeObject, i int) string {
	rule := elem("rules", i)
	if n := r.rules[i].name; n != nil {
		rule = string(*n)
	}
	return shortHash(r.Kind.Kind, r.Name.Namespace, r.Name.Name, rule)
}
