package traffic

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestSessions(t *testing.T) { runGroup(t, "sessions", sessionCases) }

// sessionRule is a route of one rule with session persistence.
func sessionRoute(fields, backends string) string {
	return httpRoute("r", "  - sessionPersistence: {"+fields+"}\n    backendRefs: ["+cmp.Or(backends, "{name: echo, port: 80}")+"]")
}

// begin sends a request without a session and returns the pod that answered and the
// header that continues the session.
func (x *trial) begin(header string) (pod string, with []string, cookie *http.Cookie, err error) {
	r, err := x.check(ask{})
	if err != nil {
		return "", nil, nil, err
	}
	pod = r.header.Get("X-Pod")
	if header != "" {
		value := r.header.Get(header)
		if value == "" {
			return "", nil, nil, wrongf("the answer has no %s", header)
		}
		return pod, []string{header, value}, nil, nil
	}
	if cookie, err = http.ParseSetCookie(r.header.Get("Set-Cookie")); err != nil {
		return "", nil, nil, fmt.Errorf("Set-Cookie %q: %w", r.header.Get("Set-Cookie"), err)
	}
	return pod, []string{"Cookie", "other=1; " + cookie.Name + "=" + cookie.Value}, cookie, nil
}

// stays begins sessions and proves that each stays with its pod.
func stays(header string, also func(*http.Cookie) error) func(*trial) error {
	return func(x *trial) error {
		used := map[string]bool{}
		for range 8 {
			pod, with, cookie, err := x.begin(header)
			if err != nil {
				return err
			}
			used[pod] = true
			got, err := x.spread(8, ask{headers: with})
			if err != nil {
				return err
			}
			if got[pod] != 8 {
				return wrongf("a session with %s went on with %v", pod, got)
			}
			if also != nil {
				if err := also(cookie); err != nil {
					return err
				}
			}
		}
		if len(used) < 2 {
			return wrongf("all sessions are with %v", used)
		}
		return nil
	}
}

// stateful is Envoy's filter for sessions.
func stateful(kind string, state obj) patch {
	const pkg = "envoy.extensions.http.stateful_session."
	return patch{port: portHTTP, filters: list{obj{"name": "envoy.filters.http.stateful_session", "typed_config": ext("envoy.extensions.filters.http.stateful_session.v3.StatefulSession", obj{
		"session_state": obj{"name": "envoy.http.stateful_session." + kind, "typed_config": ext(pkg+state["@kind"].(string), state["config"].(obj))},
	})}}}
}

func cookieSession(fields obj) patch {
	return stateful("cookie", obj{"@kind": "cookie.v3.CookieBasedSessionState", "config": obj{"cookie": merged(obj{"name": "shop"}, fields)}})
}

var sessionCases = []testCase{
	{
		name: "session-cookie", of: "sessionPersistence by a cookie that ends with the browser's session (GEP-1619)", mesh: pods(4),
		yaml: sessionRoute("sessionName: shop, type: Cookie", ""), envoy: cookieSession(obj{"path": "/"}),
		prove: stays("", func(c *http.Cookie) error {
			if c.Name != "shop" || c.MaxAge != 0 || !c.Expires.IsZero() {
				return wrongf("the cookie is %v", c)
			}
			return nil
		}),
	},
	{
		name: "session-cookie-permanent", of: "sessionPersistence by a cookie that lives for absoluteTimeout", mesh: pods(4),
		yaml:  sessionRoute("sessionName: shop, type: Cookie, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}", ""),
		envoy: cookieSession(obj{"path": "/", "ttl": "3600s"}),
		prove: stays("", func(c *http.Cookie) error {
			if c.Name != "shop" || c.MaxAge != 3600 {
				return wrongf("the cookie is %v", c)
			}
			return nil
		}),
	},
	{
		name: "session-header", of: "sessionPersistence by a header", mesh: pods(4),
		yaml:  sessionRoute("sessionName: x-shop, type: Header", ""),
		envoy: stateful("header", obj{"@kind": "header.v3.HeaderBasedSessionState", "config": obj{"name": "x-shop"}}),
		prove: stays("x-shop", nil),
	},
	{
		name: "session-policy", of: "TrafficPolicy sessionPersistence of a service", mesh: pods(4),
		yaml: onService("sessionPersistence: {sessionName: shop, type: Cookie}"), envoy: cookieSession(obj{"path": "/"}), prove: stays("", nil),
	},
	{
		name: "session-xbackend", of: "XBackendTrafficPolicy sessionPersistence", mesh: pods(4), envoy: cookieSession(obj{"path": "/"}),
		yaml: `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: p, namespace: $NS}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  sessionPersistence: {sessionName: shop, type: Cookie}
`,
		prove: stays("", nil),
	},
	{
		name: "session-weighted", of: "a session stays with the backend that it began with, whatever the weights", mesh: []svc{{name: "echo"}, {name: "v1", pods: 2}, {name: "v2", pods: 2}},
		yaml:  sessionRoute("sessionName: shop, type: Cookie", "{name: v1, port: 80, weight: 1}, {name: v2, port: 80, weight: 1}"),
		twin:  httpRoute("r", "  - backendRefs: [{name: v1, port: 80}, {name: v2, port: 80}]"),
		prove: stays("", nil), alone: "it chooses among weighted clusters before it looks at the session",
	},
	{
		name: "session-scale-up", of: "a session survives that pods are added", mesh: pods(2), yaml: sessionRoute("sessionName: shop, type: Cookie", ""),
		alone: "Envoy is configured once here",
		prove: func(x *trial) error {
			pod, with, _, err := x.begin("")
			if err != nil {
				return err
			}
			for range 3 {
				if _, err := x.addPod(x.c.services()[0]); err != nil {
					return err
				}
			}
			if err := x.write(x.manifests()); err != nil {
				return err
			}
			if err := eventually(5*time.Second, func() error { _, err := x.check(ask{pod: "echo-5"}); return err }); err != nil {
				return err
			}
			return noneFails(20, ask{headers: with, pod: pod})(x)
		},
	},
	{
		name: "session-pod-gone", of: "when a session's pod has gone another is chosen and the cookie set anew", mesh: pods(3), yaml: sessionRoute("sessionName: shop, type: Cookie", ""),
		alone: "Envoy is configured once here",
		prove: func(x *trial) error {
			pod, with, _, err := x.begin("")
			if err != nil {
				return err
			}
			x.pod(pod).gone = true
			if err := x.write(x.manifests()); err != nil {
				return err
			}
			return eventually(5*time.Second, func() error {
				r, err := x.check(ask{headers: with, want: []string{"set-cookie: *"}})
				if err != nil {
					return err
				}
				other := r.header.Get("X-Pod")
				c, err := http.ParseSetCookie(r.header.Get("Set-Cookie"))
				if err != nil || other == pod {
					return wrongf("answered by %s (%v)", other, err)
				}
				return noneFails(10, ask{headers: []string{"Cookie", "shop=" + c.Value}, pod: other})(x)
			})
		},
	},
	{
		name: "session-forged", of: "a client cannot name an address as its session", mesh: []svc{{name: "echo", pods: 2}, {name: "secret"}}, untold: true,
		yaml: sessionRoute("sessionName: shop, type: Cookie", ""), envoy: cookieSession(obj{"path": "/"}),
		prove: func(x *trial) error {
			at := netip.AddrPortFrom(x.pod("secret-1").addr, appHTTP).String()
			for _, value := range []string{at, base64.StdEncoding.EncodeToString([]byte(at)), base64.RawURLEncoding.EncodeToString([]byte(at)), "secret-1", strings.Repeat("A", 3000)} {
				if _, err := x.check(ask{headers: []string{"Cookie", "shop=" + value}, pod: "echo"}); err != nil {
					return err
				}
			}
			return nil
		},
		wrong: func(x *trial) error {
			_, err := x.check(ask{svc: "secret", pod: "echo"})
			return err
		},
	},
}
