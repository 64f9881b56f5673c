package upstream

import "cairnproxy.dev/cairn/mesh"

// rank returns how much nearer w is to source than others, as the service wants it;
// false when w is not to be used at all. It follows ztunnel:
//
//   - the rank is the number of leading preferences in which both agree
//   - when the first preference is the network, agreeing in it outweighs all
//     others, and disagreeing does not end the comparison
//   - failover takes the highest rank there is, strict only agreement in all
func rank(v *mesh.Service, source, w *mesh.Workload) (int, bool) {
	if source == nil || v.Locality != mesh.LocalityFailover && v.Locality != mesh.LocalityStrict {
		return 0, true
	}
	prefs := v.RoutingPreferences
	all, n := true, 0
	if len(prefs) > 0 && prefs[0] == "NETWORK" {
		if agree("NETWORK", source, w) {
			n = len(prefs)
		} else {
			all = false
		}
		prefs = prefs[1:]
	}
	for _, p := range prefs {
		if !agree(p, source, w) {
			all = false
			break
		}
		n++
	}
	return n, all || v.Locality == mesh.LocalityFailover
}

func agree(scope string, a, b *mesh.Workload) bool {
	switch scope {
	case "NETWORK":
		return a.Network == b.Network
	case "REGION":
		return a.Region == b.Region
	case "ZONE":
		return a.Zone == b.Zone
	case "SUBZONE":
		return a.Subzone == b.Subzone
	case "NODE":
		return a.Node == b.Node
	case "CLUSTER":
		return a.ClusterID == b.ClusterID
	}
	return false
}
