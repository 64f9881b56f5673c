package localxds_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/localxds"
	"github.com/google/go-cmp/cmp"
)

const probe = `workloads:
- {uid: cluster1//v1/Pod/default/client, name: client, namespace: default, serviceAccount: client, trustDomain: cluster.local, workloadName: client, workloadType: deployment, canonicalName: client, canonicalRevision: v1, clusterId: Kubernetes, workloadIps: ["10.77.0.1"], protocol: HBONE, node: n1, network: "", services: {}}
- uid: cluster1//v1/Pod/default/hole
  name: hole
  namespace: default
  workloadIps: ["10.77.0.9", "fd00::9"]
  protocol: TCP
  networkMode: HostNetwork
  status: Unhealthy
  capacity: 3
  locality: {region: r, zone: z, subzone: s}
  waypoint: {destination: default/wp.default.svc.cluster.local, hboneMtlsPort: 15008}
  authorizationPolicies: [default/p]
  services: {"default/svc.default.svc.cluster.local": {80: 8080}}
policies:
- {name: p, namespace: default, scope: Namespace, action: Deny, dryRun: false, rules: [[[{principals: [!Prefix "cluster.local/ns/bad", !Exact x], notSourceIps: ["10.0.0.0/8", 1.2.3.4]}]], [[{notPrincipals: [!Presence []], serviceAccounts: [{namespace: a, serviceAccount: b}], destinationPorts: [80]}, {namespaces: [!Suffix y]}], []]]}
- {name: all, namespace: "", scope: Global, action: Allow, dryRun: true, rules: []}
services:
- {name: svc, namespace: default, hostname: svc.default.svc.cluster.local, vips: ["/10.96.0.1"], ports: {443: 8443, 80: 8080}, subjectAltNames: [], waypoint: {destination: /10.96.0.2, hboneMtlsPort: 15009}, loadBalancer: {routingPreferences: [Network, Zone], mode: Failover, healthPolicy: OnlyHealthy}}
`

func TestParse(t *testing.T) {
	got, problems := localxds.Parse("x.yaml", []byte(probe))
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	at := func(line int) mesh.Origin { return mesh.Origin{Source: "localxds", File: "x.yaml", Line: line} }
	addr, block := netip.MustParseAddr, netip.MustParsePrefix
	key := mesh.ServiceKey{Namespace: "default", Hostname: "svc.default.svc.cluster.local"}
	want := mesh.Parts{
		Workloads: []*mesh.Workload{{
			UID: "cluster1//v1/Pod/default/client", Name: "client", Namespace: "default", ServiceAccount: "client", TrustDomain: "cluster.local",
			WorkloadName: "client", WorkloadType: "deployment", CanonicalName: "client", CanonicalRevision: "v1", ClusterID: "Kubernetes",
			Addresses: []netip.Addr{addr("10.77.0.1")}, Protocol: mesh.TunnelHBONE, Node: "n1", Ready: true, Capacity: 1, Origin: at(2),
		}, {
			UID: "cluster1//v1/Pod/default/hole", Name: "hole", Namespace: "default", HostNetwork: true, Capacity: 3,
			Addresses: []netip.Addr{addr("10.77.0.9"), addr("fd00::9")}, Region: "r", Zone: "z", Subzone: "s",
			Waypoint: &mesh.WaypointRef{Service: mesh.ServiceKey{Namespace: "default", Hostname: "wp.default.svc.cluster.local"}, Port: 15008},
			Policies: []string{"default/p"}, Services: map[mesh.ServiceKey]map[uint16]uint16{key: {80: 8080}}, Origin: at(3),
		}},
		L4Policies: []*mesh.L4Policy{{
			Name: mesh.Name{Namespace: "default", Name: "p"}, Scope: mesh.ScopeNamespace, Action: mesh.ActionDeny,
			Rules: [][][]mesh.L4Match{{{{
				Principals:   []mesh.L4String{{Kind: mesh.L4Prefix, Value: "cluster.local/ns/bad"}, {Kind: mesh.L4Exact, Value: "x"}},
				NotSourceIPs: []netip.Prefix{block("10.0.0.0/8"), block("1.2.3.4/32")},
			}}}, {{{
				NotPrincipals:    []mesh.L4String{{Kind: mesh.L4Presence}},
				ServiceAccounts:  []mesh.Name{{Namespace: "a", Name: "b"}},
				DestinationPorts: []uint16{80},
			}, {
				Namespaces: []mesh.L4String{{Kind: mesh.L4Suffix, Value: "y"}},
			}}, {}}},
		}, {Name: mesh.Name{Name: "all"}, DryRun: true}},
		Services: []*mesh.Service{{
			Key: key, Name: "svc", VIPs: []netip.Addr{addr("10.96.0.1")},
			Ports:           []mesh.ServicePort{{Port: 80, TargetPort: 8080}, {Port: 443, TargetPort: 8443}},
			SubjectAltNames: []string{}, Waypoint: &mesh.WaypointRef{Address: addr("10.96.0.2"), Port: 15009},
			Locality: mesh.LocalityFailover, RoutingPreferences: []string{"NETWORK", "ZONE"}, Origin: at(19),
		}},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("parts (-want +got):\n%s", d)
	}
	snap := mesh.NewSnapshot(1, got)
	if w := snap.WorkloadAt("", addr("10.77.0.1")); w == nil || w.Name != "client" {
		t.Errorf("10.77.0.1 is %+v, want client", w)
	}
}

func TestProblems(t *testing.T) {
	tests := map[string]struct {
		old, new string // what to change in probe
		line     int
		field    string
		message  string
	}{
		"unknown":         {"capacity: 3", "capcity: 3", 10, "workloads[1].capcity", `did you mean "capacity"?`},
		"plain-map":       {`!Exact x`, `{Exact: x}`, 16, "policies[0].rules[0][0][0].principals[1]", "has no tag"},
		"no-tag":          {`!Exact x`, `x`, 16, "policies[0].rules[0][0][0].principals[1]", "has no tag"},
		"presence":        {`!Presence []`, `!Presence x`, 16, "policies[0].rules[1][0][0].notPrincipals[0]", "takes no value"},
		"tag-list":        {`!Exact x`, `!Exact [x]`, 16, "policies[0].rules[0][0][0].principals[1]", "takes a string"},
		"block":           {`10.0.0.0/8`, `10.0.0.0/33`, 16, "policies[0].rules[0][0][0].notSourceIps[0]", "not a valid value"},
		"ip":              {`"10.77.0.1"`, `"10.77.0.256"`, 2, "workloads[0].workloadIps[0]", "not a valid value"},
		"protocol":        {"protocol: TCP", "protocol: MTLS", 7, "workloads[1].protocol", "use TCP or HBONE"},
		"no-services":     {`network: "", services: {}`, `network: ""`, 2, "workloads[0].services", "add it"},
		"no-dry-run":      {"action: Deny, dryRun: false", "action: Deny", 16, "policies[0].dryRun", "add it"},
		"scope":           {"scope: Namespace", "scope: Everywhere", 16, "policies[0].scope", "use Global or"},
		"vip":             {`"/10.96.0.1"`, `"10.96.0.1"`, 19, "services[0].vips[0]", "write NETWORK/IP"},
		"no-ports":        {"ports: {443: 8443, 80: 8080}, ", "", 19, "services[0].ports", "add it"},
		"port-range":      {"443: 8443", "70000: 8443", 19, "services[0].ports[70000]", "0 to 65535"},
		"same-uid":        {"Pod/default/hole", "Pod/default/client", 3, "workloads[1].uid", "workloads[0]"},
		"waypoint":        {"destination: /10.96.0.2", "destination: 10.96.0.2", 19, "services[0].waypoint.destination", "write NETWORK/IP"},
		"waypoint-port":   {", hboneMtlsPort: 15009", "", 19, "services[0].waypoint.hboneMtlsPort", "add it"},
		"preference":      {"[Network, Zone]", "[Network, Rack]", 19, "services[0].loadBalancer.routingPreferences[1]", "use Region"},
		"service-key":     {`"default/svc.default.svc.cluster.local": {`, `"svc": {`, 14, "workloads[1].services[svc]", "NAMESPACE/HOSTNAME"},
		"syntax":          {"  name: hole", "  name hole", 4, "", "YAML syntax"},
		"two-documents":   {"policies:\n", "...\n---\npolicies:\n", 17, "", "one document"},
		"network-gateway": {"capacity: 3", "networkGateway: {destination: /1.2.3.4, hboneMtlsPort: 1}", 10, "workloads[1].networkGateway", "not supported yet"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(probe, tt.old, tt.new, 1)
			if text == probe {
				t.Fatalf("%q is not in the sample", tt.old)
			}
			_, problems := localxds.Parse("x.yaml", []byte(text))
			if len(problems) != 1 {
				t.Fatalf("problems: %v, want one", problems)
			}
			p := problems[0]
			if p.File != "x.yaml" || p.Line != tt.line || p.Field != tt.field || !strings.Contains(p.Message, tt.message) {
				t.Errorf("got %v\nwant line %d, field %s, %q", p, tt.line, tt.field, tt.message)
			}
		})
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local.yaml")
	if _, problems := localxds.ReadFile(path); len(problems) != 1 || !strings.Contains(problems[0].Message, "correct the path") {
		t.Errorf("problems of a missing file: %v", problems)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if parts, problems := localxds.ReadFile(path); len(problems) > 0 || len(parts.Workloads) > 0 {
		t.Errorf("an empty file gives %v, %v", parts, problems)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(probe))
	f.Fuzz(func(t *testing.T, data []byte) {
		parts, problems := localxds.Parse("x.yaml", data)
		if len(problems) == 0 {
			mesh.NewSnapshot(1, parts)
		}
		for _, p := range problems {
			if p.Message == "" || p.Line < 0 {
				t.Errorf("problem %+v", p)
			}
		}
	})
}
