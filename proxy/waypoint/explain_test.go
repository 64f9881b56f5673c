package waypoint

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// explained is a service with routes and policies of each kind.
func explained(v **mesh.Service) func(*rig) mesh.Parts {
	return func(r *rig) mesh.Parts {
		a, b := r.endpoint("a", named("a"), false), r.endpoint("b", named("b"), false)
		va, vb := r.service("a", 80, mesh.ProtocolHTTP, a), r.service("b", 80, mesh.ProtocolHTTP, b)
		*v = r.service("web", 80, mesh.ProtocolHTTP)
		target := []mesh.TargetRef{{Kind: "Service", Name: "web"}}
		return mesh.Parts{
			Workloads: []*mesh.Workload{a, b}, Services: []*mesh.Service{*v, va, vb},
			Attachments: []mesh.RouteAttachment{
				route("r", 1, *v, mesh.Route{RuleName: "beta", Matches: []mesh.RouteMatch{{Headers: []mesh.NamedMatch{{Name: "x-beta", StringMatch: mesh.StringMatch{Value: "1"}}}}}, Backends: []mesh.Backend{to(vb, 1)}}),
				route("r", 1, *v, mesh.Route{Rule: 1, RuleName: "rest", Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/in")}, Backends: []mesh.Backend{to(va, 3), to(vb, 1)}}),
			},
			Policies: []*mesh.AuthorizationPolicy{
				{Name: mesh.Name{Namespace: "app", Name: "no"}, Action: mesh.ActionDeny, TargetRefs: target, Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"DELETE"}}}}}},
			},
			Access: []*mesh.AccessPolicy{
				{Name: mesh.Name{Namespace: "app", Name: "tenant"}, TargetRefs: target, Rules: []mesh.AccessRule{{Name: "tenant", Effect: mesh.AccessRequire, When: "request.headers['x-tenant'] == 'acme'"}}},
				{Name: mesh.Name{Namespace: "app", Name: "secret"}, Mode: mesh.ModeDryRun, TargetRefs: target, Rules: []mesh.AccessRule{{Effect: mesh.AccessDeny, When: "request.headers['authorization'] == 'x'"}}},
			},
		}
	}
}

// TestExplainWhatWas: what is recorded of a request, asked again, gives the same verdict, route and endpoint, and a
// client that is refused is told the id to ask with.
func TestExplainWhatWas(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, explained(&v))
	c := r.client(v, false)
	for _, tc := range []struct {
		name, method, path, header, value string
		status                            int
		by, rule                          string
	}{
		{"split", "GET", "/in/x", "", "", 200, "", "HTTPRoute app/r rule rest"},
		{"beta", "GET", "/x", "x-beta", "1", 200, "", "HTTPRoute app/r rule beta"},
		{"denied", "DELETE", "/in", "", "", 403, "AuthorizationPolicy app/no rule 0", ""},
		{"not_met", "GET", "/in", "x-tenant", "other", 403, "AccessPolicy app/tenant rule tenant", ""},
		{"no_route", "GET", "/out", "", "", 404, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), tc.method, "http://web.app.svc.cluster.local"+tc.path, nil)
			req.Header.Set("X-Request-Id", tc.name)
			req.Header.Set("X-Tenant", "acme")
			req.Header.Set("Authorization", "Bearer of-nobody")
			if tc.header != "" {
				req.Header.Set(tc.header, tc.value)
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, tc.status)
			}
			if id := resp.Header.Get("X-Request-Id"); tc.status == 403 && (id != tc.name || string(body) != "RBAC: access denied") {
				t.Errorf("refused with id %q, body %q", id, body)
			}
			list := ask[[]*explain.Explanation](t, r.proxy, "GET", "/explain?id="+tc.name, "")
			if len(list) != 1 {
				t.Fatalf("%d explanations, want one", len(list))
			}
			e := list[0]
			text := new(strings.Builder)
			_ = e.WriteText(text)
			if strings.Contains(text.String(), "of-nobody") {
				t.Error("a credential is told")
			}
			if e.Record.Status != tc.status || e.Waypoint.Status != tc.status && tc.status != 200 || e.Waypoint.Status != 0 && tc.status == 200 {
				t.Errorf("recorded %d, explained %d, want %d\n%s", e.Record.Status, e.Waypoint.Status, tc.status, text)
			}
			if by := e.Waypoint.By(); tc.by != "" && by != tc.by || !strings.Contains(e.Configuration, "which served the request") {
				t.Errorf("by %s, want %s\n%s", by, tc.by, text)
			}
			if rule := e.Waypoint.Route.Rule; tc.rule != "" && rule != tc.rule {
				t.Errorf("rule %s, want %s\n%s", rule, tc.rule, text)
			}
			took := 0
			for _, b := range e.Waypoint.Route.Backends {
				for _, ep := range b.Endpoints {
					if ep.Took && b.Took {
						took++
					}
				}
			}
			if (took == 1) != (tc.status == 200) {
				t.Errorf("%d endpoints took it\n%s", took, text)
			}
			if len(e.Notes) != 0 {
				t.Errorf("notes %q, want none: the headers that count are recorded", e.Notes)
			}
		})
	}
	var refused []decision.Record
	err := decision.Read(strings.NewReader(page(t, r.proxy, "GET", "/decisions?refused", "")), func(d decision.Record) error {
		refused = append(refused, d)
		return nil
	})
	if err != nil || len(refused) != 2 {
		t.Errorf("%d records of refusals, %v; want two", len(refused), err)
	}
	for _, d := range refused {
		if _, ok := d.Headers["authorization"]; ok {
			t.Error("credentials are recorded")
		}
	}
}

// TestExplainMadeUp: the same evaluator answers about requests that nobody has sent.
func TestExplainMadeUp(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, explained(&v))
	for _, tc := range []struct {
		name, body, outcome string
	}{
		{"allowed", `{"method":"GET","host":"web.app.svc.cluster.local","path":"/in","headers":[{"name":"X-Tenant","value":"acme"}]}`, "passed on to app/a.app.svc.cluster.local:80 or app/b.app.svc.cluster.local:80"},
		{"refused", `{"method":"GET","host":"web.app.svc.cluster.local","path":"/in"}`, "answered 403 by the waypoint: AccessPolicy app/tenant rule tenant: what a policy requires does not hold"},
		{"normalised", `{"method":"GET","host":"web.app.svc.cluster.local","path":"/out/../in","headers":[{"name":"x-tenant","value":"acme"}]}`, "passed on to app/a"},
		{"bad path", `{"method":"GET","host":"web.app.svc.cluster.local","path":"/%00"}`, "answered 400"},
		{"unknown", `{"method":"GET","host":"nobody","path":"/"}`, "answered 404 by the waypoint: no service of this waypoint"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list := ask[[]*explain.Explanation](t, r.proxy, "POST", "/explain", tc.body)
			if len(list) != 1 || !strings.HasPrefix(list[0].Outcome, tc.outcome) {
				t.Errorf("%+v, want %s", list[0].Outcome, tc.outcome)
			}
		})
	}
	for _, tc := range []struct {
		method, url, body string
		status            int
	}{{"GET", "/explain", "", 400}, {"POST", "/explain", "{", 400}, {"PUT", "/explain", "", 405}, {"GET", "/decisions?last=x", "", 400}} {
		if got := serve(r.proxy, tc.method, tc.url, tc.body).Code; got != tc.status {
			t.Errorf("%s %s: %d, want %d", tc.method, tc.url, got, tc.status)
		}
	}
}

func TestSecretFields(t *testing.T) {
	for name, want := range map[string]bool{
		"x-tenant": false, "x-user": false, "user-agent": false, "accept": false, "authorization": true, "cookie": true, "x-api-key": true,
		"x-auth-request-user": true, "(token)": true, ":path": true, "x-forwarded-client-cert": true,
	} {
		if secret(name) != want {
			t.Errorf("%s: %v, want %v", name, !want, want)
		}
	}
}

func serve(p *Proxy, method, url, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	req := httptest.NewRequest(method, url, strings.NewReader(body))
	for _, page := range p.Pages() {
		if page.Path == req.URL.Path {
			page.Handler.ServeHTTP(w, req)
		}
	}
	return w
}

func page(t *testing.T, p *Proxy, method, url, body string) string {
	t.Helper()
	w := serve(p, method, url, body)
	if w.Code != 200 {
		t.Fatalf("%s %s: %d %s", method, url, w.Code, w.Body)
	}
	return w.Body.String()
}

func ask[T any](t *testing.T, p *Proxy, method, url, body string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(page(t, p, method, url, body)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
