package ztunnel

import (
	"bufio"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

// TestConfigDump compares with what ztunnel prints of the same mesh.
func TestConfigDump(t *testing.T) {
	w := newWorld(t, func(w *world) {
		server := w.parts.Workloads[1]
		server.Node, server.ClusterID, server.WorkloadType, server.WorkloadName = "n1", "Kubernetes", "deployment", "server"
		server.Waypoint, server.Policies, server.Zone = wpRef("ns", "wp"), []string{"ns/p"}, "z1"
		svc := w.parts.Services[0]
		svc.Locality, svc.RoutingPreferences = mesh.LocalityFailover, []string{"NETWORK", "ZONE"}
		svc.Waypoint = &mesh.WaypointRef{Address: ip("10.0.0.9")}
		w.parts.L4Policies = []*mesh.L4Policy{{
			Name: mesh.Name{Namespace: "ns", Name: "p"}, Scope: mesh.ScopeWorkload, Action: mesh.ActionDeny,
			Rules: [][][]mesh.L4Match{{{{
				Principals:   []mesh.L4String{{Kind: mesh.L4Prefix, Value: "cluster.local/ns/bad"}, {Value: "x"}, {Kind: mesh.L4Presence}},
				NotSourceIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, DestinationPorts: []uint16{80},
				NotServiceAccounts: []mesh.Name{{Namespace: "a", Name: "b"}},
			}}}},
		}}
		w.parts.Waypoints = []*mesh.Waypoint{gateway("ns", "wp", w.addr(60))}
	})
	want := `{
	"workload": {"authorizationPolicies":["ns/p"],"capacity":1,"clusterId":"Kubernetes","locality":{"zone":"z1"},"name":"server","namespace":"ns","networkMode":"Standard","node":"n1",
		"protocol":"HBONE","serviceAccount":"server","services":["ns/echo.ns.svc.cluster.local"],"status":"Healthy","trustDomain":"cluster.local","uid":"c//Pod/ns/server",
		"waypoint":{"destination":"ns/wp.ns.svc.cluster.local","hboneMtlsPort":15008},"workloadIps":["ADDR.2"],"workloadName":"server","workloadType":"deployment"},
	"service": {"canonical":true,"endpoints":{"c//Pod/ns/server":{"port":{"8000":8080},"status":"Healthy","workloadUid":"c//Pod/ns/server"}},"hostname":"echo.ns.svc.cluster.local",
		"loadBalancer":{"healthPolicy":"OnlyHealthy","mode":"Failover","routingPreferences":["Network","Zone"]},"name":"echo","namespace":"ns","ports":{"8000":8080},
		"subjectAltNames":[],"vips":["/ADDR.100"],"visibility":"Public","waypoint":{"destination":"/10.0.0.9","hboneMtlsPort":15008}},
	"policy": {"action":"Deny","dryRun":false,"name":"p","namespace":"ns","scope":"WorkloadSelector","rules":[[[{"destinationPorts":[80],"notServiceAccounts":[{"namespace":"a","serviceAccount":"b"}],
		"notSourceIps":["10.0.0.0/8"],"principals":[{"Prefix":"cluster.local/ns/bad"},{"Exact":"x"},{"Presence":[]}]}]]]}
	}`
	want = strings.ReplaceAll(want, "ADDR", strings.TrimSuffix(w.addr(1), ".1"))
	var wanted map[string]any
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	d := dumped(t, w.proxy)
	got := map[string]any{"workload": find(d["workloads"], "server"), "service": find(d["services"], "echo"), "policy": find(d["policies"], "p")}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("dump (-want +got):\n%s", diff)
	}
	bindings := []any{
		map[string]any{"service": "ns/echo.ns.svc.cluster.local", "headless": false, "waypoint": "10.0.0.9", "mode": "strict", "known": false, "readyInstances": 0.0, "identities": []any{}},
		map[string]any{"workload": "c//Pod/ns/server", "forServiceAccount": false, "waypoint": "ns/wp", "mode": "strict", "known": true, "readyInstances": 1.0, "identities": []any{spiffe("ns", "wp")}},
	}
	if diff := cmp.Diff(bindings, d["bindings"]); diff != "" {
		t.Errorf("bindings (-want +got):\n%s", diff)
	}
}

func dumped(t *testing.T, p *Proxy) map[string]any {
	t.Helper()
	b, err := json.Marshal(p.ConfigDump())
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func find(list any, name string) any {
	for _, x := range list.([]any) {
		if x.(map[string]any)["name"] == name {
			return x
		}
	}
	return nil
}

func TestConfigDumpConnections(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", lines)
	c, err := w.dial(1, w.service())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "one\n")
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	state := dumped(t, w.proxy)["workloadState"].(map[string]any)
	connections := func(site, direction string) []any {
		return state[site].(map[string]any)["connections"].(map[string]any)[direction].([]any)
	}
	out, in := connections("loopback", "outbound"), connections("c//Pod/ns/server", "inbound")
	if len(out) != 1 || len(in) != 1 {
		t.Fatalf("connections: %v out, %v in; want one each", out, in)
	}
	want := map[string]any{"src": c.LocalAddr().String(), "originalDst": w.service(), "actualDst": w.addr(2) + ":15008", "protocol": "HBONE"}
	if diff := cmp.Diff(want, out[0]); diff != "" {
		t.Errorf("outbound (-want +got):\n%s", diff)
	}
	if got := in[0].(map[string]any)["actualDst"]; got != w.addr(2)+":8080" {
		t.Errorf("inbound to %v", got)
	}
}
