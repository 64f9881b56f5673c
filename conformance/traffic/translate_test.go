package traffic

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	gw "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"cairnproxy.dev/cairn/conformance/envoy"
)

// toEnvoy says to Envoy what the trial's manifests say: services and pods, the
// routes in the words of package envoy, and everything else in the case's patch.
func (x *trial) toEnvoy() ([]envoy.Service, error) {
	rules, err := x.rules()
	if err != nil {
		return nil, err
	}
	var out []envoy.Service
	for _, s := range x.c.services() {
		for _, p := range s.allPorts() {
			e := x.envoyPort(s, p)
			if !e.TCP {
				if e.Routes, err = rules.Routes(envoy.Port{Namespace: x.ns + s.ns, Name: s.name, Section: p.name, Number: int32(p.port)}); err != nil {
					return nil, err
				}
				if e.Routes == nil {
					e.Routes = rules.Default(e.ClusterName())
				}
			}
			out = append(out, e)
		}
	}
	p := x.c.envoy
	if x.twin && !x.c.untold {
		p = x.c.envoyTwin
	}
	p.apply(out)
	if p.services != nil {
		out = p.services(x, out)
	}
	if err := x.authorize(out); err != nil {
		return nil, err
	}
	return out, x.tokens(out) // which policies ask about: before them
}

func (x *trial) envoyPort(s svc, p svcPort) envoy.Service {
	e := envoy.Service{
		Host: s.name + "." + x.ns + s.ns + ".svc.cluster.local", Addr: netip.AddrPortFrom(x.vips[s.key()], p.port),
	}
	protocol := p.app
	if protocol == "" {
		protocol, _, _ = strings.Cut(p.name, "-") // as Istio reads it
	}
	switch protocol {
	case "http", "kubernetes.io/ws":
	case "grpc", "kubernetes.io/h2c", "http2":
		e.HTTP2 = true
	default:
		e.TCP = true
	}
	for _, pod := range x.pods {
		if pod.ns == x.ns+s.ns && selects(s.selector(), pod.labels) && !pod.gone {
			e.Endpoints = append(e.Endpoints, netip.AddrPortFrom(pod.addr, p.target))
		}
	}
	return e
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// apply puts the patch over what was translated.
func (p patch) apply(services []envoy.Service) {
	for i := range services {
		s := &services[i]
		if p.port != 0 && p.port != s.Addr.Port() {
			continue
		}
		for _, r := range s.Routes {
			route := r.(envoy.Object)
			if action, ok := route["route"].(envoy.Object); ok {
				envoy.Merge(action, p.route)
			}
			envoy.Merge(route, p.entry)
		}
		s.Filters, s.Manager = p.filters, p.manager
		if p.cluster != nil {
			s.Cluster = envoy.Merge(envoy.Object{}, p.cluster)
		}
	}
}

// grant is a ReferenceGrant, with what the translation reads of it.
type grant struct {
	Metadata struct{ Namespace string }
	Spec     struct {
		From []struct{ Namespace string }
	}
}

func (x *trial) rules() (*envoy.Rules, error) {
	rules := &envoy.Rules{}
	granted := map[[2]string]bool{}
	for i, part := range strings.Split("\n"+x.text, "\n---\n") {
		doc, err := yaml.YAMLToJSON([]byte(part))
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		var meta struct{ Kind string }
		if err := json.Unmarshal(doc, &meta); err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		switch meta.Kind {
		case "HTTPRoute":
			err = appendTo(&rules.HTTP, doc)
		case "GRPCRoute":
			err = appendTo(&rules.GRPC, doc)
		case "ReferenceGrant":
			var g grant
			if err = json.Unmarshal(doc, &g); err == nil {
				for _, f := range g.Spec.From {
					granted[[2]string{f.Namespace, g.Metadata.Namespace}] = true
				}
			}
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
	}
	rules.Cluster = func(from string, ref gw.BackendObjectReference) (string, bool) {
		ns := from
		if ref.Namespace != nil {
			ns = string(*ref.Namespace)
		}
		if ref.Kind != nil && *ref.Kind != "Service" || ns != from && !granted[[2]string{from, ns}] && !x.consumerOf(from, ns) {
			return "", false
		}
		for _, s := range x.c.services() {
			for _, p := range s.allPorts() {
				if x.ns+s.ns == ns && s.name == string(ref.Name) && ref.Port != nil && uint16(*ref.Port) == p.port {
					return x.envoyPort(s, p).ClusterName(), true
				}
			}
		}
		return "", false
	}
	return rules, nil
}

// consumerOf reports whether a route of a consumer leads back to the service that it
// is attached to, which needs no grant.
func (x *trial) consumerOf(from, ns string) bool { return from == x.ns+"-consumer" && ns == x.ns }

func appendTo[T any](to *[]T, doc []byte) error {
	var v T
	err := json.Unmarshal(doc, &v)
	*to = append(*to, v)
	return err
}
