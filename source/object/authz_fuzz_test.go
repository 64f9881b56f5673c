package object_test

import (
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	engine "cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/source/object"
)

// FuzzAuthorization decodes and translates what users write as policies, and decides by it: nothing may panic; a policy about
// which there is a problem that refuses it, or of which a field could not be read, is Invalid and refuses everything; and what
// knows of a connection alone is never laxer than what sees the request.
func FuzzAuthorization(f *testing.F) {
	const target = "targetRefs: [{group: '', kind: Service, name: web}]"
	for _, s := range []string{
		"action: DENY\nrules: [{from: [{source: {principals: ['*'], trustDomains: [a]}}], to: [{operation: {paths: ['/a/{*}'], hosts: [b]}}]}]",
		"rules: [{when: [{key: 'request.auth.claims[a][b]', values: [c]}]}]", "action: CUSTOM\nprovider: {name: x}\n" + target, "rules: [{}]", "selector: {matchLabels: {a: b}}\nrules: []",
		"action: DENY\nrules: [{from: [{source: {notNamespaces: [shop, 's*'], notIpBlocks: [10.0.0.0/8]}}], to: [{operation: {notPorts: ['80'], notMethods: [GET]}}], when: [{key: source.serviceAccount, notValues: [shop/web]}]}]",
		"action: ALLOW\nrules: [{from: [{source: {serviceAccounts: [shop/web], remoteIpBlocks: ['::/0']}}, {source: {namespaces: ['*']}}], when: [{key: destination.ip, values: [10.0.0.0/8]}, {key: 'request.headers[x-a]', notValues: ['1*']}]}]",
		"rules: [{when: [{key: 'experimental.envoy.filters.network.mysql_proxy[db.table]', values: ['[update]']}]}]",
		"action: DENY\nrules: [{when: [{key: 'experimental.envoy.filters.network.mysql_proxy[db.table]', notValues: ['[update]']}]}]",
		target + "\nmode: dryRun\nrules: [{name: a, effect: deny, when: \"request.path == '/a'\"}]", target + "\nrules: [{effect: require, when: \"request.headers['a'].matches('^b')\"}]", target + "\nrules: {}",
		target + "\nrules: [{effect: allow, when: \"source.namespace == 'shop' && 'x-a' in request.headers\"}]",
	} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, spec string, ours bool) {
		head := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
		if ours {
			head = "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: AccessPolicy\n"
		}
		res, _ := translate(t, "f.yaml", head+"metadata: {name: p}\nspec:\n  "+strings.ReplaceAll(spec, "\n", "\n  ")+"\n---\n"+strings.TrimPrefix(svc, "---\n"), object.Options{})
		wrong := ""
		for _, p := range res.Problems {
			if !p.Served && (p.Object == "AuthorizationPolicy default/p" || p.Object == "AccessPolicy default/p") && !strings.HasPrefix(p.Field, "spec.targetRefs") {
				wrong = p.Field + ": " + p.Message
			}
		}
		for _, p := range res.Parts.Policies {
			if p.Name.Name != "p" {
				continue
			}
			if wrong != "" && p.Invalid == "" {
				t.Fatalf("%q has a problem and is in force: %s", spec, wrong)
			}
			decideBy(t, spec, p)
		}
		for _, p := range res.Parts.Access {
			if p.Name.Name != "p" {
				continue
			}
			if wrong != "" && p.Invalid == "" {
				t.Fatalf("%q has a problem and is in force: %s", spec, wrong)
			}
			l := engine.Compile(engine.Attached{Access: []*mesh.AccessPolicy{p}})
			for _, r := range fuzzRequests {
				if v := l.Decide(r); v.Allowed && p.Invalid != "" && p.Mode == mesh.ModeEnforce {
					t.Fatalf("%q is invalid (%s) and allows: %+v", spec, p.Invalid, v)
				}
			}
		}
	})
}

// decideBy decides by an AuthorizationPolicy, at a waypoint about requests and about their connections, and at a node proxy.
func decideBy(t *testing.T, spec string, p *mesh.AuthorizationPolicy) {
	t.Helper()
	l := engine.CompileL7([]*mesh.AuthorizationPolicy{p})
	free := *p
	free.TargetRefs, free.Selector = nil, nil
	node := engine.CompileL4(mesh.NewSnapshot(1, mesh.Parts{Policies: []*mesh.AuthorizationPolicy{&free}}), &mesh.Workload{Namespace: p.Name.Namespace})
	for _, r := range fuzzRequests {
		v := l.Decide(r)
		if v.Allowed && p.Invalid != "" && p.Action != mesh.ActionAudit && !p.DryRun {
			t.Fatalf("%q is invalid (%s) and allows: %+v", spec, p.Invalid, v)
		}
		facts := engine.L4Facts{Peer: r.Peer.Identity, Source: r.Peer.Addr.Addr(), Destination: r.Destination}
		if c := l.DecideL4(facts); c.Allowed && !v.Allowed {
			t.Fatalf("%q refuses %+v (%+v), and allows its connection: %+v", spec, *r, v, c)
		}
		if c := node.Decide(facts); c.Allowed && !v.Allowed {
			t.Fatalf("%q refuses %+v (%+v), and a node proxy allows its connection: %+v", spec, *r, v, c)
		}
	}
}

var fuzzRequests = func() (out []*mesh.Request) {
	for _, id := range []mesh.Identity{{}, {TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}, {TrustDomain: "td", Namespace: "a", ServiceAccount: "b"}} {
		for _, path := range []string{"/", "/a/b", ""} {
			r := &mesh.Request{
				Method: "GET", Path: path, Authority: "B:80", Host: "b", Fields: mesh.Fields{{Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}},
				Peer:        mesh.Peer{Identity: id, Principal: id.Principal(), Addr: netip.MustParseAddrPort("10.0.0.1:1")},
				Destination: netip.MustParseAddrPort("10.96.0.1:80"),
			}
			if path == "" {
				r.Method, r.Peer.Addr = "POST", netip.MustParseAddrPort("[::1]:1")
				r.Token = &mesh.Token{Principal: "a/b", Claims: map[string]any{"a": map[string]any{"b": "c"}}}
			}
			out = append(out, r)
		}
	}
	return out
}()
