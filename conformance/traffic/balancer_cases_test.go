package traffic

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
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
