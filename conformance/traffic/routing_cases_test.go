package traffic

import "testing"

func TestRouting(t *testing.T) { runGroup(t, "routing", routingCases) }

var versions = []svc{{name: "echo"}, {name: "v1"}, {name: "v2"}}

// httpRoute is an HTTPRoute of the service echo with these rules.
func httpRoute(name, rules string) string {
	return "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: " + name + ", namespace: $NS}\nspec:\n" +
		"  parentRefs: [{group: \"\", kind: Service, name: echo, port: 80}]\n  rules:" + rules + "\n"
}

var routingCases = []testCase{
	{
		name: "path-exact", of: "a path that is matched exactly", mesh: versions,
		yaml: httpRoute("r", `
  - matches: [{path: {type: Exact, value: /one}}]
    backendRefs: [{name: v1, port: 80}]
  - backendRefs: [{name: v2, port: 80}]`),
		prove: asks(
			ask{path: "/one", pod: "v1"}, ask{path: "/one?x=1", pod: "v1"},
			ask{path: "/one/", pod: "v2"}, ask{path: "/One", pod: "v2"}, ask{path: "/one/two", pod: "v2"},
		),
	},
}
