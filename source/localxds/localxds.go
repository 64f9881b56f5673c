// Package localxds reads the local configuration file of a node proxy: the YAML
// that ztunnel takes by LOCAL_XDS_PATH or LOCAL_XDS, with workloads, policies
// and services.
//
//	workloads:
//	- uid: cluster1//v1/Pod/default/local
//	  name: local
//	  namespace: default
//	  workloadIps: ["127.0.0.1"]
//	  protocol: HBONE
//	  node: local
//	  network: ""
//	  services: {"default/example.com": {80: 8080}}
//	policies: []
//	services: []
//
// The file is read once. As in ztunnel, unknown fields are errors, comparisons
// of strings are written with tags (`!Exact x`, `!Prefix x`, `!Suffix x`,
// `!Presence []`), and nothing is filled in: a service account that is left out
// is empty. Unlike ztunnel, all that is wrong is told at once, with lines.
package localxds

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/strictyaml"
)

// document is the file's shape. Pointers are fields that must be there.
type document struct {
	Workloads []workload `json:"workloads"`
	Policies  []policy   `json:"policies"`
	Services  []service  `json:"services"`
}

type workload struct {
	UID                   string                       `json:"uid"`
	Name                  string                       `json:"name"`
	Namespace             string                       `json:"namespace"`
	TrustDomain           string                       `json:"trustDomain"`
	ServiceAccount        string                       `json:"serviceAccount"`
	WorkloadIPs           []netip.Addr                 `json:"workloadIps"`
	Hostname              string                       `json:"hostname"`
	Network               string                       `json:"network"`
	Protocol              string                       `json:"protocol"`
	NetworkMode           string                       `json:"networkMode"`
	Waypoint              *gatewayAddress              `json:"waypoint"`
	NetworkGateway        *gatewayAddress              `json:"networkGateway"`
	WorkloadName          string                       `json:"workloadName"`
	WorkloadType          string                       `json:"workloadType"`
	CanonicalName         string                       `json:"canonicalName"`
	CanonicalRevision     string                       `json:"canonicalRevision"`
	Node                  string                       `json:"node"`
	NativeTunnel          bool                         `json:"nativeTunnel"`
	ApplicationTunnel     *applicationTunnel           `json:"applicationTunnel"`
	AuthorizationPolicies []string                     `json:"authorizationPolicies"`
	Status                string                       `json:"status"`
	ClusterID             string                       `json:"clusterId"`
	Locality              locality                     `json:"locality"`
	Capacity              *uint32                      `json:"capacity"`
	Services              map[string]map[uint16]uint16 `json:"services"`
}

type gatewayAddress struct {
	Destination string `json:"destination"`
	Port        uint16 `json:"hboneMtlsPort"`
}

type applicationTunnel struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

type locality struct {
	Region  string `json:"region"`
	Zone    string `json:"zone"`
	Subzone string `json:"subzone"`
}

type service struct {
	Name             string            `json:"name"`
	Namespace        string            `json:"namespace"`
	Hostname         string            `json:"hostname"`
	VIPs             []string          `json:"vips"`
	CIDRVIPs         []any             `json:"cidrVips"`
	Ports            map[uint16]uint16 `json:"ports"`
	Endpoints        any               `json:"endpoints"` // derived from the workloads
	SubjectAltNames  []string          `json:"subjectAltNames"`
	Waypoint         *gatewayAddress   `json:"waypoint"`
	WeightedWaypoint []any             `json:"weightedWaypoints"`
	LoadBalancer     *loadBalancer     `json:"loadBalancer"`
	IPFamilies       string            `json:"ipFamilies"`
	Canonical        bool              `json:"canonical"`
	Visibility       string            `json:"visibility"`
}

type loadBalancer struct {
	RoutingPreferences []string `json:"routingPreferences"`
	Mode               string   `json:"mode"`
	HealthPolicy       string   `json:"healthPolicy"`
}

type policy struct {
	Name      string      `json:"name"`
	Namespace string      `json:"namespace"`
	Scope     string      `json:"scope"`
	Action    string      `json:"action"`
	DryRun    *bool       `json:"dryRun"`
	Rules     [][][]match `json:"rules"`
}

type match struct {
	Namespaces          []stringMatch    `json:"namespaces"`
	NotNamespaces       []stringMatch    `json:"notNamespaces"`
	ServiceAccounts     []serviceAccount `json:"serviceAccounts"`
	NotServiceAccounts  []serviceAccount `json:"notServiceAccounts"`
	Principals          []stringMatch    `json:"principals"`
	NotPrincipals       []stringMatch    `json:"notPrincipals"`
	SourceIPs           []block          `json:"sourceIps"`
	NotSourceIPs        []block          `json:"notSourceIps"`
	DestinationIPs      []block          `json:"destinationIps"`
	NotDestinationIPs   []block          `json:"notDestinationIps"`
	DestinationPorts    []uint16         `json:"destinationPorts"`
	NotDestinationPorts []uint16         `json:"notDestinationPorts"`
}

type serviceAccount struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// ReadFile reads the file at path. With problems, Parts are of no use.
func ReadFile(path string) (mesh.Parts, []source.Problem) {
	data, err := os.ReadFile(path)
	if err != nil {
		if pe, ok := errors.AsType[*os.PathError](err); ok {
			err = pe.Err
		}
		return mesh.Parts{}, []source.Problem{{File: path, Message: fmt.Sprintf("it cannot be read (%v); correct the path or its permissions", err)}}
	}
	return Parse(path, data)
}

// Parse reads the configuration from data; name is what problems call it. With
// problems, Parts are of no use.
func Parse(name string, data []byte) (mesh.Parts, []source.Problem) {
	p := parser{name: name}
	docs, err := strictyaml.Parse(strictyaml.Chunk{Data: data})
	if err != nil {
		e := strictyaml.Error{Message: err.Error()}
		errors.As(err, &e)
		p.add("", e)
		return mesh.Parts{}, p.problems
	}
	switch len(docs) {
	case 0:
		return mesh.Parts{}, nil
	case 1:
	default:
		p.add("", strictyaml.Error{Line: docs[1].Line, Message: "the configuration is one document; merge the others into it"})
		return mesh.Parts{}, p.problems
	}
	var d document
	for _, e := range strictyaml.Decode(docs[0], &d) {
		p.add("", e)
	}
	p.line = func(path string) int { return strictyaml.Line(docs[0], path) }
	p.translate(&d)
	if len(p.problems) > 0 {
		return mesh.Parts{}, p.problems
	}
	return p.parts, nil
}

type parser struct {
	name     string
	line     func(path string) int
	problems []source.Problem
	parts    mesh.Parts
}

func (p *parser) add(object string, e strictyaml.Error) {
	p.problems = append(p.problems, source.Problem{File: p.name, Line: e.Line, Object: object, Field: e.Path, Message: e.Message})
}

// bad records a problem with the field at path.
func (p *parser) bad(object, path, format string, args ...any) {
	p.add(object, strictyaml.Error{Line: p.line(path), Path: path, Message: fmt.Sprintf(format, args...)})
}

func (p *parser) translate(d *document) {
	uids := map[string]int{}
	for i := range d.Workloads {
		w, path := &d.Workloads[i], fmt.Sprintf("workloads[%d]", i)
		object := "workload " + w.UID
		if first, dup := uids[w.UID]; dup && w.UID != "" {
			p.bad(object, path+".uid", "the uid is also that of workloads[%d]; make it unique", first)
		}
		uids[w.UID] = i
		p.parts.Workloads = append(p.parts.Workloads, p.workload(object, path, w))
	}
	policies := map[mesh.Name]int{}
	for i := range d.Policies {
		in, path := &d.Policies[i], fmt.Sprintf("policies[%d]", i)
		out := p.policy(path, in)
		if first, dup := policies[out.Name]; dup {
			p.bad("policy "+out.Name.String(), path+".name", "policies[%d] has the same name; rename one", first)
		}
		policies[out.Name] = i
		p.parts.L4Policies = append(p.parts.L4Policies, out)
	}
	keys := map[mesh.ServiceKey]int{}
	for i := range d.Services {
		in, path := &d.Services[i], fmt.Sprintf("services[%d]", i)
		out := p.service(path, in)
		if first, dup := keys[out.Key]; dup {
			p.bad("service "+out.Key.String(), path+".hostname", "services[%d] has the same namespace and hostname; remove one", first)
		}
		keys[out.Key] = i
		p.parts.Services = append(p.parts.Services, out)
	}
}

func (p *parser) origin(path string) mesh.Origin {
	return mesh.Origin{Source: "localxds", File: p.name, Line: p.line(path)}
}

func (p *parser) need(object, path, field, value string) {
	if value == "" {
		p.bad(object, path+"."+field, "%s is missing; add it", field)
	}
}

// serviceKey parses "namespace/hostname".
func serviceKey(s string) (mesh.ServiceKey, bool) {
	ns, host, ok := strings.Cut(s, "/")
	return mesh.ServiceKey{Namespace: ns, Hostname: host}, ok && ns != "" && host != "" && !strings.Contains(host, "/")
}
