package object

import (
	"math/big"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

var balancers = map[string]mesh.BalancerPolicy{
	"":             mesh.BalanceDefault,
	"LeastRequest": mesh.BalanceLeastRequest,
	"RoundRobin":   mesh.BalanceRoundRobin,
	"Random":       mesh.BalanceRandom,
	"RingHash":     mesh.BalanceRingHash,
	"Maglev":       mesh.BalanceMaglev,
	"Rendezvous":   mesh.BalanceRendezvous,
	"PeakEWMA":     mesh.BalancePeakEWMA,
}

func hashes(k mesh.BalancerPolicy) bool {
	return k == mesh.BalanceRingHash || k == mesh.BalanceMaglev || k == mesh.BalanceRendezvous
}

// Sizes that Envoy takes, too.
const (
	maxRingSize  = 8 << 20
	maxTableSize = 5_000_011
)

// trafficBalancer is nil where a policy says no more than which endpoints there are.
func (t *translator) trafficBalancer(o *Object, in *TrafficBalancer) *mesh.Balancer {
	if in == nil {
		return nil
	}
	const path = "spec.loadBalancer"
	t.trafficSubset(o, path, in)
	if in.Policy == "" && in.Hash == nil && in.RingSize == nil && in.TableSize == nil && in.Locality == nil && in.SlowStart == nil {
		if in.Subset == nil && in.SubsetName == "" {
			t.bad(o, path, "it says nothing; add policy, locality, slowStart or subset")
		}
		return nil
	}
	kind, ok := balancers[in.Policy]
	if !ok {
		t.bad(o, path+".policy", "%q is not known; use %s", clip(in.Policy), choice(sortedKeys(balancers)[1:]))
		return nil
	}
	out := &mesh.Balancer{Policy: o.Name, Kind: kind}
	switch {
	case hashes(kind) && len(in.Hash) == 0:
		t.bad(o, path+".hash", "policy %s needs something to hash; add a header, a cookie, a query or sourceIP", in.Policy)
	case !hashes(kind) && in.Hash != nil:
		t.bad(o, path+".hash", "only RingHash, Maglev and Rendezvous hash; choose one of them or remove hash")
	}
	t.atMost(o, path+".hash", len(in.Hash), 16)
	for i := range in.Hash {
		out.Hash = append(out.Hash, t.trafficHash(o, elem(path+".hash", i), &in.Hash[i]))
	}
	if r := in.RingSize; r != nil {
		out.RingMin = uint64(t.optional(o, path+".ringSize.min", r.Min, 1, maxRingSize))
		out.RingMax = uint64(t.optional(o, path+".ringSize.max", r.Max, 1, maxRingSize))
		if kind != mesh.BalanceRingHash {
			t.bad(o, path+".ringSize", "only RingHash has a ring; remove ringSize")
		}
		if out.RingMax > 0 && out.RingMax < max(out.RingMin, 1) || out.RingMax > 0 && r.Min == nil && out.RingMax < 1024 {
			t.bad(o, path+".ringSize.max", "it is less than min (%d); raise it", max(out.RingMin, 1024))
		}
	}
	if in.TableSize != nil {
		out.TableSize = t.tableSize(o, path+".tableSize", *in.TableSize)
		if kind != mesh.BalanceMaglev {
			t.bad(o, path+".tableSize", "only Maglev has a table; remove tableSize")
		}
	}
	if l := in.Locality; l != nil {
		out.Locality = t.locality(o, path+".locality", l)
	}
	if s := in.SlowStart; s != nil {
		out.SlowStart = &mesh.SlowStart{
			Window:     t.positive(o, path+".slowStart.window", &s.Window),
			Aggression: t.fraction(o, path+".slowStart.aggression", s.Aggression, 0, 0.1, 100),
			MinPercent: t.optional(o, path+".slowStart.minWeightPercent", s.MinWeightPercent, 1, 100),
		}
		if hashes(kind) {
			t.bad(o, path+".slowStart", "policy %s gives each key its endpoint, new or not; remove slowStart", in.Policy)
		}
	}
	return out
}

func (t *translator) trafficSubset(o *Object, path string, in *TrafficBalancer) {
	if in.Subset != nil {
		if len(in.Subset.Labels) == 0 {
			t.bad(o, path+".subset.labels", "the subset has no labels; add those of its endpoints")
		}
		t.checkLabels(o, path+".subset.labels", in.Subset.Labels)
	}
	if in.SubsetName != "" {
		if in.Subset != nil {
			t.bad(o, path+".subsetName", "subset and subsetName exclude each other; remove one")
		}
		if !isLabelValue(in.SubsetName) {
			t.bad(o, path+".subsetName", "%q is not the name of a subset; use the one in the DestinationRule", clip(in.SubsetName))
		}
	}
}

func (t *translator) tableSize(o *Object, path string, n int64) uint64 {
	if n < 2 || n > maxTableSize || !big.NewInt(n).ProbablyPrime(0) { // which is exact below 2⁶⁴
		t.bad(o, path, "%d is not a prime of at most %d; use one such as 65537", n, maxTableSize)
		return 0
	}
	return uint64(n)
}

func (t *translator) trafficHash(o *Object, path string, in *TrafficHash) mesh.HashKey {
	out := mesh.HashKey{Terminal: in.Terminal}
	sources := 0
	if in.Header != "" {
		sources++
		out.Kind, out.Name = mesh.HashHeader, strings.ToLower(in.Header)
		if !isToken(in.Header) {
			t.bad(o, path+".header", "%q is not the name of a header; use letters, digits and '-'", clip(in.Header))
		}
	}
	if c := in.Cookie; c != nil {
		sources++
		out.Kind, out.Name, out.Path = mesh.HashCookie, c.Name, c.Path
		t.cookie(o, path+".cookie", c.Name, c.Path)
		out.TTL = t.duration(o, path+".cookie.ttl", c.TTL)
		out.Session = c.TTL != nil && out.TTL == 0
	}
	if in.Query != "" {
		sources++
		out.Kind, out.Name = mesh.HashQuery, in.Query
	}
	if in.SourceIP {
		sources++
		out.Kind = mesh.HashSource
	}
	if sources != 1 {
		t.bad(o, path, "a hash has one source; give exactly one of header, cookie, query and sourceIP")
	}
	return out
}

// cookie checks a cookie that is sent to clients: nothing else may get into the field.
func (t *translator) cookie(o *Object, path, name, at string) {
	if !isToken(name) {
		t.bad(o, path+".name", "%q is not the name of a cookie; use letters, digits, '-' and '_'", clip(name))
	}
	if at != "" && (!strings.HasPrefix(at, "/") || strings.ContainsAny(at, ";, \t") || !isFieldValue(at)) {
		t.bad(o, path+".path", "%q is not a cookie's path; begin it with '/' and use no ';'", clip(at))
	}
}

func (t *translator) locality(o *Object, path string, in *TrafficLocality) *mesh.LocalityPolicy {
	out := &mesh.LocalityPolicy{Off: in.Enabled != nil && !*in.Enabled, FailoverLabels: in.FailoverPriority}
	kinds := 0
	if len(in.Distribute) > 0 {
		kinds++
	}
	if len(in.Failover) > 0 {
		kinds++
		out.Failover = map[string]string{}
	}
	if len(in.FailoverPriority) > 0 {
		kinds++
	}
	if kinds > 1 {
		t.bad(o, path, "distribute, failover and failoverPriority exclude each other; keep one")
	}
	for i, d := range in.Distribute {
		at := elem(path+".distribute", i)
		t.localityPattern(o, at+".from", d.From)
		sum := 0
		for _, to := range sortedKeys(d.To) {
			t.localityPattern(o, at+".to", to)
			sum += int(min(d.To[to], 1000))
		}
		if sum != 100 {
			t.bad(o, at+".to", "the percentages add up to %d; make it 100", sum)
		}
		out.Distribute = append(out.Distribute, mesh.LocalityWeights{From: d.From, To: d.To})
	}
	for i, f := range in.Failover {
		at := elem(path+".failover", i)
		switch _, dup := out.Failover[f.From]; {
		case f.From == "" || strings.ContainsAny(f.From, "/*"):
			t.bad(o, at+".from", "%q is not a region; name one", clip(f.From))
		case f.To == "" || strings.ContainsAny(f.To, "/*") || f.To == f.From:
			t.bad(o, at+".to", "%q is not another region; name one", clip(f.To))
		case dup:
			t.bad(o, at+".from", "region %q fails over twice; remove one", clip(f.From))
		}
		out.Failover[f.From] = f.To
	}
	for i, l := range in.FailoverPriority {
		key, value, _ := strings.Cut(l, "=")
		if !isLabelKey(key) || !isLabelValue(value) {
			t.bad(o, elem(path+".failoverPriority", i), "%q is not a label; write KEY or KEY=VALUE", clip(l))
		}
	}
	return out
}

// localityPattern checks "region/zone/subzone", of which the end may be "*".
func (t *translator) localityPattern(o *Object, path, s string) {
	parts := strings.Split(s, "/")
	ok := len(parts) <= 3
	for i, p := range parts {
		ok = ok && p != "" && (p == "*" && i == len(parts)-1 || !strings.Contains(p, "*"))
	}
	if !ok {
		t.bad(o, path, "%q is not a locality; write region/zone/subzone, with \"*\" at most as the end", clip(s))
	}
}
