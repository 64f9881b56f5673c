package traffic

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"cairnproxy.dev/cairn/conformance/envoy"
)

// byZone puts the pods of echo, which are on nodes in turn, into groups.
func byZone(groups ...envoy.Group) patch {
	return patch{services: func(x *trial, services []envoyService) []envoyService {
		for i := range services {
			s := &services[i]
			if !strings.HasPrefix(s.Host, "echo.") {
				continue
			}
			port := s.Endpoints[0].Port()
			s.Groups = nil
			for n, g := range groups {
				g.Endpoints = []netip.AddrPort{netip.AddrPortFrom(x.podsOf("echo")[n].addr, port)}
				s.Groups = append(s.Groups, g)
			}
		}
		return services
	}}
}

// places is the service echo with one pod on each of the nodes.
func places(spec string, nodes ...string) []svc {
	return []svc{{name: "echo", pods: len(nodes), local: nodes, spec: spec}}
}

// only proves that pods, by number, answer and no others.
func only(pods ...int) func(*trial) error {
	return func(x *trial) error {
		got, err := x.spread(40, ask{})
		if err != nil {
			return err
		}
		for _, n := range pods {
			if name := fmt.Sprintf("echo-%d", n); got[name] == 0 || len(got) != len(pods) {
				return wrongf("40 requests were answered by %v, want pods %v", got, pods)
			}
		}
		return nil
	}
}

// thenRefusing proves what happens once a pod refuses connections, and is ejected for it.
func thenRefusing(name string, then func(*trial) error) func(*trial) error {
	return func(x *trial) error {
		x.pod(name).answer(503)
		return eventually(4*time.Second, func() error { return then(x) })
	}
}

var (
	zoneGroups  = byZone(envoy.Group{Zone: "z1"}, envoy.Group{Zone: "z2", Priority: 1}, envoy.Group{Zone: "z3", Priority: 2})
	ejecting    = onService("retry: {attempts: 0}\noutlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 60s, maxEjectionPercent: 100}")
	ejectingToo = noRetries.with(outlier(obj{"consecutive_5xx": 2, "enforcing_consecutive_5xx": 100, "max_ejection_percent": 100, "base_ejection_time": "60s"}))
)

var placeCases = []testCase{
	{
		name: "locality-prefer-close", of: "trafficDistribution PreferClose keeps to the waypoint's zone", mesh: places("trafficDistribution: PreferClose", "beside", "around", "far"),
		envoy: zoneGroups, prove: only(1), untold: true, wrong: only(1, 2, 3),
	},
	{
		name: "locality-same-zone", of: "trafficDistribution PreferSameZone", mesh: places("trafficDistribution: PreferSameZone", "beside", "around", "far"),
		envoy: zoneGroups, prove: only(1), untold: true, wrong: only(1, 2, 3),
	},
	{
		name: "locality-same-node", of: "trafficDistribution PreferSameNode", mesh: places("trafficDistribution: PreferSameNode", "near", "beside", "far"),
		envoy: zoneGroups, prove: only(1), untold: true, wrong: only(1, 2),
	},
	{
		name: "locality-none", of: "without a preference all zones are alike", mesh: places("", "beside", "around", "far"),
		prove: only(1, 2, 3), untold: true, wrong: only(1),
	},
	{
		name: "locality-spill", of: "when the endpoints of the zone fail, those of the next nearest are used", mesh: places("trafficDistribution: PreferClose", "beside", "around", "far"),
		yaml: ejecting, envoy: zoneGroups.with(ejectingToo), envoyTwin: zoneGroups.with(noRetries), twin: noRetry(""), prove: thenRefusing("echo-1", only(2)),
	},
	{
		name: "locality-failover", of: "DestinationRule localityLbSetting.failover names the region that follows", mesh: places("", "beside", "far", "farther"),
		yaml:  ejecting + destinationRule("loadBalancer: {localityLbSetting: {enabled: true, failover: [{from: r1, to: r3}]}}\noutlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 60s, maxEjectionPercent: 100}"),
		twin:  ejecting,
		envoy: byZone(envoy.Group{Zone: "z1"}, envoy.Group{Zone: "z3", Priority: 2}, envoy.Group{Zone: "z4", Priority: 1}).with(ejectingToo), envoyTwin: ejectingToo,
		prove: func(x *trial) error {
			if err := only(1)(x); err != nil {
				return err
			}
			return thenRefusing("echo-1", only(3))(x)
		},
	},
	{
		name: "locality-distribute", of: "DestinationRule localityLbSetting.distribute weighs localities", mesh: places("", "beside", "around", "far"),
		yaml:  destinationRule(`loadBalancer: {localityLbSetting: {enabled: true, distribute: [{from: "r1/z1/*", to: {"r1/z1/*": 20, "r1/z2/*": 80}}]}}` + "\noutlierDetection: {}"),
		envoy: byZone(envoy.Group{Zone: "z1", Weight: 20}, envoy.Group{Zone: "z2", Weight: 80}).with(onCluster(obj{"common_lb_config": obj{"locality_weighted_lb_config": obj{}}})),
		prove: func(x *trial) error {
			got, err := x.spread(300, ask{})
			if err == nil && (got["echo-3"] > 0 || got["echo-2"] < 200 || got["echo-1"] < 25) {
				err = wrongf("300 requests were answered as %v", got)
			}
			return err
		},
	},
	{
		name: "locality-failover-priority", of: "DestinationRule failoverPriority ranks endpoints by labels", mesh: places("", "beside", "around", "far"),
		yaml:  destinationRule(`loadBalancer: {localityLbSetting: {enabled: true, failoverPriority: ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"]}}` + "\noutlierDetection: {}"),
		envoy: zoneGroups, prove: only(1),
	},
	{
		name: "subset", of: "a backend by labels: an ExtensionRef to a policy with a subset", mesh: []svc{{name: "echo", pods: 4, each: []map[string]string{{"version": "v1"}, {"version": "v2"}, {"version": "v1"}, {"version": "v2"}}}},
		yaml: httpRoute("r", `
  - matches: [{path: {value: /one}}]
    backendRefs: [{name: echo, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: one}}]}]
  - backendRefs: [{name: echo, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: two}}]}]`) +
			unattached("one", "loadBalancer: {subset: {labels: {version: v1}}}") + unattached("two", "loadBalancer: {subset: {labels: {version: v2}}}"),
		envoy: subsets,
		prove: func(x *trial) error {
			for path, want := range map[string][]string{"/one": {"echo-1", "echo-3"}, "/two": {"echo-2", "echo-4"}} {
				got, err := x.spread(40, ask{path: path})
				if err != nil {
					return err
				}
				if len(got) != 2 || got[want[0]] == 0 || got[want[1]] == 0 {
					return wrongf("%s was answered by %v, want %v", path, got, want)
				}
			}
			return nil
		},
	},
	{
		name: "subset-destination-rule", of: "a backend by the name of a DestinationRule's subset", mesh: []svc{{name: "echo", pods: 2, each: []map[string]string{{"version": "v1"}, {"version": "v2"}}}},
		yaml: httpRoute("r", `
  - matches: [{path: {value: /one}}]
    backendRefs: [{name: echo, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: one}}]}]
  - backendRefs: [{name: echo, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: two}}]}]`) +
			unattached("one", "loadBalancer: {subsetName: v1}") + unattached("two", "loadBalancer: {subsetName: v2}") +
			"\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: $NS}\nspec:\n  host: echo\n  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]\n",
		envoy: subsets,
		prove: func(x *trial) error {
			if err := noneFails(10, ask{path: "/one", pod: "echo-1"})(x); err != nil {
				return err
			}
			return noneFails(10, ask{path: "/two", pod: "echo-2"})(x)
		},
	},
	{
		name: "subset-empty", of: "a subset without endpoints answers 503", mesh: []svc{{name: "echo", pods: 1}},
		yaml: httpRoute("r", "  - backendRefs: [{name: echo, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: none}}]}]") +
			unattached("none", "loadBalancer: {subset: {labels: {version: none}}}"),
		envoy: subsets, prove: asks(ask{status: 503}),
	},
}

// subsets is a patch for routes whose first leads to v1 and the second to v2: endpoints
// are told apart by the label version.
var subsets = patch{
	cluster: obj{"lb_subset_config": obj{"fallback_policy": "NO_FALLBACK", "subset_selectors": list{obj{"keys": list{"version"}}}}},
	services: func(x *trial, services []envoyService) []envoyService {
		for i := range services {
			s := &services[i]
			s.Metadata = map[string]obj{}
			for _, p := range x.pods {
				for _, e := range s.Endpoints {
					if e.Addr() == p.addr {
						s.Metadata[e.String()] = obj{"metadata": obj{"filter_metadata": obj{"envoy.lb": obj{"version": p.labels["version"]}}}}
					}
				}
			}
			for _, r := range s.Routes {
				action, version := r.(obj)["route"].(obj), "none"
				switch match := r.(obj)["match"].(obj); {
				case match["path_separated_prefix"] == "/one":
					version = "v1"
				case len(x.pods) > 1:
					version = "v2"
				}
				action["metadata_match"] = obj{"filter_metadata": obj{"envoy.lb": obj{"version": version}}}
			}
		}
		return services
	},
}
