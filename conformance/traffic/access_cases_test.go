package traffic

import "testing"

// TestAccess has the cases of AccessPolicy, which is Cairn's own: Envoy has no part in them.
func TestAccess(t *testing.T) { runGroup(t, "access", accessCases) }

const (
	ours      = "AccessPolicy is Cairn's"
	ofEcho    = `{group: "", kind: Service, name: echo}`
	ofPort    = `{group: "", kind: Service, name: echo, sectionName: http-more}`
	ofRoute   = `{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}`
	ofRule    = `{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: one}`
	oneOfTwo  = "  - name: one\n    matches: [{path: {value: /one}}]\n    backendRefs: [{name: echo, port: 80}]\n  - name: two\n    backendRefs: [{name: echo, port: 80}]"
	ofAccess  = "access_denied_matched_policy[ns[$NS]-policy[p]-rule["
	ofNothing = "rbac_access_denied_matched_policy[none]"
)

var accessCases = []testCase{
	{
		name: "access-allow", of: "effect allow: what a rule matches passes, the rest is answered 403", alone: ours,
		yaml: access("p", ofEcho, "enforce", `- {name: readers, effect: allow, when: "request.method == 'GET' && source.service_account == 'client'"}`),
		prove: steps(
			asks(with("GET"), no(with("POST")), no(ask{account: "other"})), recorded("POST", "403 -", ofNothing),
		),
	},
	{
		name: "access-deny", of: "effect deny goes before allow, and the access log names the rule", alone: ours,
		keep: access("q", ofEcho, "enforce", `- {name: all, effect: allow, when: "true"}`),
		yaml: access("p", ofEcho, "enforce", `- {name: no-admin, effect: deny, when: "request.url_path.startsWith('/admin')"}`),
		prove: steps(
			asks(get("/"), no(get("/admin/x")), no(get("/x/../admin"))), recorded("/admin/x", "403 -", ofAccess+"no-admin]]"),
		),
	},
	{
		name: "access-require", of: "effect require refuses what does not hold", alone: ours,
		yaml: access("p", ofEcho, "enforce", `- {name: tenant, effect: require, when: "request.headers['x-tenant'].matches('^[a-z]+$')"}`),
		prove: steps(
			asks(header("x-tenant", "abc"), no(header("x-tenant", "ABC")), no(ask{path: "/missing"})), recorded("/missing", "403 -", ofAccess+"tenant]]"),
		),
	},
	{
		name: "access-error", of: "a rule that cannot be evaluated admits nobody, and refuses where it is of deny", alone: ours,
		yaml: access("p", ofEcho, "enforce", `- {effect: allow, when: "request.headers['x-a'] == '1'"}
- {effect: allow, when: "request.url_path == '/open'"}
- {effect: deny, when: "request.url_path == '/b' && request.headers['x-b'] == '1'"}`),
		prove: asks(header("x-a", "1"), no(ask{}), get("/open"), no(ask{path: "/b", headers: []string{"x-a", "1"}}), ask{path: "/b", headers: []string{"x-a", "1", "x-b", "2"}}),
	},
	{
		name: "access-dry-run", of: "mode dryRun refuses nothing, and where it would have done something else is counted", alone: ours,
		keep:  access("v1", ofEcho, "enforce", `- {effect: allow, when: "request.method in ['GET', 'PUT']"}`),
		yaml:  access("v2", ofEcho, "dryRun", `- {effect: allow, when: "request.method in ['GET', 'POST']"}`),
		prove: steps(asks(with("GET"), with("PUT"), no(with("POST")), no(with("DELETE"))), counted(1, "", "cairn_authz_disagreements_total", `policy="v2"`, `would="deny"`), counted(1, "", "cairn_authz_disagreements_total", `policy="v2"`, `would="allow"`)),
	},
	{
		name: "access-versions", of: "several versions in dry run, each judged as if it stood alone", alone: ours,
		keep: access("v1", ofEcho, "enforce", `- {effect: allow, when: "true"}`) + access("v2", ofEcho, "dryRun", `- {effect: deny, when: "request.method == 'GET'"}`),
		yaml: access("v3", ofEcho, "dryRun", `- {effect: deny, when: "request.method == 'PUT'"}`), twin: access("v3", ofEcho, "dryRun", `- {effect: deny, when: "false"}`),
		prove: steps(asks(with("GET"), with("PUT"), with("PUT")), counted(1, "", "cairn_authz_disagreements_total", `policy="v2"`, `would="deny"`), counted(2, "", "cairn_authz_disagreements_total", `policy="v3"`, `would="deny"`)),
	},
	{
		name: "access-audit", of: "mode audit refuses nothing and counts what a rule matches", alone: ours,
		yaml:  access("p", ofEcho, "audit", `- {effect: deny, when: "request.method == 'DELETE'"}`),
		prove: steps(asks(with("GET"), with("DELETE")), counted(1, "", "cairn_authz_audited_total", `policy="p"`, `policy_kind="AccessPolicy"`)),
	},
	{
		name: "access-shared-allow", of: "ALLOW policies and allow rules are one set: either admits", alone: ours,
		keep:  authz("q", "ALLOW", `- to: [{operation: {methods: [GET]}}]`),
		yaml:  access("p", ofEcho, "enforce", `- {effect: allow, when: "request.method == 'PUT'"}`),
		prove: asks(with("GET"), with("PUT"), no(with("POST"))),
	},
	{
		name: "access-port", of: "a policy on a port of a service", alone: ours, mesh: []svc{{name: "echo", ports: twoPorts}},
		yaml:  access("p", ofPort, "enforce", `- {effect: deny, when: "true"}`),
		prove: asks(ask{port: 80}, no(ask{port: 90})),
	},
	{
		name: "access-route", of: "a policy on a route refuses more than the service's, and one on a rule more than the route's", alone: ours,
		keep: httpRoute("r", oneOfTwo) + access("s", ofEcho, "enforce", `- {effect: deny, when: "request.method == 'DELETE'"}`),
		yaml: access("r", ofRoute, "enforce", `- {effect: require, when: "'x-a' in request.headers"}`) + access("one", ofRule, "enforce", `- {effect: allow, when: "request.headers[?'x-a'].orValue('') == '1'"}`),
		prove: asks(
			no(get("/two")), ask{path: "/two", headers: []string{"x-a", "2"}}, no(ask{path: "/one", headers: []string{"x-a", "2"}}), ask{path: "/one", headers: []string{"x-a", "1"}},
			no(ask{method: "DELETE", path: "/one", headers: []string{"x-a", "1"}}),
		),
	},
	{
		name: "access-who", of: "who asks, and for what service: source.*, connection.*, destination.service", alone: ours,
		yaml: access("p", ofEcho, "enforce", `- {effect: allow, when: "connection.mtls && source.principal == 'cluster.local/ns/$NS/sa/client' && destination.service == 'echo.$NS.svc.cluster.local' && destination.port == 80"}
- {effect: allow, when: "source.namespace == 'other' && source.address.startsWith('127.0.0.1')"}`),
		prove: func(x *trial) error {
			return asks(ask{}, no(ask{account: "b"}), ask{ns: "other"}, no(ask{ns: "other", from: x.net.Next()}))(x)
		},
	},
	{
		name: "access-tcp", of: "at a TCP port: who connects is known, and rules over requests refuse", alone: ours,
		yaml:  access("p", ofEcho, "enforce", `- {effect: deny, when: "source.namespace == '$NS'"}`),
		prove: connects(false),
	},
	{
		name: "access-tcp-allowed", of: "at a TCP port: a rule over who connects admits", alone: ours,
		yaml:  access("p", ofEcho, "enforce", `- {effect: allow, when: "source.namespace == '$NS'"}`),
		twin:  access("p", ofEcho, "enforce", `- {effect: allow, when: "source.namespace == '$NS' && request.method == 'GET'"}`),
		prove: connects(true),
	},
}
