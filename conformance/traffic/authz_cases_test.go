package traffic

import (
	"slices"
	"strings"
	"testing"
)

func TestAuthz(t *testing.T) {
	runGroup(t, "authz", slices.Concat(authzActionCases, authzSourceCases, authzOperationCases, authzWhenCases, authzTCPCases))
}

// refusedBody is all that a refused client is told.
const refusedBody = "RBAC: access denied"

func refusedAsk(a ask) ask {
	a.status, a.text = 403, refusedBody
	return a
}

// get, post and so on are requests that are answered; no(…) are such that are refused.
func get(path string) ask    { return ask{path: path, pod: "echo-1"} }
func with(method string) ask { return ask{method: method, pod: "echo-1"} }
func no(a ask) ask           { a.pod = ""; return refusedAsk(a) }

const byRule = "rbac_access_denied_matched_policy[ns[$NS]-policy[%]-rule[0]]"

func denials(policy string) string { return strings.Replace(byRule, "%", policy, 1) }

var authzActionCases = []testCase{
	{
		name: "authz-allow", of: "ALLOW: what a rule matches passes, the rest is answered 403",
		yaml: authz("readers", "ALLOW", `- to: [{operation: {methods: [GET]}}]`),
		prove: steps(
			asks(with("GET"), no(with("POST")), no(with("DELETE"))),
			recorded("POST", "403", "rbac_access_denied_matched_policy[none]"),
		),
	},
	{
		name: "authz-deny", of: "DENY: what a rule matches is answered 403, and the access log names it",
		yaml:  authz("no-deletes", "DENY", `- to: [{operation: {methods: [DELETE]}}]`),
		prove: steps(asks(with("GET"), no(with("DELETE"))), recorded("DELETE", "403 -", denials("no-deletes"))),
	},
	{
		name: "authz-deny-over-allow", of: "DENY goes before ALLOW",
		keep:  authz("readers", "ALLOW", `- to: [{operation: {methods: [GET, HEAD]}}]`),
		yaml:  authz("no-secrets", "DENY", `- to: [{operation: {paths: ["/secret*"]}}]`),
		prove: asks(get("/a"), no(get("/secret")), no(get("/secret/1")), no(ask{method: "POST", path: "/a"})),
	},
	{
		name: "authz-allow-nothing", of: "an ALLOW policy without rules allows nothing",
		yaml: strings.Replace(authz("nothing", "ALLOW", ""), "  action: ALLOW\n", "", 1), prove: asks(no(with("GET")), no(with("POST"))),
	},
	{
		name: "authz-deny-nothing", of: "a DENY policy without rules denies nothing",
		yaml: authz("nothing", "DENY", ""), twin: authz("all", "DENY", "- {}"), prove: asks(with("GET"), with("POST")),
	},
	{
		name: "authz-allow-all", of: "an ALLOW policy with an empty rule allows everything, beside one that allows nothing",
		keep: authz("nothing", "ALLOW", ""), yaml: authz("all", "ALLOW", "- {}"), prove: asks(with("GET"), with("DELETE")),
	},
	{
		name: "authz-deny-all", of: "a DENY policy with an empty rule denies everything, whoever allows it",
		keep: authz("all", "ALLOW", "- {}"), yaml: authz("none", "DENY", "- {}"), prove: asks(no(with("GET"))),
	},
	{
		name: "authz-rules", of: "one of several rules, of several policies, is enough",
		yaml: authz("one", "ALLOW", `- to: [{operation: {paths: ["/1"]}}]
- to: [{operation: {paths: ["/2"]}}]`) + authz("two", "ALLOW", `- to: [{operation: {paths: ["/3"]}}, {operation: {paths: ["/4"]}}]`),
		prove: asks(get("/1"), get("/2"), get("/3"), get("/4"), no(get("/5"))),
	},
	{
		name: "authz-conjunction", of: "from, to and when of one rule must all match",
		yaml: authz("p", "ALLOW", `- from: [{source: {serviceAccounts: [$NS/client]}}]
  to: [{operation: {methods: [GET], paths: ["/a"]}}]
  when: [{key: "request.headers[x-a]", values: ["1"]}]`),
		prove: asks(
			ask{path: "/a", headers: []string{"x-a", "1"}},
			no(ask{path: "/a", headers: []string{"x-a", "2"}}), no(ask{path: "/b", headers: []string{"x-a", "1"}}), no(ask{method: "POST", path: "/a", headers: []string{"x-a", "1"}}),
			no(ask{path: "/a", headers: []string{"x-a", "1"}, account: "other"}),
		),
	},
	{
		name: "authz-dry-run-deny", of: "a DENY policy in dry run refuses nothing, and what it would have refused is counted",
		yaml:  inDryRun(authz("try", "DENY", `- to: [{operation: {methods: [DELETE]}}]`)),
		prove: steps(asks(with("GET"), with("DELETE"), with("DELETE")), counted(2, "shadow_denied", "cairn_authz_disagreements_total", `would="deny"`)),
	},
	{
		name: "authz-dry-run-allow", of: "an ALLOW policy in dry run decides nothing beside one in force",
		keep:  authz("readers", "ALLOW", `- to: [{operation: {methods: [GET]}}]`),
		yaml:  inDryRun(authz("try", "ALLOW", `- to: [{operation: {methods: [POST]}}]`)),
		prove: steps(asks(with("GET"), no(with("POST")), no(with("PUT"))), counted(1, "shadow_allowed", "cairn_authz_disagreements_total", `would="allow"`)),
	},
	{
		name: "authz-audit", of: "AUDIT decides nothing, and what it matches is counted", alone: "it marks what its access log should have, and counts nothing",
		yaml:  authz("watch", "AUDIT", `- to: [{operation: {methods: [DELETE]}}]`),
		prove: steps(asks(with("GET"), with("DELETE")), counted(1, "", "cairn_authz_audited_total")),
	},
	{
		name: "authz-h2", of: "each stream of an HTTP/2 connection is judged by itself",
		yaml: authz("readers", "ALLOW", `- to: [{operation: {methods: [GET]}}]`),
		prove: func(x *trial) error {
			a := ask{h2: true}
			tr := x.transport(a)
			defer tr.CloseIdleConnections()
			return all(40, func(i int) error {
				a := []ask{{h2: true}, no(ask{h2: true, method: "POST"})}[i%2]
				r, err := x.sendOver(tr, a)
				if err != nil {
					return err
				}
				return x.compare(a, r)
			})
		},
	},
	{
		name: "authz-changes", of: "a policy that is taken away and put back counts for the next request", alone: "its configuration does not change here",
		yaml: authz("none", "DENY", "- {}"),
		prove: func(x *trial) error {
			if _, err := x.check(no(ask{})); err != nil {
				return err
			}
			before := x.manifests()
			if err := x.write(strings.Replace(before, "action: DENY", "action: AUDIT", 1)); err != nil {
				return err
			}
			if err := eventually(4e9, func() error { _, err := x.check(ask{}); return err }); err != nil {
				return err
			}
			if err := x.write(before); err != nil {
				return err
			}
			return eventually(4e9, func() error { _, err := x.check(no(ask{})); return err })
		},
	},
}

var authzTargetCases = []testCase{
	{
		name: "authz-gateway", of: "targetRefs Gateway: a policy for all that a waypoint serves, beside those of services",
		keep: authz("readers", "ALLOW", `- to: [{operation: {methods: [GET, POST]}}]`),
		yaml: authzAt("mesh", "$NS-p", onWaypoint, "DENY", `- from: [{source: {namespaces: [$NS]}}]
  to: [{operation: {methods: [POST]}}]`),
		prove: asks(with("GET"), no(with("POST")), no(with("PUT")), ask{method: "POST", ns: "elsewhere"}),
	},
	{
		name: "authz-class", of: "targetRefs GatewayClass, from the root namespace: a policy for all waypoints",
		yaml: authzAt(rootNamespace, "$NS-p", `{group: gateway.networking.k8s.io, kind: GatewayClass, name: cairn-waypoint}`, "DENY", `- from: [{source: {namespaces: [$NS]}}]
  to: [{operation: {methods: [POST]}}]`),
		prove: asks(with("GET"), no(with("POST")), ask{method: "POST", ns: "elsewhere"}),
	},
	{
		name: "authz-service", of: "targetRefs Service: the policy is for that service and for no other", mesh: []svc{{name: "echo"}, {name: "other"}},
		yaml: authz("none", "DENY", "- {}"), prove: asks(no(ask{svc: "echo"}), ask{svc: "other", pod: "other-1"}),
	},
	{
		name: "authz-services", of: "several targetRefs of one policy", mesh: []svc{{name: "echo"}, {name: "two"}, {name: "other"}},
		yaml:  authzAt("$NS", "none", `{kind: Service, name: echo}, {kind: Service, name: two}`, "DENY", "- {}"),
		prove: asks(no(ask{svc: "echo"}), no(ask{svc: "two"}), ask{svc: "other", pod: "other-1"}),
	},
	{
		name: "authz-entry", of: "targetRefs ServiceEntry: what is outside the mesh is guarded, too", mesh: entryMesh, keep: serviceEntry(appHTTP, ""), envoy: outside(appHTTP, "", ""), envoyTwin: outside(appHTTP, "", ""),
		yaml:  authzAt("$NS", "readers", `{group: networking.istio.io, kind: ServiceEntry, name: ext}`, "ALLOW", `- to: [{operation: {methods: [GET]}}]`),
		prove: asks(ask{svc: "ext", host: "ext.example", pod: "ext-1"}, no(ask{svc: "ext", host: "ext.example", method: "POST"}), ask{svc: "echo", method: "POST"}),
	},
}

var authzSourceCases = append([]testCase{
	{
		name: "authz-principals", of: "from.principals: whole, by beginning, by end, any",
		yaml: authz("p", "ALLOW", `- from: [{source: {principals: ["cluster.local/ns/$NS/sa/one", "cluster.local/ns/x-$NS/*", "*/sa/three"]}}]`),
		prove: asks(
			ask{account: "one"}, no(ask{account: "one1"}), no(ask{account: "one", ns: "y"}), no(ask{account: "client"}),
			ask{ns: "x-$NS", account: "any"}, ask{account: "three"}, ask{ns: "y", account: "three"},
		),
	},
	{
		name: "authz-principal-any", of: "from.principals [\"*\"] is everybody with an identity; notPrincipals without",
		yaml:  authz("p", "ALLOW", `- from: [{source: {principals: ["*"], notPrincipals: ["*/sa/evil"]}}]`),
		prove: asks(ask{}, no(ask{account: "evil"}), no(ask{account: "evil", ns: "y"})),
	},
	{
		name: "authz-namespaces", of: "from.namespaces, whole and by beginning",
		yaml:  authz("p", "ALLOW", `- from: [{source: {namespaces: ["$NS", "team-*"]}}]`),
		prove: asks(ask{}, ask{ns: "team-a"}, no(ask{ns: "teams"}), no(ask{ns: "$NS-x"})),
	},
	{
		name: "authz-not-namespaces", of: "from.notNamespaces",
		yaml:  authz("p", "DENY", `- from: [{source: {notNamespaces: ["$NS", "friend"]}}]`),
		prove: asks(ask{}, ask{ns: "friend"}, no(ask{ns: "friends"})),
	},
	{
		name: "authz-accounts", of: "from.serviceAccounts and notServiceAccounts",
		yaml:  authz("p", "ALLOW", `- from: [{source: {serviceAccounts: [$NS/one, other/two]}}, {source: {notServiceAccounts: [$NS/one, $NS/client, $NS/two, other/one]}}]`),
		prove: asks(ask{account: "one"}, ask{account: "two", ns: "other"}, no(ask{account: "two"}), no(ask{account: "one", ns: "other"}), no(ask{}), ask{account: "x"}),
	},
	{
		name: "authz-ip", of: "from.ipBlocks: the address that the client's node proxy connects from",
		yaml: authz("p", "ALLOW", `- from: [{source: {ipBlocks: [127.0.0.1, 10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}}]`),
		prove: func(x *trial) error {
			return asks(ask{}, no(ask{from: x.net.Next()}))(x)
		},
	},
	{
		name: "authz-not-ip", of: "from.notIpBlocks",
		yaml:  authz("p", "DENY", `- from: [{source: {notIpBlocks: [127.0.0.1/32]}}]`),
		prove: func(x *trial) error { return asks(ask{}, no(ask{from: x.net.Next()}))(x) },
	},
	{
		name: "authz-remote-ip", of: "from.remoteIpBlocks: without trusted hops it is the client's address, too, whatever the client writes",
		yaml: authz("p", "ALLOW", `- from: [{source: {remoteIpBlocks: [127.0.0.1/32]}}]`), alone: "istiod lets it take the address from X-Forwarded-For",
		prove: func(x *trial) error {
			return asks(ask{headers: []string{"x-forwarded-for", "192.0.2.1"}}, no(ask{from: x.net.Next(), headers: []string{"x-forwarded-for", "127.0.0.1"}}))(x)
		},
	},
}, authzTargetCases...)

var authzOperationCases = []testCase{
	{
		name: "authz-methods", of: "to.methods: whole, by beginning, by end; notMethods",
		yaml:  authz("p", "ALLOW", `- to: [{operation: {methods: [GET, "P*", "*TE"], notMethods: [PATCH]}}]`),
		prove: asks(with("GET"), with("PUT"), with("POST"), with("DELETE"), no(with("PATCH")), no(with("OPTIONS"))),
	},
	{
		name: "authz-paths", of: "to.paths: whole, by beginning, by end, without the query; notPaths",
		yaml: authz("p", "ALLOW", `- to: [{operation: {paths: ["/whole", "/begin/*", "*.html"], notPaths: ["/begin/not", "/begin/not/*"]}}]`),
		prove: asks(
			get("/whole"), get("/whole?x=/y"), no(get("/whole/")), no(get("/Whole")), get("/begin/"), get("/begin/a/b"), no(get("/begin")), get("/x/y.html"), no(get("/x/y.htm")),
			no(get("/begin/not")), no(get("/begin/not/a")), get("/begin/note"), no(get("/?/whole")),
		),
	},
	{
		name: "authz-path-forms", of: "paths are compared in the form in which the workload gets them",
		yaml: authz("p", "DENY", `- to: [{operation: {paths: ["/admin", "/admin/*"]}}]`),
		prove: asks(
			get("/public"), no(get("/admin")), no(get("/admin/")), no(get("/./admin")), no(get("/x/../admin/a")), no(get("/%61dmin")), no(get("/admin/../admin/x")), get("/admin/../public"),
		),
	},
	{
		name: "authz-templates", of: "to.paths with {*} and {**}",
		yaml: authz("p", "ALLOW", `- to: [{operation: {paths: ["/users/{*}/posts/{*}", "/files/{**}", "/v/{*}/all/{**}"]}}]`),
		prove: asks(
			get("/users/a/posts/1"), no(get("/users/a/b/posts/1")), no(get("/users//posts/1")), no(get("/users/a/posts/")), no(get("/users/a/posts/1/2")),
			get("/files/a"), get("/files/a/b/c"), no(get("/file/a")), get("/v/1/all/x/y"), no(get("/v/1/2/all/x")),
		),
	},
	{
		name: "authz-hosts", of: "to.hosts, in any case; notHosts",
		yaml: authz("p", "ALLOW", `- to: [{operation: {hosts: [shop.example, "*.wild.example"], notHosts: [bad.wild.example]}}]`),
		prove: asks(
			ask{host: "shop.example"}, ask{host: "SHOP.example"}, no(ask{host: "shop.example.evil"}), no(ask{host: "x-shop.example"}), ask{host: "a.b.wild.example"}, no(ask{host: "wild.example"}),
			no(ask{host: "bad.wild.example"}), no(ask{host: "BAD.wild.example"}),
		),
	},
	{
		name: "authz-ports", of: "to.ports and notPorts: the service's port", mesh: []svc{{name: "echo", ports: twoPorts}},
		yaml:  authz("p", "ALLOW", `- to: [{operation: {ports: ["80"]}}]`),
		prove: asks(ask{port: 80}, no(ask{port: 90})),
	},
	{
		name: "authz-not-ports", of: "to.notPorts", mesh: []svc{{name: "echo", ports: twoPorts}},
		yaml:  authz("p", "DENY", `- to: [{operation: {notPorts: ["80"]}}]`),
		prove: asks(ask{port: 80}, no(ask{port: 90})),
	},
}

var twoPorts = []svcPort{{"http", 80, appHTTP, "http"}, {"http-more", 90, appHTTP, "http"}}

// header is a request with one header.
func header(name, value string) ask { return ask{headers: []string{name, value}} }

var authzWhenCases = []testCase{
	{
		name: "authz-headers", of: "when request.headers: whole, by beginning, by end, any",
		yaml: authz("p", "ALLOW", `- when: [{key: "request.headers[X-Whole]", values: [one, two]}]
- when: [{key: "request.headers[x-begin]", values: ["pre*"]}]
- when: [{key: "request.headers[x-end]", values: ["*fix"]}]
- when: [{key: "request.headers[x-any]", values: ["*"]}]`),
		prove: asks(
			no(ask{}), header("x-whole", "one"), header("X-WHOLE", "two"), no(header("x-whole", "three")), header("x-begin", "prefix"), no(header("x-begin", "apre")),
			header("x-end", "prefix"), no(header("x-end", "fixe")), header("x-any", "a"),
		),
	},
	{
		name: "authz-header-twice", of: "a header that comes twice: DENY looks at each line, so that a second one hides nothing",
		yaml:  authz("p", "DENY", `- when: [{key: "request.headers[x-role]", values: [admin]}]`),
		prove: asks(header("x-role", "user"), no(header("x-role", "admin")), no(ask{headers: []string{"x-role", "user", "x-role", "admin"}}), no(ask{headers: []string{"x-role", "admin", "x-role", "user"}})),
	},
	{
		name: "authz-header-twice-allow", of: "a header that comes twice: ALLOW takes all lines together for one value, so that a second one adds nothing", alone: "since CVE-2026-26308 it takes each line for a value in ALLOW, too",
		yaml:  authz("p", "ALLOW", `- when: [{key: "request.headers[x-role]", values: [admin]}]`),
		prove: asks(header("x-role", "admin"), no(ask{headers: []string{"x-role", "user", "x-role", "admin"}}), no(ask{headers: []string{"x-role", "admin", "x-role", "user"}})),
	},
	{
		name: "authz-not-headers", of: "when request.headers with notValues: without the header it holds",
		yaml:  authz("p", "ALLOW", `- when: [{key: "request.headers[x-tier]", notValues: [free, "trial*"]}]`),
		prove: asks(ask{}, header("x-tier", "paid"), no(header("x-tier", "free")), no(header("x-tier", "trial-2"))),
	},
	{
		name: "authz-when-source", of: "when source.principal, source.namespace, source.serviceAccount, source.ip",
		yaml: authz("p", "ALLOW", `- when: [{key: source.principal, values: ["cluster.local/ns/$NS/sa/a"]}]
- when: [{key: source.namespace, values: ["near"]}]
- when: [{key: source.serviceAccount, values: ["far/b"]}]
- when: [{key: source.ip, values: ["127.0.0.1"]}, {key: source.namespace, notValues: ["far", "$NS"]}]`),
		prove: func(x *trial) error {
			from := x.net.Next()
			return asks(
				ask{account: "a"}, no(ask{account: "ab"}), ask{ns: "near", from: from}, no(ask{ns: "far"}), ask{ns: "far", account: "b"}, ask{ns: "third"}, no(ask{ns: "third", from: from}),
			)(x)
		},
	},
	{
		name: "authz-when-destination", of: "when destination.ip and destination.port: those of the service", mesh: []svc{{name: "echo", ports: twoPorts}, {name: "other", ports: twoPorts}},
		yaml: authzAt("$NS", "p", `{kind: Service, name: echo}, {kind: Service, name: other}`, "ALLOW", `- when: [{key: destination.ip, values: [$VIP-echo]}, {key: destination.port, values: ["80"]}]
- when: [{key: destination.ip, values: [$VIP-other]}, {key: destination.port, notValues: ["80"]}]`),
		prove: asks(ask{}, no(ask{port: 90}), no(ask{svc: "other"}), ask{svc: "other", port: 90, pod: "other-1"}),
	},
}

var authzTCPCases = []testCase{
	{
		name: "authz-tcp", of: "a TCP port of a waypoint: who may connect", mesh: nil,
		yaml:  authz("p", "ALLOW", `- from: [{source: {namespaces: [friends]}}]`),
		prove: steps(connects(false), recorded("$VIP-echo:82 ", "rbac_access_denied_matched_policy[none]")),
	},
	{
		name: "authz-tcp-allowed", of: "a TCP port of a waypoint: a client that a policy allows is served",
		yaml: authz("p", "ALLOW", `- from: [{source: {namespaces: [$NS]}}]
  to: [{operation: {ports: ["82"]}}]`), twin: authz("p", "ALLOW", `- from: [{source: {namespaces: [$NS]}}]
  to: [{operation: {ports: ["83"]}}]`),
		prove: connects(true),
	},
	{
		name: "authz-tcp-deny", of: "a TCP port of a waypoint: DENY",
		yaml:  authz("p", "DENY", `- from: [{source: {serviceAccounts: [$NS/client]}}]`),
		prove: connects(false),
	},
	{
		name: "authz-tcp-deny-request", of: "DENY with what only requests have: at a TCP port it counts as matching, at an HTTP port it is compared",
		yaml:  authz("p", "DENY", `- to: [{operation: {methods: [DELETE]}}]`),
		prove: steps(connects(false), asks(with("GET"), no(with("DELETE")))),
	},
	{
		name: "authz-tcp-allow-request", of: "ALLOW with what only requests have: at a TCP port it never matches",
		yaml:  authz("p", "ALLOW", `- to: [{operation: {methods: [GET]}}]`),
		prove: steps(connects(false), asks(with("GET"), no(with("DELETE")))),
	},
	{
		name: "authz-tcp-dry-run", of: "a policy in dry run refuses no connection, and what it would have refused is counted",
		yaml:  inDryRun(authz("try", "DENY", `- from: [{source: {namespaces: [$NS]}}]`)),
		prove: steps(connects(true), counted(1, "shadow_denied", "cairn_authz_disagreements_total", `would="deny"`)),
	},
	{
		name: "authz-tcp-audit", of: "AUDIT counts connections, too", alone: "it counts nothing",
		yaml:  authz("watch", "AUDIT", `- from: [{source: {namespaces: [$NS]}}]`),
		prove: steps(connects(true), counted(1, "", "cairn_authz_audited_total")),
	},
}
