package traffic

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
)

func TestEgress(t *testing.T) { runGroup(t, "egress", egressCases) }

// appTLS is where what is outside speaks TLS.
const appTLS = 8443

// What is outside has this certificate, which is its own root.
var (
	outsideCert = mustCert("ext.example", "*.wild.example")
	outsideCA   = pemOf(outsideCert)
)

func mustCert(names ...string) tls.Certificate {
	c, err := selfSigned(names...)
	if err != nil {
		panic(err)
	}
	return c
}

func (p *pod) outsideTLS() *tls.Config {
	return &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sni = hello.ServerName
		return &tls.Config{Certificates: []tls.Certificate{outsideCert}, NextProtos: []string{"h2", "http/1.1"}}, nil
	}}
}

// entryMesh is a ServiceEntry's host, and a service with a pod, which is in no case's way.
var entryMesh = []svc{{name: "ext", entry: true, ports: []svcPort{{"http", 80, appHTTP, "http"}}}, {name: "echo"}}

// serviceEntry is a host outside the mesh that the waypoint serves, with one endpoint at a
// port.
func serviceEntry(port int, more string) string {
	return fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: $NS}
spec:
  hosts: [ext.example]
  addresses: [$VIP-ext]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: %d}]
  resolution: STATIC
  endpoints: [{address: $POD-ext-1}]
%s`, port, more)
}

const caMap = `
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: $NS}
data:
  ca.crt: $CA
`

// backendTLS is a BackendTLSPolicy of the ServiceEntry.
func backendTLS(validation string) string {
	return "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: t, namespace: $NS}\nspec:\n" +
		"  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: ext}]\n  validation: {" + validation + "}\n"
}

const rootIsCA = `caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]`

// outside lets Envoy's cluster lead out of the mesh, by TLS where a name to verify is
// given.
func outside(port uint16, verify, root string) patch {
	return patch{services: func(x *trial, services []envoyService) []envoyService {
		at := obj{"endpoint": obj{"address": obj{"socket_address": obj{"address": x.pod("ext-1").addr.String(), "port_value": port}}}}
		for i := range services {
			s := &services[i]
			if !strings.HasPrefix(s.Host, "ext.") {
				continue
			}
			socket := obj{"name": "raw", "typed_config": obj{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}
			if verify != "" {
				socket = obj{"name": "tls", "typed_config": obj{
					"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": verify,
					"common_tls_context": obj{"validation_context": obj{
						"trusted_ca":                    obj{"inline_string": root},
						"match_typed_subject_alt_names": list{obj{"san_type": "DNS", "matcher": obj{"exact": verify}}},
					}},
				}}
			}
			plain := envoyObjectOf(s.ClusterName(), at, socket)
			x.clusters = append(x.clusters, plain)
			for _, r := range s.Routes {
				if action, ok := r.(obj)["route"].(obj); ok {
					delete(action, "weighted_clusters")
					action["cluster"] = plain["name"]
				}
			}
		}
		return services
	}}
}

func envoyObjectOf(name string, endpoint, socket obj) obj {
	name = "outside-" + name
	return obj{
		"name": name, "type": "STATIC", "connect_timeout": "5s", "transport_socket": socket,
		"load_assignment": obj{"cluster_name": name, "endpoints": list{obj{"lb_endpoints": list{endpoint}}}},
	}
}

// saw proves that a request reaches the outside over TLS with a server name.
func saw(sni string) func(*trial) error {
	return func(x *trial) error {
		if _, err := x.check(ask{svc: "ext", host: "ext.example", pod: "ext-1"}); err != nil {
			return err
		}
		p := x.pod("ext-1")
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.sni != sni {
			return wrongf("the outside saw SNI %q, want %q", p.sni, sni)
		}
		return nil
	}
}

var egressCases = []testCase{
	{
		name: "egress", of: "a ServiceEntry's host outside the mesh, in plain text", mesh: entryMesh, untold: true,
		yaml: serviceEntry(appHTTP, ""), envoy: outside(appHTTP, "", ""),
		prove: asks(ask{svc: "ext", host: "ext.example", pod: "ext-1", as: "ext.example"}), wrong: asks(ask{svc: "echo", pod: "ext-1"}),
	},
	{
		name: "egress-route", of: "an HTTPRoute whose parent is a ServiceEntry", mesh: entryMesh, keep: serviceEntry(appHTTP, ""),
		yaml: strings.Replace(routeOf("HTTPRoute", "r", "{group: networking.istio.io, kind: ServiceEntry, name: ext}",
			"  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: set}]}}]\n    backendRefs: [{group: networking.istio.io, kind: Hostname, name: ext.example, port: 80}]"), "\n---", "", 1),
		envoy: outside(appHTTP, "", "").with(patch{entry: obj{"response_headers_to_add": list{obj{"header": obj{"key": "x-set", "value": "set"}}}}}), envoyTwin: outside(appHTTP, "", ""),
		prove: asks(ask{svc: "ext", host: "ext.example", pod: "ext-1", want: []string{"x-set: set"}}),
	},
	{
		name: "egress-tls", of: "BackendTLSPolicy: TLS is originated, with SNI, and the name verified", mesh: entryMesh,
		keep: serviceEntry(appTLS, "") + caMap, yaml: backendTLS("hostname: ext.example, " + rootIsCA),
		envoy: outside(appTLS, "ext.example", outsideCA), envoyTwin: outside(appTLS, "", ""), prove: saw("ext.example"),
	},
	{
		name: "egress-tls-name", of: "a certificate with another name is refused, and nothing sent", mesh: entryMesh,
		keep: serviceEntry(appTLS, "") + caMap, yaml: backendTLS("hostname: other.example, " + rootIsCA), twin: backendTLS("hostname: ext.example, " + rootIsCA),
		envoy: outside(appTLS, "other.example", outsideCA), envoyTwin: outside(appTLS, "ext.example", outsideCA), prove: refusedOutside(503),
	},
	{
		name: "egress-tls-root", of: "a certificate of another root is refused", mesh: entryMesh,
		keep: serviceEntry(appTLS, ""), yaml: otherRoot + backendTLS("hostname: ext.example, "+rootIsCA), twin: caMap + backendTLS("hostname: ext.example, "+rootIsCA),
		envoy: outside(appTLS, "ext.example", otherCA), envoyTwin: outside(appTLS, "ext.example", outsideCA), prove: refusedOutside(503),
	},
	{
		name: "egress-tls-system", of: "wellKnownCACertificates System: the machine's roots do not know the outside's", mesh: entryMesh,
		keep: serviceEntry(appTLS, ""), yaml: backendTLS("hostname: ext.example, wellKnownCACertificates: System"), twin: caMap + backendTLS("hostname: ext.example, "+rootIsCA),
		alone: "which roots a machine has is for its operator to say", prove: refusedOutside(503),
	},
	{
		name: "egress-tls-broken", of: "a policy whose CA is missing answers 500: never plain text", mesh: entryMesh,
		keep: serviceEntry(appTLS, ""), yaml: backendTLS("hostname: ext.example, " + rootIsCA), twin: caMap + backendTLS("hostname: ext.example, "+rootIsCA),
		alone: "a configuration without its CA is refused as a whole", prove: refusedOutside(500),
	},
	{
		name: "egress-tls-service", of: "BackendTLSPolicy of a Service whose port an HTTPRoute of another leads to", mesh: entryMesh,
		keep: serviceEntry(appTLS, "") + caMap + httpRoute("r", "  - backendRefs: [{group: networking.istio.io, kind: Hostname, name: ext.example, port: 80}]"),
		yaml: backendTLS("hostname: ext.example, " + rootIsCA), alone: "the same cluster as in egress-tls",
		prove: asks(ask{svc: "echo", pod: "ext-1"}),
	},
	{
		name: "egress-destination-rule", of: "DestinationRule tls SIMPLE originates TLS", mesh: entryMesh,
		keep: serviceEntry(appTLS, ""), yaml: "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: $NS}\nspec:\n  host: ext.example\n  trafficPolicy:\n    tls: {mode: SIMPLE, sni: ext.example}\n",
		// Its roots are the machine's, which do not know the outside's.
		alone: "which roots a machine has is for its operator to say",
		prove: func(x *trial) error {
			if err := refusedOutside(503)(x); err != nil {
				return err
			}
			p := x.pod("ext-1")
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.sni != "ext.example" {
				return wrongf("the outside saw SNI %q", p.sni)
			}
			return nil
		},
	},
	{
		name: "egress-dns", of: "an endpoint by its DNS name", mesh: entryMesh, untold: true,
		yaml:  strings.NewReplacer("STATIC", "DNS", "address: $POD-ext-1", "address: localhost, ports: {http: $PORT}").Replace(serviceEntry(appHTTP, "")),
		alone: "its resolver asks name servers only", prove: onLocalhost, wrong: asks(ask{svc: "echo", pod: "ext-1"}),
	},
}

// refusedOutside proves that a request is answered with a status, and that nothing has
// come to the outside.
func refusedOutside(status int) func(*trial) error {
	return func(x *trial) error {
		if _, err := x.check(ask{svc: "ext", host: "ext.example", status: status}); err != nil {
			return err
		}
		if n := x.pod("ext-1").count.Load(); n != 0 {
			return wrongf("the outside saw %d requests", n)
		}
		return nil
	}
}

var (
	otherCA   = pemOf(mustCert("ext.example"))
	otherRoot = strings.Replace(caMap, "$CA", fmt.Sprintf("%q", otherCA), 1)
)

// onLocalhost proves that a request reaches a server on localhost, whose port the
// manifests name.
func onLocalhost(x *trial) error {
	_, err := x.check(ask{svc: "ext", host: "ext.example", pod: "ext-1"})
	return err
}
