package traffic

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/envoy"
)

func TestBalancers(t *testing.T) {
	runGroup(t, "balancers", slices.Concat(balancerCases, hashCases, placeCases))
}

func lbPolicy(name string, more obj) patch { return onCluster(merged(obj{"lb_policy": name}, more)) }

// evenly proves that each of the pods answers its share of n requests, give or take
// some, and then again of n.
func evenly(n, pods, give int) func(*trial) error {
	once := func(x *trial) error {
		got, err := x.spread(n, ask{})
		if err != nil {
			return err
		}
		for _, count := range got {
			if d := count - n/pods; d > give || d < -give || len(got) != pods {
				return wrongf("%d requests to %d pods were answered as %v", n, pods, got)
			}
		}
		return nil
	}
	return steps(once, once)
}

// slowPod makes the first pod slow and proves that it gets at most so many percent of
// requests that come 8 at a time.
func slowPod(percent int) func(*trial) error {
	return func(x *trial) error {
		p := x.pod("echo-1")
		p.do(sleeps(150 * time.Millisecond)(p))
		err := all(8, func(int) error { _, err := x.spread(25, ask{}); return err })
		if err != nil {
			return err
		}
		if n := p.count.Load(); n*100 > int64(percent)*200 {
			return wrongf("the slow one of %d pods got %d of 200 requests", len(x.pods), n)
		}
		return nil
	}
}

var balancerCases = []testCase{
	{
		name: "round-robin", of: "loadBalancer RoundRobin takes the endpoints in turn", mesh: pods(4),
		yaml: onService("loadBalancer: {policy: RoundRobin}"), envoy: lbPolicy("ROUND_ROBIN", nil), prove: evenly(100, 4, 1),
	},
	{
		name: "round-robin-destination-rule", of: "DestinationRule loadBalancer.simple has the same words", mesh: pods(4),
		yaml: destinationRule("loadBalancer: {simple: ROUND_ROBIN}"), envoy: lbPolicy("ROUND_ROBIN", nil), prove: evenly(100, 4, 1),
	},
	{
		name: "least-request", of: "loadBalancer LeastRequest spares an endpoint that has much to do", mesh: pods(2),
		yaml: onService("loadBalancer: {policy: LeastRequest}"), twin: onService("loadBalancer: {policy: RoundRobin}"),
		envoy: lbPolicy("LEAST_REQUEST", nil), envoyTwin: lbPolicy("ROUND_ROBIN", nil), prove: slowPod(35),
	},
	{
		name: "random", of: "loadBalancer Random takes any", mesh: pods(4), yaml: onService("loadBalancer: {policy: Random}"),
		twin: onService("loadBalancer: {policy: RoundRobin}"), envoy: lbPolicy("RANDOM", nil), envoyTwin: lbPolicy("ROUND_ROBIN", nil),
		prove: func(x *trial) error {
			tr := x.transport(ask{})
			defer tr.CloseIdleConnections()
			before, twice, count := "", 0, map[string]int{}
			for range 200 {
				r, err := x.sendOver(tr, ask{})
				if err != nil {
					return err
				}
				pod := r.header.Get("X-Pod")
				if pod == before {
					twice++
				}
				before = pod
				count[pod]++
			}
			for _, n := range count {
				if n < 25 || n > 80 || len(count) != 4 {
					return wrongf("200 requests were answered as %v", count)
				}
			}
			if twice < 25 || twice > 80 { // a quarter of 200, by chance
				return wrongf("%d of 200 requests went where the one before went", twice)
			}
			return nil
		},
	},
	{
		name: "peak-ewma", of: "loadBalancer PeakEWMA takes what has answered faster lately", mesh: pods(2),
		yaml: onService("loadBalancer: {policy: PeakEWMA}"), twin: onService("loadBalancer: {policy: RoundRobin}"),
		alone: "its build has no peak EWMA", prove: slowPod(25),
	},
	{
		name: "slow-start", of: "loadBalancer.slowStart lets a new endpoint in gradually", mesh: pods(2),
		yaml:  onService("loadBalancer: {policy: RoundRobin, slowStart: {window: 60s, minWeightPercent: 10}}"),
		twin:  onService("loadBalancer: {policy: RoundRobin}"),
		alone: "Envoy is configured once here",
		prove: func(x *trial) error {
			time.Sleep(time.Second) // the first pods are not new to the last one
			p, err := x.addPod(x.c.services()[0])
			if err != nil {
				return err
			}
			if err := x.write(x.manifests()); err != nil {
				return err
			}
			err = eventually(5*time.Second, func() error {
				_, err := x.spread(20, ask{})
				if err == nil && p.count.Load() == 0 {
					err = wrongf("the new pod gets nothing")
				}
				return err
			})
			if err != nil {
				return err
			}
			got, err := x.spread(300, ask{})
			if err == nil && got[p.name] > 60 { // a third is 100
				err = wrongf("300 requests were answered as %v", got)
			}
			return err
		},
	},
	{
		name: "pods-come-and-go", of: "a pod that comes gets requests, and one that goes gets none",
		yaml:  onService("loadBalancer: {policy: RoundRobin}"),
		twin:  onService("loadBalancer: {policy: RoundRobin}"),
		alone: "Envoy is configured once here",
		prove: comeAndGo(true), wrong: comeAndGo(false),
	},
}

// comeAndGo adds a pod, and takes away the one that was there.
func comeAndGo(edit bool) func(*trial) error {
	return func(x *trial) error {
		p, err := x.addPod(x.c.services()[0])
		if err != nil {
			return err
		}
		if edit {
			if err := x.write(x.manifests()); err != nil {
				return err
			}
		}
		if err := eventually(4*time.Second, func() error { _, err := x.check(ask{pod: p.name}); return err }); err != nil {
			return err
		}
		x.pod("echo-1").gone = true
		if err := x.write(x.manifests()); err != nil {
			return err
		}
		return eventually(4*time.Second, func() error { return noneFails(10, ask{pod: p.name})(x) })
	}
}

// sticky proves that requests that are alike go to one pod, and that those of many
// kinds go to several.
func sticky(kinds, least int, as func(x *trial, i int) ask) func(*trial) error {
	return func(x *trial) error {
		used := map[string]bool{}
		for i := range kinds {
			a := as(x, i)
			got, err := x.spread(6, a)
			if err != nil {
				return err
			}
			if len(got) != 1 {
				return wrongf("six requests %s were answered by %v", a, got)
			}
			for pod := range got {
				used[pod] = true
			}
		}
		if len(used) < least {
			return wrongf("%d kinds of requests went to %v only", kinds, used)
		}
		return nil
	}
}

func byHeader(_ *trial, i int) ask {
	return ask{headers: []string{"x-user", fmt.Sprintf("user-%d", i)}}
}

// hashed is an Envoy that hashes by a policy.
func hashed(balancer string, by obj) patch {
	return lbPolicy(balancer, nil).with(patch{route: obj{"hash_policy": list{by}}})
}

var (
	headerHash = obj{"header": obj{"header_name": "x-user"}}
	userHash   = func(policy string) string {
		return onService("loadBalancer: {policy: " + policy + ", hash: [{header: x-user}]}")
	}
)

var hashCases = []testCase{
	{name: "ring-hash", of: "loadBalancer RingHash by a header", mesh: pods(4), yaml: userHash("RingHash"), envoy: hashed("RING_HASH", headerHash), prove: sticky(20, 3, byHeader)},
	{name: "maglev", of: "loadBalancer Maglev by a header", mesh: pods(4), yaml: userHash("Maglev"), envoy: hashed("MAGLEV", headerHash), prove: sticky(20, 3, byHeader)},
	{name: "rendezvous", of: "loadBalancer Rendezvous by a header", mesh: pods(4), yaml: userHash("Rendezvous"), alone: "it has no rendezvous hashing", prove: sticky(20, 3, byHeader)},
	{
		name: "hash-destination-rule", of: "DestinationRule consistentHash has the same words", mesh: pods(4),
		yaml: destinationRule("loadBalancer: {consistentHash: {httpHeaderName: x-user}}"), envoy: hashed("RING_HASH", headerHash), prove: sticky(20, 3, byHeader),
	},
	{
		name: "hash-query", of: "a hash key of a query parameter", mesh: pods(4), yaml: onService("loadBalancer: {policy: Maglev, hash: [{query: user}]}"),
		envoy: hashed("MAGLEV", obj{"query_parameter": obj{"name": "user"}}),
		prove: sticky(20, 3, func(_ *trial, i int) ask { return ask{path: fmt.Sprintf("/x?user=%d", i)} }),
	},
	{
		name: "hash-source", of: "a hash key of the client's address", mesh: pods(4), yaml: onService("loadBalancer: {policy: Maglev, hash: [{sourceIP: true}]}"),
		envoy: hashed("MAGLEV", obj{"connection_properties": obj{"source_ip": true}}),
		prove: sticky(16, 2, func(x *trial, _ int) ask { return ask{from: x.net.Next()} }),
	},
	{
		name: "hash-cookie", of: "a hash key of a cookie, which is made where there is none", mesh: pods(4),
		yaml:  onService("loadBalancer: {policy: Maglev, hash: [{cookie: {name: user, path: /, ttl: 3600s}}]}"),
		envoy: hashed("MAGLEV", obj{"cookie": obj{"name": "user", "ttl": "3600s", "path": "/"}}),
		prove: func(x *trial) error {
			used := map[string]bool{}
			for range 12 {
				r, err := x.check(ask{from: x.net.Next(), want: []string{"set-cookie: *"}})
				if err != nil {
					return err
				}
				c, err := http.ParseSetCookie(r.header.Get("set-cookie"))
				if err != nil || c.Name != "user" || c.MaxAge != 3600 || c.Path != "/" {
					return wrongf("cookie %v (%v)", c, err)
				}
				pod := r.header.Get("X-Pod")
				used[pod] = true
				got, err := x.spread(5, ask{headers: []string{"cookie", "other=1; user=" + c.Value}})
				if err != nil || got[pod] != 5 {
					return wrongf("a client of %s went on with %v (%v)", pod, got, err)
				}
			}
			if len(used) < 2 {
				return wrongf("all clients went to %v", used)
			}
			return nil
		},
	},
	{
		name: "hash-several", of: "several hash keys count together, up to one that is terminal", mesh: pods(4),
		yaml:      onService("loadBalancer: {policy: Maglev, hash: [{header: x-user, terminal: true}, {query: q}]}"),
		twin:      onService("loadBalancer: {policy: Maglev, hash: [{header: x-user}, {query: q}]}"),
		envoy:     lbPolicy("MAGLEV", nil).with(patch{route: obj{"hash_policy": list{merged(headerHash, obj{"terminal": true}), obj{"query_parameter": obj{"name": "q"}}}}}),
		envoyTwin: lbPolicy("MAGLEV", nil).with(patch{route: obj{"hash_policy": list{headerHash, obj{"query_parameter": obj{"name": "q"}}}}}),
		prove: func(x *trial) error {
			used := map[string]bool{}
			for i := range 20 {
				r, err := x.check(ask{path: fmt.Sprintf("/?q=%d", i), headers: []string{"x-user", "one"}})
				if err != nil {
					return err
				}
				used[r.header.Get("X-Pod")] = true
			}
			if len(used) != 1 {
				return wrongf("one user went to %v", used)
			}
			return nil
		},
	},
	{
		name: "hash-none", of: "a request without any hash key goes anywhere", mesh: pods(4), untold: true,
		yaml: userHash("Maglev"), envoy: hashed("MAGLEV", headerHash),
		prove: anyPod(ask{}), wrong: anyPod(ask{headers: []string{"x-user", "one"}}),
	},
	{
		name: "ring-hash-disruption", of: "with RingHash the clients of a pod that goes move, and no others", mesh: pods(4), yaml: userHash("RingHash"),
		alone: "Envoy is configured once here", prove: disruption(0),
	},
	{
		name: "maglev-disruption", of: "with Maglev the clients of a pod that goes move, and few others", mesh: pods(4), yaml: userHash("Maglev"),
		alone: "Envoy is configured once here", prove: disruption(8),
	},
	{
		name: "rendezvous-disruption", of: "with Rendezvous the clients of a pod that goes move, and no others", mesh: pods(4), yaml: userHash("Rendezvous"),
		alone: "Envoy is configured once here", prove: disruption(0),
	},
}

func anyPod(a ask) func(*trial) error {
	return func(x *trial) error {
		got, err := x.spread(60, a)
		if err == nil && len(got) < 3 {
			err = wrongf("60 requests %s were answered by %v", a, got)
		}
		return err
	}
}

// disruption takes a pod away and counts the clients of others that move.
func disruption(most int) func(*trial) error {
	return func(x *trial) error {
		const users = 60
		at := map[int]string{}
		look := func() (map[int]string, error) {
			out := map[int]string{}
			tr := x.transport(ask{})
			defer tr.CloseIdleConnections()
			for i := range users {
				r, err := x.sendOver(tr, byHeader(x, i))
				if err != nil {
					return nil, err
				}
				out[i] = r.header.Get("X-Pod")
			}
			return out, nil
		}
		at, err := look()
		if err != nil {
			return err
		}
		x.pod("echo-2").gone = true
		if err := x.write(x.manifests()); err != nil {
			return err
		}
		return eventually(4*time.Second, func() error {
			now, err := look()
			if err != nil {
				return err
			}
			moved := 0
			for i, pod := range now {
				switch {
				case pod == "echo-2":
					return wrongf("the pod that has gone still answers")
				case at[i] != "echo-2" && at[i] != pod:
					moved++
				}
			}
			if moved > most {
				return wrongf("%d of %d clients of other pods moved", moved, users)
			}
			return nil
		})
	}
}

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
