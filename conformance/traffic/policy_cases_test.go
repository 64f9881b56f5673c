package traffic

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/peers"
)

func TestPolicies(t *testing.T) { runGroup(t, "policies", policyCases) }

// TestGatewayPolicy has a waypoint of its own, because its policy is for all that the
// waypoint serves.
func TestGatewayPolicy(t *testing.T) { runGroup(t, "gateway-policy", gatewayCases) }

const attachedElsewhere = "which policy is in force is told before a proxy is configured"

var quick = ask{status: 504, within: 1500 * time.Millisecond}

// aged gives a policy a time of creation.
func aged(policy, name, time string) string {
	return strings.Replace(policy, "{name: p, namespace: $NS}", "{name: "+name+", namespace: $NS, creationTimestamp: \""+time+"\"}", 1)
}

var policyCases = []testCase{
	{
		name: "policy-conflict", of: "of two policies on one target that say the same, the older is in force", alone: attachedElsewhere,
		yaml:  aged(onService("timeout: {request: 300ms}"), "z", "2026-01-01T00:00:00Z") + aged(onService("timeout: {request: 10s}"), "a", "2026-02-01T00:00:00Z"),
		twin:  aged(onService("timeout: {request: 300ms}"), "z", "2026-02-01T00:00:00Z") + aged(onService("timeout: {request: 10s}"), "a", "2026-01-01T00:00:00Z"),
		prove: late(quick),
	},
	{
		name: "policy-merge", of: "two policies on one target that say different things are both in force", alone: attachedElsewhere,
		yaml: aged(onService("timeout: {request: 300ms}"), "a", "2026-01-01T00:00:00Z") + aged(onService("faultInjection: [{match: {headers: [{name: x-test, value: fail}]}, abort: {httpStatus: 418}}]"), "b", "2026-02-01T00:00:00Z"),
		twin: aged(onService("timeout: {request: 300ms}"), "a", "2026-01-01T00:00:00Z"),
		prove: func(x *trial) error {
			if err := late(quick)(x); err != nil {
				return err
			}
			_, err := x.check(ask{headers: []string{"x-test", "fail"}, status: 418})
			return err
		},
	},
	{
		name: "policy-port", of: "a policy on a port of a service goes over the service's", alone: attachedElsewhere,
		keep:  onServiceNamed("s", "timeout: {request: 10s}"),
		yaml:  trafficPolicy("p", `{group: "", kind: Service, name: echo, sectionName: http}`, "timeout: {request: 300ms}"),
		prove: late(quick),
	},
	{
		name: "policy-route", of: "a policy on a route goes over the service's, and one on a rule over that", alone: attachedElsewhere,
		keep: onServiceNamed("s", "timeout: {request: 10s}") + httpRoute("r", "  - name: one\n    matches: [{path: {value: /one}}]\n    backendRefs: [{name: echo, port: 80}]\n  - backendRefs: [{name: echo, port: 80}]"),
		yaml: onRoute("", "timeout: {request: 300ms}") + strings.Replace(onRoute("one", "timeout: {request: 1s}"), "{name: p,", "{name: q,", 1),
		prove: func(x *trial) error {
			if err := late(quick)(x); err != nil {
				return err
			}
			_, err := x.check(ask{path: "/one", status: 504, least: 900 * time.Millisecond})
			return err
		},
	},
	{
		name: "policy-unknown-target", of: "a policy for a service that does not exist is told and harms nobody", alone: attachedElsewhere,
		yaml: trafficPolicy("p", `{group: "", kind: Service, name: nobody}`, "timeout: {request: 300ms}"),
		prove: func(x *trial) error {
			if _, err := x.check(ask{}); err != nil {
				return err
			}
			return x.toldBy("TrafficPolicy", "nobody")
		},
	},
	{
		name: "status-missing-backend", of: "cairn check names object, field and remedy of a backend that does not exist", alone: attachedElsewhere,
		yaml: httpRoute("r", "  - matches: [{path: {value: /x}}]\n    backendRefs: [{name: nobody, port: 80}]\n  - backendRefs: [{name: echo, port: 80}]"),
		prove: func(x *trial) error {
			if _, err := x.check(ask{}); err != nil { // the rest of the route serves
				return err
			}
			return x.toldBy("HTTPRoute", x.ns+"/r", "backendRefs", "nobody", "does not exist")
		},
	},
	{
		name: "status-no-grant", of: "cairn check names a reference that needs a ReferenceGrant", mesh: []svc{{name: "echo"}, {name: "far", ns: "-far"}}, alone: attachedElsewhere,
		yaml:  httpRoute("r", "  - backendRefs: [{name: far, namespace: $NS-far, port: 80}]"),
		prove: func(x *trial) error { return x.toldBy("HTTPRoute", x.ns+"/r", "ReferenceGrant") },
	},
	{
		name: "config-routes", of: "cairn config routes lists routes, their parents, rules, backends and conditions", alone: attachedElsewhere,
		yaml: httpRoute("named-route", "  - name: first-rule\n    matches: [{path: {value: /x}}]\n    backendRefs: [{name: echo, port: 80}]"),
		prove: func(x *trial) error {
			return x.tells([]string{"config", "routes", "--admin", x.admin}, "named-route", "/x", x.ns)
		},
	},
}

var gatewayCases = []testCase{
	{
		name: "gateway-policy", of: "a policy on the waypoint's Gateway is for all that it serves, and a service's goes over it", untold: true, alone: attachedElsewhere,
		yaml: strings.Replace(strings.ReplaceAll(trafficPolicy("$NS", "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}", "timeout: {request: 300ms}"), "namespace: $NS}", "namespace: mesh}"), "\n---", "", 1),
		mesh: []svc{{name: "echo"}, {name: "own"}},
		keep: trafficPolicy("own", `{group: "", kind: Service, name: own}`, "timeout: {request: 10s}"),
		prove: func(x *trial) error {
			if err := late(quick)(x); err != nil {
				return err
			}
			_, err := x.check(ask{svc: "own", headers: []string{"x-do", "after=1s"}})
			return err
		},
		wrong: func(x *trial) error {
			_, err := x.check(ask{svc: "own", headers: []string{"x-do", "after=1s"}, status: 504})
			return err
		},
	},
}

// toldBy proves that a line of `cairn check` has all texts.
func (x *trial) toldBy(texts ...string) error {
	return x.tells([]string{"check", x.file()}, texts...)
}

// tells proves that a line of what Cairn prints has all texts.
func (x *trial) tells(args []string, texts ...string) error {
	path, err := peers.Cairn()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	whole := args[0] == "config" // which is a table: the texts are on several lines
	for line := range strings.Lines(string(out)) {
		if whole {
			line = string(out)
		}
		found := true
		for _, s := range texts {
			found = found && strings.Contains(line, s)
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("cairn %s (%v) has no line with %q: %.600s", args[0], err, texts, out)
}
