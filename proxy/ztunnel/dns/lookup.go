package dns

import (
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// Answer is what the mesh knows of a name.
type Answer struct {
	// Service is what the name means.
	Service *mesh.Service
	// Addrs are its addresses of the family asked for, in no order; maybe none.
	Addrs []netip.Addr
	// Canonical is the name without the search domain that was found at its
	// end, to be told in a CNAME; "" when nothing was stripped.
	Canonical string
}

// SearchDomains are the search domains that a pod of the namespace has.
func SearchDomains(namespace, clusterDomain string) []string {
	return []string{namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}
}

// Lookup finds name (without the final dot, in lower case) for a client. want6
// asks for IPv6 addresses instead of IPv4. ok is false for a name that the mesh
// does not know.
func Lookup(s *mesh.Snapshot, client *mesh.Workload, search []string, name string, want6 bool) (a Answer, ok bool) {
	if svc, _ := find(s, client, name); svc != nil {
		return Answer{Service: svc, Addrs: addresses(s, client, svc, want6)}, true
	}
	for _, domain := range search {
		stripped, ok := strings.CutSuffix(name, "."+domain)
		if !ok || stripped == "" {
			continue
		}
		if svc, wildcard := find(s, client, stripped); svc != nil {
			a := Answer{Service: svc, Addrs: addresses(s, client, svc, want6)}
			if !wildcard {
				a.Canonical = stripped
			}
			return a, true
		}
	}
	return Answer{}, false
}

// find looks for name and the names that it may be short for.
func find(s *mesh.Snapshot, client *mesh.Workload, name string) (svc *mesh.Service, wildcard bool) {
	for _, alias := range expand(name, client.Namespace, s.ClusterDomain) {
		if svc := visible(s, client, alias); svc != nil {
			return svc, false
		}
		for rest := alias; ; {
			_, parent, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if svc := visible(s, client, "*."+parent); svc != nil {
				return svc, true
			}
			rest = parent
		}
	}
	return nil, false
}

// expand lists name and, by its number of labels, the full names that a
// Kubernetes client may mean by it.
func expand(name, namespace, domain string) []string {
	out := []string{name}
	inSvc := strings.HasSuffix(name, ".svc")
	switch strings.Count(name, ".") + 1 {
	case 1:
		out = append(out, name+"."+namespace+".svc."+domain)
	case 2:
		out = append(out, name+".svc."+domain, name+"."+namespace+".svc."+domain)
	case 3:
		if inSvc {
			out = append(out, name+"."+domain)
		}
		out = append(out, name+".svc."+domain)
	case 4:
		if inSvc {
			out = append(out, name+"."+domain)
		}
	}
	return out
}

// visible returns the service with that very hostname which has something to
// answer with: addresses of its own, or, for a headless service of
// Kubernetes, those of its endpoints.
func visible(s *mesh.Snapshot, client *mesh.Workload, hostname string) *mesh.Service {
	svc := s.ServiceByHost(hostname, client.Namespace)
	if svc == nil || (len(svc.VIPs) == 0 && !strings.HasSuffix(hostname, ".svc."+s.ClusterDomain)) {
		return nil
	}
	return svc
}

func addresses(s *mesh.Snapshot, client *mesh.Workload, svc *mesh.Service, want6 bool) []netip.Addr {
	fits := func(a netip.Addr) bool { return a.Is4() != want6 }
	var out []netip.Addr
	if len(svc.VIPs) > 0 {
		if svc.Network != client.Network {
			return nil
		}
		for _, a := range svc.VIPs {
			if fits(a) {
				out = append(out, a)
			}
		}
		return out
	}
	for _, ep := range s.Endpoints(svc.Key) {
		if ep.Workload.Network != client.Network {
			continue
		}
		if i := slices.IndexFunc(ep.Workload.Addresses, fits); i >= 0 {
			out = append(out, ep.Workload.Addresses[i])
		}
	}
	return out
}
