package waypoint

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// TestAccessPolicies: AccessPolicies on a service, on a port of another one, on a route and on one of its rules, with
// a new version in dry run and one that audits, over sockets.
func TestAccessPolicies(t *testing.T) {
	const gateway = "gateway.networking.k8s.io"
	var v, tcp *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		a := r.endpoint("a", named("a"), false)
		va := r.service("a", 80, mesh.ProtocolHTTP, a)
		v, tcp = r.service("web", 80, mesh.ProtocolHTTP), r.service("db", 81, mesh.ProtocolTCP, a)
		access := func(name string, mode mesh.AccessMode, ref mesh.TargetRef, rules ...mesh.AccessRule) *mesh.AccessPolicy {
			return &mesh.AccessPolicy{Name: mesh.Name{Namespace: "app", Name: name}, Mode: mode, TargetRefs: []mesh.TargetRef{ref}, Rules: rules}
		}
		web := mesh.TargetRef{Kind: "Service", Name: "web"}
		return mesh.Parts{
			Workloads: []*mesh.Workload{a}, Services: []*mesh.Service{v, va, tcp},
			Attachments: []mesh.RouteAttachment{
				route("r", 1, v, mesh.Route{RuleName: "one", Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/one")}, Backends: []mesh.Backend{to(va, 1)}}),
				route("r", 2, v, mesh.Route{Rule: 1, RuleName: "two", Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/")}, Backends: []mesh.Backend{to(va, 1)}}),
			},
			Access: []*mesh.AccessPolicy{
				access("v1", mesh.ModeEnforce, web, mesh.AccessRule{Name: "clients", When: "source.service_account == '" + clientID.ServiceAccount + "' && destination.service == 'web.app.svc.cluster.local'"},
					mesh.AccessRule{Name: "no-delete", Effect: mesh.AccessDeny, When: "request.method == 'DELETE'"}),
				access("v2", mesh.ModeDryRun, web, mesh.AccessRule{Effect: mesh.AccessDeny, When: "request.url_path == '/old'"}),
				access("trail", mesh.ModeAudit, web, mesh.AccessRule{When: "request.url_path == '/money'"}),
				access("route", mesh.ModeEnforce, mesh.TargetRef{Group: gateway, Kind: "HTTPRoute", Name: "r"}, mesh.AccessRule{Effect: mesh.AccessRequire, When: "!('x-bad' in request.headers)"}),
				access("rule", mesh.ModeEnforce, mesh.TargetRef{Group: gateway, Kind: "HTTPRoute", Name: "r", Section: "one"}, mesh.AccessRule{Name: "token", When: "request.headers['x-token'] == 'a'"}),
				access("port", mesh.ModeEnforce, mesh.TargetRef{Kind: "Service", Name: "db", Section: "p"}, mesh.AccessRule{Effect: mesh.AccessDeny, When: "request.method == 'GET'"}),
				access("no-port", mesh.ModeEnforce, mesh.TargetRef{Kind: "Service", Name: "web", Section: "other"}, mesh.AccessRule{Effect: mesh.AccessDeny, When: "true"}),
			},
		}
	})
	c := r.client(v, false)
	for _, tc := range []struct {
		name, method, path, header string
		status                     int
	}{
		{"allowed", "GET", "/", "", 200},
		{"denied", "DELETE", "/", "", 403},
		{"dry_run", "GET", "/old", "", 200},
		{"audit", "GET", "/money", "", 200},
		{"route", "GET", "/", "x-bad", 403},
		{"rule", "GET", "/one", "", 403},
		{"rule_allowed", "GET", "/one", "x-token", 200},
		{"no_such_route_is_a_service_matter", "DELETE", "/one", "x-token", 403},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), tc.method, "http://web"+tc.path, nil)
		if tc.header != "" {
			req.Header.Set(tc.header, "a")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.status || tc.status == 403 && string(body) != "RBAC: access denied" {
			t.Errorf("%s: status %d, %q, want %d", tc.name, resp.StatusCode, body, tc.status)
		}
	}
	if conn, err := r.dial(t.Context(), "db.app.svc.cluster.local:81"); err == nil {
		conn.Close()
		t.Error("a connection passed by an expression that looks at requests")
	} else if !strings.Contains(err.Error(), "401") {
		t.Errorf("a connection: %v, want 401", err)
	}
	var metrics strings.Builder
	if err := r.metrics.WriteText(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`cairn_authz_disagreements_total{policy="v2",policy_kind="AccessPolicy",policy_namespace="app",would="deny"} 1`,
		`cairn_authz_audited_total{policy="trail",policy_kind="AccessPolicy",policy_namespace="app"} 1`,
	} {
		if !strings.Contains(metrics.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, metrics.String())
		}
	}
	r.stop()
	for _, want := range []string{
		"access_denied_matched_policy[ns[app]-policy[v1]-rule[no-delete]]", "access_denied_matched_policy[ns[app]-policy[route]-rule[0]]",
		"access_denied_matched_policy[ns[app]-policy[port]-rule[0]]",
	} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("access log lacks %q:\n%s", want, r.log.String())
		}
	}
}

// TestWatchedConnections: what policies in dry run and those that audit say of connections is counted and logged, and
// refuses none.
func TestWatchedConnections(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		r.json = true
		a := r.endpoint("a", named("a"), false)
		v = r.service("db", 81, mesh.ProtocolTCP, a)
		db := []mesh.TargetRef{{Kind: "Service", Name: "db"}}
		everybody := []mesh.AuthzRule{{From: []mesh.AuthzSource{{Principals: []string{"*"}}}}}
		name := func(n string) mesh.Name { return mesh.Name{Namespace: "app", Name: n} }
		return mesh.Parts{
			Workloads: []*mesh.Workload{a}, Services: []*mesh.Service{v},
			Policies: []*mesh.AuthorizationPolicy{
				{Name: name("try"), Action: mesh.ActionDeny, DryRun: true, TargetRefs: db, Rules: everybody},
				{Name: name("log"), Action: mesh.ActionAudit, TargetRefs: db, Rules: everybody},
			},
		}
	})
	conn, err := r.dial(t.Context(), "db.app.svc.cluster.local:81")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	var metrics strings.Builder
	if err := r.metrics.WriteText(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`cairn_authz_disagreements_total{policy="try",policy_kind="AuthorizationPolicy",policy_namespace="app",would="deny"} 1`,
		`cairn_authz_dry_run_total{policy="try",policy_kind="AuthorizationPolicy",policy_namespace="app",verdict="denied"} 1`,
		`cairn_authz_audited_total{policy="log",policy_kind="AuthorizationPolicy",policy_namespace="app"} 1`,
	} {
		if !strings.Contains(metrics.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, metrics.String())
		}
	}
	r.stop()
	if want := `"dry_run":"denied by app/try, audited by app/log"`; !strings.Contains(r.log.String(), want) {
		t.Errorf("access log lacks %s:\n%s", want, r.log.String())
	}
}

// TestAuthzNotes: what the access log says of policies that decide nothing.
func TestAuthzNotes(t *testing.T) {
	var x exchange
	name := func(n string) mesh.Name { return mesh.Name{Namespace: "app", Name: n} }
	n := x.fx.Notes()
	n.WouldAllow, n.Audited = name("v2"), name("trail")
	if got, want := x.dryRun(), "allowed by app/v2, audited by app/trail"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	n.WouldAllow, n.WouldDeny, n.WouldLimit = mesh.Name{}, name("v3"), "app/p/two"
	if got, want := x.dryRun(), "denied by app/v3, audited by app/trail, limited by app/p/two"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
