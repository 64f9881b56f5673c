package manifests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// translate says what the objects mean.
func (o *objects) translate() (*Mesh, error) {
	if len(o.gateways) != 1 {
		return nil, fmt.Errorf("there are %d Gateways, 1 is understood", len(o.gateways))
	}
	if err := o.gateways[0].check(); err != nil {
		return nil, err
	}
	index, err := o.podIndex()
	if err != nil {
		return nil, err
	}
	m, at := &Mesh{}, map[serviceKey][]int{}
	for _, s := range o.services {
		if err := o.bound(s.meta); err != nil {
			return nil, err
		}
		for _, p := range s.Spec.Ports {
			port, err := s.translate(p, index)
			if err != nil {
				return nil, fmt.Errorf("service %s/%s: %w", s.Metadata.Namespace, s.Metadata.Name, err)
			}
			at[s.key()] = append(at[s.key()], len(m.Services))
			m.Services = append(m.Services, port)
		}
	}
	if err := o.addRoutes(m, at); err != nil {
		return nil, err
	}
	return m, o.addPolicies(m, at)
}

type serviceKey struct{ namespace, name string }

func (m meta) key() serviceKey { return serviceKey{m.Metadata.Namespace, m.Metadata.Name} }

func (g gateway) check() error {
	l := g.Spec.Listeners
	if len(l) != 1 || l[0].Protocol != "HBONE" || l[0].Port != 15008 {
		return fmt.Errorf("gateway %s: listeners %+v, one for HBONE on port 15008 is understood", g.Metadata.Name, l)
	}
	return nil
}

// bound checks that the waypoint serves what is in the object's namespace.
func (o *objects) bound(m meta) error {
	ns, g := o.namespaces[m.Metadata.Namespace], o.gateways[0]
	want := g.Metadata.Name
	if got := ns.Metadata.Labels["istio.io/use-waypoint"]; got != want || g.Metadata.Namespace != m.Metadata.Namespace {
		return fmt.Errorf("%s %s/%s: its namespace uses waypoint %q, and the Gateway is %s/%s", m.Kind, m.Metadata.Namespace, m.Metadata.Name, got, g.Metadata.Namespace, want)
	}
	return nil
}

// labelKey is one label of a namespace's pods.
type labelKey struct{ namespace, name, value string }

// podIndex finds pods by each of their labels, because there may be many.
func (o *objects) podIndex() (map[labelKey][]pod, error) {
	index := map[labelKey][]pod{}
	for _, p := range o.pods {
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("pod %s/%s: %w", p.Metadata.Namespace, p.Metadata.Name, err)
		}
		for name, value := range p.Metadata.Labels {
			k := labelKey{p.Metadata.Namespace, name, value}
			index[k] = append(index[k], p)
		}
	}
	return index, nil
}

func (p pod) check() error {
	if p.Status.Phase != "Running" || p.Spec.ServiceAccountName == "" {
		return fmt.Errorf("phase %q, service account %q: one that runs and has an account is understood", p.Status.Phase, p.Spec.ServiceAccountName)
	}
	for _, c := range p.Status.Conditions {
		if c.Type != "Ready" || c.Status != "True" {
			return fmt.Errorf("condition %s=%s: Ready=True is understood", c.Type, c.Status)
		}
	}
	return nil
}

// translate makes one port, with the pods that the service selects.
func (s service) translate(p servicePort, index map[labelKey][]pod) (Service, error) {
	addr, err := netip.ParseAddr(s.Spec.ClusterIP)
	if err != nil {
		return Service{}, fmt.Errorf("spec.clusterIP: %w", err)
	}
	out := Service{Namespace: s.Metadata.Namespace, Name: s.Metadata.Name, Addr: netip.AddrPortFrom(addr, p.Port)}
	if out.Protocol, err = p.protocol(); err != nil {
		return out, err
	}
	if len(s.Spec.Selector) != 1 {
		return out, fmt.Errorf("selector %v: one label is understood", s.Spec.Selector)
	}
	target := p.TargetPort
	if target == 0 {
		target = p.Port
	}
	for name, value := range s.Spec.Selector {
		for _, x := range index[labelKey{s.Metadata.Namespace, name, value}] {
			ip, err := netip.ParseAddr(x.Status.PodIP)
			if err != nil {
				return out, fmt.Errorf("pod %s: status.podIP: %w", x.Metadata.Name, err)
			}
			out.Endpoints = append(out.Endpoints, Endpoint{
				Addr:     netip.AddrPortFrom(ip, target),
				Identity: "spiffe://cluster.local/ns/" + x.Metadata.Namespace + "/sa/" + x.Spec.ServiceAccountName,
			})
		}
	}
	return out, nil
}

// protocol is what appProtocol says, or else the port's name up to a hyphen.
func (p servicePort) protocol() (Protocol, error) {
	said := p.AppProtocol
	if said == "" {
		said, _, _ = strings.Cut(p.Name, "-")
	}
	switch said {
	case "http":
		return HTTP, nil
	case "http2", "grpc", "kubernetes.io/h2c":
		return HTTP2, nil
	case "tcp":
		return TCP, nil
	}
	return "", fmt.Errorf("port %d: protocol %q is not understood", p.Port, said)
}

// addPolicies binds each policy to the ports of the services that it names.
func (o *objects) addPolicies(m *Mesh, at map[serviceKey][]int) error {
	for _, p := range o.policies {
		allow, err := p.translate()
		if err != nil {
			return fmt.Errorf("policy %s/%s: %w", p.Metadata.Namespace, p.Metadata.Name, err)
		}
		for _, ref := range p.Spec.TargetRefs {
			ports := at[serviceKey{p.Metadata.Namespace, ref.Name}]
			if ref.Group != "" || ref.Kind != "Service" || ref.Port != 0 || len(ports) == 0 {
				return fmt.Errorf("policy %s/%s: target %+v: a Service of its namespace is understood", p.Metadata.Namespace, p.Metadata.Name, ref)
			}
			for _, i := range ports {
				m.Services[i].Allow = m.Services[i].Allow.or(allow)
			}
		}
	}
	return nil
}

// or is a with further rules.
func (a *Allow) or(rules []*Allow) *Allow {
	if a == nil {
		first := *rules[0]
		a, rules = &first, rules[1:]
	}
	a.Or = append(a.Or, rules...)
	return a
}

func (p policy) translate() ([]*Allow, error) {
	s := p.Spec
	if s.Action != "ALLOW" || len(s.TargetRefs) == 0 || len(s.Rules) == 0 {
		return nil, fmt.Errorf("%+v: ALLOW with targets and rules is understood", s)
	}
	var all []*Allow
	for _, r := range s.Rules {
		if len(r.From) > 1 || len(r.To) > 1 {
			return nil, fmt.Errorf("%+v: rules of at most one source and one operation are understood", s)
		}
		a := &Allow{}
		for _, f := range r.From {
			for _, principal := range f.Source.Principals {
				a.Principals = append(a.Principals, "spiffe://"+principal)
			}
		}
		for _, t := range r.To {
			a.Methods, a.Paths = t.Operation.Methods, t.Operation.Paths
		}
		star := func(s string) bool { return strings.Contains(s, "*") }
		inside := func(s string) bool { return star(strings.TrimSuffix(s, "*")) || s == "*" }
		if slices.ContainsFunc(slices.Concat(a.Principals, a.Methods), star) || slices.ContainsFunc(a.Paths, inside) {
			return nil, fmt.Errorf("%+v: values without a wildcard are understood, and beginnings of paths", a)
		}
		all = append(all, a)
	}
	return all, nil
}
