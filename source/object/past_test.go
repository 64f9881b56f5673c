package object_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

// documents are alternatives for each document of a mesh, "" for none.
var documents = [][]string{
	{"", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio.io/use-waypoint: w}}\n", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio.io/dataplane-mode: none}}\n"},
	{"", "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {topology.kubernetes.io/zone: z}}\n"},
	{
		"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: a}\nspec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: a, labels: {istio.io/waypoint-for: all}}\nspec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w, namespace: a, annotations: {istio.io/for-service-account: x}}\nspec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n",
	},
	{
		"", "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: a}\nspec: {selector: {app: s}, ports: [{name: http, port: 80}]}\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: a}\nspec: {clusterIP: 10.0.0.1, selector: {app: s}, ports: [{name: http, port: 80, targetPort: web}]}\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: a, labels: {istio.io/use-waypoint: w}}\nspec: {selector: {app: s}, ports: [{port: 80}, {port: 81}]}\n",
	},
	{"", "apiVersion: v1\nkind: Service\nmetadata: {name: t, namespace: b}\nspec: {clusterIP: 10.0.0.1, selector: {app: s}, ports: [{port: 80}]}\n"},
	{
		"", "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: a}\nspec: {hosts: [x.example], addresses: [10.9.9.9], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, workloadSelector: {labels: {app: s}}}\n",
	},
	{
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a, labels: {app: s}}\nspec: {serviceAccountName: x, containers: [{name: c, image: i, ports: [{containerPort: 8080, name: web}]}]}\nstatus: {podIP: 10.0.1.1}\n",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a, labels: {app: s}}\nspec: {nodeName: n, containers: [{name: c, image: i, env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}, {name: B, valueFrom: {fieldRef: {fieldPath: no}}}]}]}\n",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a, labels: {app: t}}\nspec: {containers: [{name: c, image: i, ports: [{containerPort: 0}]}]}\nstatus: {podIP: x}\n",
	},
	{"", "apiVersion: v1\nkind: Pod\nmetadata: {name: q, namespace: b, labels: {app: s}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {phase: Succeeded}\n", "apiVersion: v1\nkind: Pod\nmetadata: {name: q, namespace: b, labels: {app: s, istio.io/use-waypoint: none}}\nspec: {containers: [{name: c, image: i}]}\n"},
	{"", "apiVersion: v1\nkind: LimitRange\nmetadata: {name: c}\n", "apiVersion: v1\nkind: Servce\nmetadata: {name: c}\n", "a: [\n"},
	{
		"", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: a}\nspec: {parentRefs: [{kind: Gateway, name: w}], rules: [{backendRefs: [{name: s, port: 80}]}]}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: a}\nspec: {parentRefs: [{group: '', kind: Service, name: s}], rules: [{backendRefs: [{name: t, namespace: b, port: 80}]}]}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: a}\nspec: {parentRefs: [{group: '', kind: Service, name: s}], rules: [{filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: p}}], backendRefs: [{name: s, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: policy.cairnproxy.dev, kind: TrafficPolicy, name: p}}]}]}]}\n",
	},
	{"", "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: b}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]}\n"},
	{
		"", "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g, namespace: a, creationTimestamp: \"2026-01-01T00:00:00Z\"}\nspec: {parentRefs: [{group: '', kind: Service, name: s}], rules: [{matches: [{method: {service: x}}], backendRefs: [{name: s, port: 80}]}]}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g, namespace: a}\nspec: {parentRefs: [{kind: Gateway, name: w}], hostnames: [x.example], rules: [{backendRefs: [{name: gone, port: 80}]}]}\n",
	},
	{
		"", "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: r, namespace: a}\nspec: {parentRefs: [{kind: Gateway, name: w}, {group: '', kind: Service, name: s}], hostnames: [\"*.example\"], rules: [{backendRefs: [{name: s, port: 80}]}]}\n",
		"apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: r, namespace: b}\nspec: {parentRefs: [{group: '', kind: Service, name: s, namespace: a}], rules: [{backendRefs: [{name: t, port: 80}]}]}\n",
	},
	{
		"", trafficDoc("p", "2020-01-01", "{group: '', kind: Service, name: s}", "timeout: {request: 1s}"),
		trafficDoc("p", "2020-01-01", "{group: '', kind: Service, name: s, sectionName: http}", "timeout: {request: 2s}, circuitBreaker: {maxRequests: 5}"),
		trafficDoc("p", "2022-01-01", "{group: '', kind: Service, name: s}", "timeout: {request: 3s}, loadBalancer: {subsetName: v1}"),
		trafficDoc("p", "2020-01-01", "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}", "retry: {attempts: 3}"),
	},
	{
		"", trafficDoc("q", "2021-01-01", "{group: '', kind: Service, name: s}", "timeout: {request: 4s, idle: 1s}"),
		trafficDoc("q", "2021-01-01", "{group: gateway.networking.k8s.io, kind: Gateway, name: w}", "timeout: {request: 5s}"),
		trafficDoc("q", "2021-01-01", "{group: networking.istio.io, kind: ServiceEntry, name: e}", "loadBalancer: {policy: Random}"),
		trafficDoc("q", "2021-01-01", "{group: '', kind: Service, name: s}", "rateLimit: {global: {backendRef: {name: t, namespace: b, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}"),
	},
	{
		"", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: a, creationTimestamp: '2020-01-01T00:00:00Z'}\nspec: {host: s, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {version: v1}}]}\n",
		"apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: a}\nspec: {host: '*.svc.cluster.local', trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}}\n",
	},
	{"", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: f, namespace: a}\nspec: {host: s, trafficPolicy: {tls: {mode: SIMPLE, credentialName: k}}, subsets: [{name: v1, labels: {version: v2}}]}\n"},
	{"", "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: b, namespace: a}\nspec: {targetRefs: [{group: '', kind: Service, name: s}], validation: {hostname: s.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: c}]}}\n"},
	{"", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: a}\ndata: {ca.crt: nothing}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: a}\ndata: {}\n"},
	{"", "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: x, namespace: a}\nspec: {targetRefs: [{group: '', kind: Service, name: s}], retryConstraint: {budget: {percent: 10}}}\n"},
	{"", "# a comment\n\n", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ServiceAccount, metadata: {name: x, namespace: a}}\n"},
}

func trafficDoc(name, created, target, spec string) string {
	return "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: " + name + ", namespace: a, creationTimestamp: '" + created + "T00:00:00Z'}\nspec: {targetRefs: [" + target + "], " + spec + "}\n"
}

// byName gives each name an address of its own.
type byName struct{}

func (byName) Service(n mesh.Name) netip.Addr  { return nameAddr(1, n) }
func (byName) Pod(n mesh.Name) netip.Addr      { return nameAddr(2, n) }
func (byName) Waypoint(n mesh.Name) netip.Addr { return nameAddr(3, n) }

func nameAddr(kind byte, n mesh.Name) netip.Addr {
	return netip.AddrFrom4([4]byte{10, kind, n.Namespace[0], n.Name[0]})
}

// A Translator that has seen other states of the manifests says of the present
// one what a new one says: of documents that were decoded again, and of those that were not.
func TestTranslatingAgainForgetsNothing(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		ready := true
		opts := object.Options{
			Enrol: true, Allocator: byName{}, Node: func(mesh.Name) string { return "n" },
			NotReady: func(mesh.Name) bool { return !ready },
		}
		tr := object.NewTranslator(opts)
		chosen := make([]int, len(documents))
		files := make([]*object.File, 2)
		for range 6 {
			ready = r.IntN(2) == 0
			for range 1 + r.IntN(3) {
				i := r.IntN(len(documents))
				chosen[i] = r.IntN(len(documents[i]))
			}
			var fresh []*object.File
			for f := range files {
				var b strings.Builder
				for i := f; i < len(documents); i += len(files) {
					if text := documents[i][chosen[i]]; text != "" {
						b.WriteString(text + "---\n")
					}
				}
				path := fmt.Sprintf("%d.yaml", f)
				files[f] = object.Redecode(path, []byte(b.String()), files[f])
				fresh = append(fresh, object.Decode(path, []byte(b.String())))
				if d := cmp.Diff(fresh[f].Problems, files[f].Problems); d != "" {
					t.Fatalf("seed %d: problems of the text (-decoded +decoded again):\n%s", seed, d)
				}
				if d := cmp.Diff(fresh[f].Ignored, files[f].Ignored); d != "" {
					t.Fatalf("seed %d: ignored objects (-decoded +decoded again):\n%s", seed, d)
				}
			}
			want, got := object.Translate(all(fresh), opts), tr.Translate(all(files))
			same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
			if d := cmp.Diff(want, got, same); d != "" {
				t.Fatalf("seed %d, %v (-new +old translator):\n%s", seed, chosen, d)
			}
		}
	}
}

// What did not change is the same pointer, and costs no second copy.
func TestTranslatingAgainKeepsWhatIsUnchanged(t *testing.T) {
	text := "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: s}, ports: [{port: 80}]}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: s}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.0.0.1}\n---\n"
	tr := object.NewTranslator(object.Options{})
	a := object.Decode("a.yaml", []byte(text))
	first := tr.Translate(a.Objects)
	a = object.Redecode("a.yaml", []byte(text+"apiVersion: v1\nkind: Pod\nmetadata: {name: q}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.0.0.2}\n"), a)
	second := tr.Translate(a.Objects)
	if len(second.Parts.Workloads) != 2 || first.Parts.Workloads[0] != second.Parts.Workloads[0] || first.Parts.Services[0] != second.Parts.Services[0] {
		t.Errorf("a new pod made others anew: %v, %v", first.Parts, second.Parts)
	}
}
