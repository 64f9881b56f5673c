package object_test

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
)

// A wrong manifest: the line of the problem carries the mark.
type wrong struct {
	name, text, object, field, message string
}

const mark = "# HERE"

func checkWrong(t *testing.T, tests []wrong) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line := 0
			for i, l := range strings.Split(tt.text, "\n") {
				if strings.Contains(l, mark) {
					line = i + 1
				}
			}
			res, _ := translate(t, "f.yaml", tt.text, object.Options{})
			if len(res.Problems) != 1 {
				t.Fatalf("got %d problems, want 1: %v", len(res.Problems), res.Problems)
			}
			p := res.Problems[0]
			if p.File != "f.yaml" || p.Line != line || p.Object != tt.object || p.Field != tt.field || !strings.Contains(p.Message, tt.message) {
				t.Errorf("got  %v\nwant f.yaml:%d: %s: %s: … %s", p, line, tt.object, tt.field, tt.message)
			}
			if !strings.ContainsAny(p.Message, ";?") {
				t.Errorf("%q tells no remedy", p.Message)
			}
		})
	}
}

// svc, pod, waypoint and more are good objects to put beside a wrong one.
const (
	svc      = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{name: http, port: 80}]}}\n"
	farSvc   = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: far, namespace: other}, spec: {ports: [{port: 80}]}}\n"
	waypoint = "\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: wp}, spec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n"
	ingress  = "\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: ingress}, spec: {gatewayClassName: other, listeners: [{name: web, port: 80, protocol: HTTP}]}}\n"
	podSpec  = "spec: {containers: [{name: c, image: i}]}\n"
)

func TestTextProblems(t *testing.T) {
	checkWrong(t, []wrong{
		{"syntax", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n spec: # HERE\n", "", "", "YAML syntax"},
		{"no-kind", "# a comment\nfoo: bar # HERE\n", "", "kind", "not a Kubernetes object"},
		{"no-version", "kind: Service # HERE\n", "", "apiVersion", "not a Kubernetes object"},
		{"scalar", "just text # HERE\n", "", "", "not a Kubernetes object"},
		{"unknown-field", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  prots: [] # HERE\n", "Service default/a", "spec.prots", `did you mean "ports"?`},
		{"deep-unknown", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers:\n      - name: c\n        imge: x # HERE\n", "Deployment default/a", "spec.template.spec.containers[0].imge", `did you mean "image"?`},
		{"duplicate-key", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: ClusterIP\n  type: NodePort # HERE\n", "Service default/a", "spec", "given twice, first on line 5; remove one"},
		{"type", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: http # HERE\n", "Service default/a", "spec.ports[0].port", "wants a whole number"},
		{"label-number", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    version: 1.0 # HERE\nspec: {}\n", "Service default/a", "metadata.labels[version]", "quotes"},
		{"version", "apiVersion: apps/v1beta1 # HERE\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, " + strings.TrimSpace(podSpec) + "}}\n", "Deployment default/a", "apiVersion", "use apps/v1"},
		{"wrong-group", "apiVersion: v1\nkind: Deployment # HERE\nmetadata: {name: a}\n", "", "kind", "use apiVersion apps/v1"},
		{"misspelt-kind", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTPRoute # HERE\nmetadata: {name: a}\n", "", "kind", `did you mean "HTTPRoute"?`},
		{"in-list", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec:\n    foo: bar # HERE\n", "Service default/a", "spec.foo", "correct its name"},
		{"list-in-list", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1 # HERE\n  kind: List\n  items: []\n", "", "items[0]", "put its items"},
		{"quantity", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    resources:\n      limits:\n        cpu: lots # HERE\n", "Pod default/a", "spec.containers[0].resources.limits[cpu]", "correct it"},
		{"time", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  creationTimestamp: yesterday # HERE\nspec: {}\n", "Service default/a", "metadata.creationTimestamp", "correct it"},
	})
}

func TestNameProblems(t *testing.T) {
	checkWrong(t, []wrong{
		{"no-name", "apiVersion: v1\nkind: Service\nmetadata: {} # HERE\nspec: {}\n", "Service default/", "metadata.name", "give it one"},
		{"name", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a/b # HERE\nspec: {}\n", "Service default/a/b", "metadata.name", "use lower-case"},
		{"namespace", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  namespace: A # HERE\nspec: {}\n", "Service A/a", "metadata.namespace", "use lower-case"},
		{"label-value", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    x: a b # HERE\nspec: {}\n", "Service default/a", "metadata.labels[x]", "label value"},
		{"label-key", "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels: # HERE\n    a/b/c: x\nspec: {}\n", "Service default/a", "metadata.labels", "not a valid label"},
		{"duplicate", svc + "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web # HERE\nspec: {}\n", "Service default/web", "metadata.name", "Service default/web is defined twice: here and at f.yaml:3; keep one"},
		{"duplicate-version", "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a}}\n---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata:\n  namespace: default\n  name: a # HERE\n", "PeerAuthentication default/a", "metadata.name", "f.yaml:1"},
	})
}

func TestServiceProblems(t *testing.T) {
	service := func(spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n" + spec
	}
	const obj = "Service default/a"
	checkWrong(t, []wrong{
		{"port-0", service("  ports:\n  - name: http\n    port: 0 # HERE\n"), obj, "spec.ports[0].port", "from 1 to 65535"},
		{"port-large", service("  ports:\n  - port: 65536 # HERE\n"), obj, "spec.ports[0].port", "from 1 to 65535"},
		{"port-twice", service("  ports:\n  - {name: a, port: 80}\n  - name: b\n    port: 80 # HERE\n"), obj, "spec.ports[1].port", "ports[0]; remove"},
		{"name-twice", service("  ports:\n  - {name: a, port: 80}\n  - port: 81\n    name: a # HERE\n"), obj, "spec.ports[1].name", "ports[0]; rename"},
		{"name-missing", service("  ports:\n  - {name: a, port: 80}\n  - port: 81 # HERE\n"), obj, "spec.ports[1]", "give this one a name"},
		{"target-port", service("  ports:\n  - port: 80\n    targetPort: 100000 # HERE\n"), obj, "spec.ports[0].targetPort", "from 1 to 65535"},
		{"target-quoted", service("  ports:\n  - port: 80\n    targetPort: \"8080\" # HERE\n"), obj, "spec.ports[0].targetPort", "remove the quotes"},
		{"target-name", service("  ports:\n  - port: 80\n    targetPort: Web_Port # HERE\n"), obj, "spec.ports[0].targetPort", "port name"},
		{"protocol", service("  ports:\n  - port: 80\n    protocol: tcp # HERE\n"), obj, "spec.ports[0].protocol", "use TCP"},
		{"cluster-ip", service("  clusterIP: 10.0.0.300 # HERE\n"), obj, "spec.clusterIP", "not an IP address"},
		{"cluster-ip-mapped", service("  clusterIP: \"::ffff:10.0.0.1\" # HERE\n"), obj, "spec.clusterIP", "not an IP address"},
		{"cluster-ips", service("  clusterIPs:\n  - 10.0.0.1\n  - x # HERE\n"), obj, "spec.clusterIPs[1]", "not an IP address"},
		{"ip-taken", "{apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: 10.0.0.1}}\n---\n" + service("  clusterIP: 10.0.0.1 # HERE\n"), obj, "spec.clusterIP", "Service default/b too (f.yaml:1)"},
		{"type", service("  type: Cluster # HERE\n"), obj, "spec.type", "use ClusterIP"},
		{"locality", service("  internalTrafficPolicy: Near # HERE\n"), obj, "spec.internalTrafficPolicy", "use Cluster or Local"},
		{"distribution", service("  trafficDistribution: Near # HERE\n"), obj, "spec.trafficDistribution", "use PreferClose"},
		{"selector-label", service("  selector:\n    app: a b # HERE\n"), obj, "spec.selector[app]", "label value"},
	})
}

func TestWorkloadProblems(t *testing.T) {
	deployment := func(spec string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n" + spec
	}
	const good = "  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    " + podSpec
	const obj = "Deployment default/a"
	checkWrong(t, []wrong{
		{"negative", deployment("  replicas: -1 # HERE\n" + good), obj, "spec.replicas", "0 or more"},
		{"too-many", deployment("  replicas: 1000000000 # HERE\n" + good), obj, "spec.replicas", "use fewer"},
		{"no-selector", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: # HERE\n  template:\n    metadata: {labels: {a: b}}\n    " + podSpec, obj, "spec.selector", "selector is missing"},
		{"empty-selector", deployment("  selector: {} # HERE\n  template:\n    metadata: {labels: {a: b}}\n    " + podSpec), obj, "spec.selector", "selector is missing"},
		{"other-selector", deployment("  selector: {matchLabels: {a: c}} # HERE\n  template:\n    metadata: {labels: {a: b}}\n    " + podSpec), obj, "spec.selector", "make them agree"},
		{"bad-selector", deployment("  selector: {matchExpressions: [{key: a, operator: Like}]} # HERE\n  template:\n    metadata: {labels: {a: b}}\n    " + podSpec), obj, "spec.selector", "not valid"},
		{"no-containers", deployment("  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {} # HERE\n"), obj, "spec.template.spec.containers", "add one"},
		{"container-port", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    ports:\n    - containerPort: 99999 # HERE\n", "Pod default/a", "spec.containers[0].ports[0].containerPort", "from 1 to 65535"},
		{"pod-ip", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" + podSpec + "status:\n  podIP: here # HERE\n", "Pod default/a", "status.podIP", "not an IP address"},
		{"account", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  serviceAccountName: a/b # HERE\n  containers: [{name: c, image: i}]\n", "Pod default/a", "spec.serviceAccountName", "service account"},
		{"mode-pod", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    istio.io/dataplane-mode: ambiant # HERE\n" + podSpec, "Pod default/a", "metadata.labels[istio.io/dataplane-mode]", "use ambient or none"},
		{"mode-template", deployment("  selector: {matchLabels: {a: b}}\n  template:\n    metadata:\n      labels:\n        a: b\n        istio.io/dataplane-mode: x # HERE\n    " + podSpec), obj, "spec.template.metadata.labels[istio.io/dataplane-mode]", "use ambient or none"},
		{"mode-namespace", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels:\n    istio.io/dataplane-mode: x # HERE\n", "Namespace a", "metadata.labels[istio.io/dataplane-mode]", "use ambient or none"},
		{"entry-address", "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec:\n  address: 10.0.0.256 # HERE\n", "WorkloadEntry default/a", "spec.address", "use an IP address or a host name"},
		{"entry-no-address", "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec: {} # HERE\n", "WorkloadEntry default/a", "spec.address", "give it one"},
		{"entry-port", "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\nspec:\n  address: 10.0.0.1\n  ports:\n    http: 70000 # HERE\n", "WorkloadEntry default/a", "spec.ports[http]", "from 1 to 65535"},
	})
}

func TestServiceEntryProblems(t *testing.T) {
	entry := func(spec string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n" + spec
	}
	const obj = "ServiceEntry default/a"
	const port = "  ports: [{number: 80, name: http}]\n"
	checkWrong(t, []wrong{
		{"no-hosts", entry("  hosts: [] # HERE\n" + port), obj, "spec.hosts", "list at least one"},
		{"host", entry("  hosts:\n  - a_b.example.com # HERE\n" + port), obj, "spec.hosts[0]", "full DNS name"},
		{"host-twice", entry("  hosts:\n  - a.b\n  - A.b # HERE\n" + port), obj, "spec.hosts[1]", "listed twice"},
		{"wildcard-dns", entry("  resolution: DNS\n  hosts:\n  - \"*.example.com\" # HERE\n" + port), obj, "spec.hosts[0]", "use resolution STATIC"},
		{"wildcard-all", entry("  hosts:\n  - \"*\" # HERE\n" + port), obj, "spec.hosts[0]", "full DNS name"},
		{"wildcard-inner", entry("  hosts:\n  - \"a.*.example.com\" # HERE\n" + port), obj, "spec.hosts[0]", "full DNS name"},
		{"dynamic", entry("  hosts: [\"*.example.com\"]\n  resolution: DYNAMIC_DNS # HERE\n" + port), obj, "spec.resolution", "not supported yet"},
		{"location", entry("  hosts: [a.b]\n  location: OUTSIDE # HERE\n" + port), obj, "spec.location", "use MESH_EXTERNAL"},
		{"resolution", entry("  hosts: [a.b]\n  resolution: static # HERE\n" + port), obj, "spec.resolution", "use NONE, STATIC or DNS"},
		{"static-alone", entry("  hosts: [a.b] \n  resolution: STATIC\n" + port + "  endpoints: [] # HERE\n"), obj, "spec.endpoints", "needs endpoints"},
		{"none-endpoints", entry("  hosts: [a.b]\n" + port + "  endpoints: [{address: 10.0.0.1}] # HERE\n"), obj, "spec.endpoints", "takes no endpoints"},
		{"both", entry("  hosts: [a.b]\n  resolution: STATIC\n" + port + "  workloadSelector: {labels: {a: b}}\n  endpoints: [{address: 10.0.0.1}] # HERE\n"), obj, "spec.endpoints", "exclude each other"},
		{"selector", entry("  hosts: [a.b]\n  resolution: STATIC\n" + port + "  workloadSelector: {} # HERE\n"), obj, "spec.workloadSelector.labels", "selector is empty"},
		{"address", entry("  hosts: [a.b]\n  addresses:\n  - 10.0.0.0/33 # HERE\n" + port), obj, "spec.addresses[0]", "not an address block"},
		{"block", entry("  hosts: [a.b]\n  addresses:\n  - 10.0.0.0/8 # HERE\n" + port), obj, "spec.addresses[0]", "not supported yet"},
		{"port", entry("  hosts: [a.b]\n  ports:\n  - name: http\n    number: 0 # HERE\n"), obj, "spec.ports[0].number", "from 1 to 65535"},
		{"port-name", entry("  hosts: [a.b]\n  ports:\n  - number: 80 # HERE\n"), obj, "spec.ports[0].name", "give it one"},
		{"port-protocol", entry("  hosts: [a.b]\n  ports:\n  - name: a\n    number: 80\n    protocol: QUIC # HERE\n"), obj, "spec.ports[0].protocol", "use HTTP"},
		{"endpoint", entry("  hosts: [a.b]\n  resolution: STATIC\n" + port + "  endpoints:\n  - address: name.example.com # HERE\n"), obj, "spec.endpoints[0].address", "use an IP address"},
		{"unix", entry("  hosts: [a.b]\n  resolution: STATIC\n" + port + "  endpoints:\n  - address: unix:///x # HERE\n"), obj, "spec.endpoints[0].address", "not supported"},
	})
}

func TestWaypointProblems(t *testing.T) {
	gateway := func(meta, spec string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: g\n" + meta + "spec:\n  gatewayClassName: cairn-waypoint\n" + spec
	}
	const good = "  listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n"
	const obj = "Gateway default/g"
	use := func(kind, name string) string {
		return "apiVersion: v1\nkind: " + kind + "\nmetadata:\n  name: x\n  labels:\n    istio.io/use-waypoint: " + name + " # HERE\n"
	}
	const label = "metadata.labels[istio.io/use-waypoint]"
	pods := "\n---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa}}\n"
	checkWrong(t, []wrong{
		{"no-class", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: # HERE\n" + good, obj, "spec.gatewayClassName", "use cairn-waypoint"},
		{"no-listener", gateway("", "  listeners: [] # HERE\n"), obj, "spec.listeners", "protocol HBONE"},
		{"protocol", gateway("", "  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HTTP # HERE\n"), obj, "spec.listeners[0].protocol", "protocol HBONE"},
		{"two", gateway("", "  listeners:\n  - {name: a, port: 15008, protocol: HBONE}\n  - {name: b, port: 15009, protocol: HBONE} # HERE\n"), obj, "spec.listeners[1]", "remove this one"},
		{"port", gateway("", "  listeners:\n  - name: mesh\n    protocol: HBONE\n    port: 0 # HERE\n"), obj, "spec.listeners[0].port", "from 1 to 65535"},
		{"address", gateway("", good+"  addresses:\n  - value: here # HERE\n"), obj, "spec.addresses[0].value", "not an IP address"},
		{"for", gateway("  labels:\n    istio.io/waypoint-for: pods # HERE\n", good), obj, "metadata.labels[istio.io/waypoint-for]", "use service, workload, all or none"},
		{"allowed", gateway("", "  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n    allowedRoutes:\n      namespaces:\n        from: Anywhere # HERE\n"), obj, "spec.listeners[0].allowedRoutes.namespaces.from", "use Same"},
		{"missing-service", use("Service", "nope") + "spec: {}\n", "Service default/x", label, "waypoint default/nope does not exist; add a Gateway"},
		{"missing-pod", use("Pod", "nope") + podSpec, "Pod default/x", label, "does not exist"},
		{"missing-namespace", use("Namespace", "nope"), "Namespace x", label, "waypoint x/nope does not exist"},
		{"missing-other", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels:\n    istio.io/use-waypoint-namespace: infra\n    istio.io/use-waypoint: wp # HERE\n" + waypoint, "Namespace x", label, "waypoint infra/wp does not exist"},
		{"stray-namespace", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels:\n    istio.io/use-waypoint-namespace: infra # HERE\n", "Namespace x", "metadata.labels[istio.io/use-waypoint-namespace]", "has no effect"},
		{"not-a-waypoint", use("Service", "ingress") + "spec: {}\n" + ingress, "Service default/x", label, "is not a waypoint"},
		{"not-admitted", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: x\n  labels:\n    istio.io/use-waypoint-namespace: default\n    istio.io/use-waypoint: wp # HERE\n" + waypoint, "Namespace x", label, "does not admit namespace x"},
		{"cycle-self", gateway("  labels:\n    istio.io/use-waypoint: g # HERE\n", good), obj, label, "waypoint default/g would be served by itself by way of default/g; remove"},
		{"cycle-service", "apiVersion: v1\nkind: Service\nmetadata:\n  name: wp\n  labels:\n    istio.io/use-waypoint: wp # HERE\nspec: {}\n" + waypoint, "Service default/wp", label, "would be served by itself"},
		{"cycle-pod", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  labels:\n    gateway.networking.k8s.io/gateway-name: wp\n    istio.io/use-waypoint: wp # HERE\n" + podSpec + waypoint, "Pod default/x", label, "would be served by itself"},
		{"account-label", gateway("  annotations: {istio.io/for-service-account: sa}\n", good) + pods + "---\n" + use("Service", "g") + "spec: {}\n", "Service default/x", label, "serves the workloads of service account sa and nothing else"},
		{"account-missing", gateway("  annotations:\n    istio.io/for-service-account: ghost # HERE\n", good), obj, "metadata.annotations[istio.io/for-service-account]", "default/ghost does not exist"},
		{"account-name", gateway("  annotations:\n    istio.io/for-service-account: a/b # HERE\n", good), obj, "metadata.annotations[istio.io/for-service-account]", "not the name"},
		{"account-own", gateway("  annotations:\n    istio.io/for-service-account: g # HERE\n", good), obj, "metadata.annotations[istio.io/for-service-account]", "would serve itself"},
		{"account-twice", gateway("  annotations: {istio.io/for-service-account: sa}\n", good) + pods + "---\n" + strings.Replace(gateway("  annotations:\n    istio.io/for-service-account: sa # HERE\n", good), "name: g\n", "name: h\n", 1), "Gateway default/h", "metadata.annotations[istio.io/for-service-account]", "is served by Gateway default/g already (f.yaml:1)"},
	})
}

// A cycle through two waypoints is told at both.
func TestWaypointCycleOfTwo(t *testing.T) {
	text := ""
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
		text += fmt.Sprintf("---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s, labels: {istio.io/use-waypoint: %s}}\nspec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n", pair[0], pair[1])
	}
	res, _ := translate(t, "f.yaml", text, object.Options{})
	if len(res.Problems) != 2 || !strings.Contains(res.Problems[0].Message, "waypoint default/a would be served by itself by way of default/b") {
		t.Errorf("problems: %v, want one at each waypoint", res.Problems)
	}
}

func TestRouteProblems(t *testing.T) {
	route := func(parent, rule string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n" + parent + "  rules:\n" + rule
	}
	const web = "  parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]\n"
	const to = "  - backendRefs: [{name: web, port: 80}]\n"
	const obj = "HTTPRoute default/r"
	rule := func(s string) string { return route(web, to+s) + svc }
	checkWrong(t, []wrong{
		{"no-parent", strings.Replace(route("", to), "spec:", "spec: # HERE", 1) + svc, obj, "spec.parentRefs", "attached to nothing"},
		{"parent-missing", route("  parentRefs:\n  - group: \"\"\n    kind: Service\n    name: wbe # HERE\n", to) + svc, obj, "spec.parentRefs[0].name", "Service default/wbe does not exist"},
		{"parent-gateway", route("  parentRefs:\n  - name: wp # HERE\n", to) + svc, obj, "spec.parentRefs[0].name", "Gateway default/wp does not exist"},
		{"parent-entry", route("  parentRefs:\n  - group: networking.istio.io\n    kind: ServiceEntry\n    name: x # HERE\n", to) + svc, obj, "spec.parentRefs[0].name", "ServiceEntry default/x does not exist"},
		{"parent-kind", route("  parentRefs:\n  - group: \"\"\n    kind: Pod # HERE\n    name: x\n", to) + svc, obj, "spec.parentRefs[0].kind", "name a Service"},
		{"parent-port", route("  parentRefs:\n  - group: \"\"\n    kind: Service\n    name: web\n    port: 81 # HERE\n", to) + svc, obj, "spec.parentRefs[0].port", "no TCP port 81; use one of 80 (http)"},
		{"parent-section", route("  parentRefs:\n  - group: \"\"\n    kind: Service\n    name: web\n    sectionName: grpc # HERE\n", to) + svc, obj, "spec.parentRefs[0].sectionName", "use one of 80 (http)"},
		{"parent-foreign", strings.Replace(route("  parentRefs:\n  - {name: wp, namespace: default} # HERE\n", "  - backendRefs: [{name: far, port: 80}]\n"), "name: r", "name: r, namespace: other", 1) + farSvc + waypoint, "HTTPRoute other/r", "spec.parentRefs[0]", "does not admit routes"},
		{"backend-missing", rule("  - backendRefs:\n    - name: wbe # HERE\n      port: 80\n"), obj, "spec.rules[1].backendRefs[0].name", "Service default/wbe does not exist"},
		{"backend-port", rule("  - backendRefs:\n    - name: web\n      port: 8080 # HERE\n"), obj, "spec.rules[1].backendRefs[0].port", "no TCP port 8080; use one of 80 (http)"},
		{"backend-no-port", rule("  - backendRefs:\n    - name: web # HERE\n"), obj, "spec.rules[1].backendRefs[0].port", "names no port; use one of 80"},
		{"backend-kind", rule("  - backendRefs:\n    - name: web\n      kind: Pod # HERE\n      port: 80\n"), obj, "spec.rules[1].backendRefs[0].kind", "use a Service"},
		{"backend-host", rule("  - backendRefs:\n    - group: networking.istio.io\n      kind: Hostname\n      name: x.example.com # HERE\n      port: 80\n"), obj, "spec.rules[1].backendRefs[0].name", "has host"},
		{"weight", rule("  - backendRefs:\n    - name: web\n      port: 80\n      weight: -1 # HERE\n"), obj, "spec.rules[1].backendRefs[0].weight", "use 0 to 1000000"},
		{"no-grant", rule("  - backendRefs:\n    - name: far\n      namespace: other # HERE\n      port: 80\n") + farSvc, obj, "spec.rules[1].backendRefs[0].namespace", "add a ReferenceGrant"},
		{"other-grant", rule("  - backendRefs:\n    - name: far\n      namespace: other # HERE\n      port: 80\n") + farSvc + "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: other}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{group: \"\", kind: Service, name: near}]}}\n", obj, "spec.rules[1].backendRefs[0].namespace", "add a ReferenceGrant"},
		{"path-type", rule("  - matches:\n    - path:\n        type: Prefix # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].path.type", "use Exact"},
		{"path-relative", rule("  - matches:\n    - path:\n        value: a # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].path.value", "begin with '/'"},
		{"path-dots", rule("  - matches:\n    - path:\n        value: /a/../b # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].path.value", "remove that"},
		{"path-regex", rule("  - matches:\n    - path:\n        type: RegularExpression\n        value: \"/a(\" # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].path.value", "RE2"},
		{"header-regex", rule("  - matches:\n    - headers:\n      - type: RegularExpression\n        name: a\n        value: \"(?=x)\" # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].headers[0].value", "RE2"},
		{"header-name", rule("  - matches:\n    - headers:\n      - name: \"a b\" # HERE\n        value: x\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].headers[0].name", "not a valid name"},
		{"query-type", rule("  - matches:\n    - queryParams:\n      - name: a\n        value: x\n        type: Glob # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].queryParams[0].type", "use Exact"},
		{"method", rule("  - matches:\n    - method: get # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].matches[0].method", "use GET"},
		{"duration", rule("  - timeouts:\n      request: 10 seconds # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].timeouts.request", "not a duration"},
		{"duration-fraction", rule("  - timeouts:\n      request: 1.5s # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].timeouts.request", "not a duration"},
		{"duration-order", rule("  - timeouts:\n      request: 1s\n      backendRequest: 2s # HERE\n    backendRefs: [{name: web, port: 80}]\n"), obj, "spec.rules[1].timeouts.backendRequest", "make it 1s or less"},
		{"rule-name", rule("  - name: a\n    backendRefs: [{name: web, port: 80}]\n  - backendRefs: [{name: web, port: 80}]\n    name: a # HERE\n"), obj, "spec.rules[2].name", "rules[1]; rename"},
		{"hostname", route("  hostnames:\n  - a_b # HERE\n"+web, to) + svc, obj, "spec.hostnames[0]", "not a host name"},
	})
}

func TestFilterProblems(t *testing.T) {
	filter := func(s string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules:\n  - matches: [{path: {type: Exact, value: /a}}]\n    filters:\n" + s + svc
	}
	backend := "    backendRefs: [{name: web, port: 80}]\n"
	const obj = "HTTPRoute default/r"
	checkWrong(t, []wrong{
		{"unknown", filter("    - type: Compress # HERE\n" + backend), obj, "spec.rules[0].filters[0].type", "not a filter"},
		{"says-nothing", filter("    - type: URLRewrite # HERE\n" + backend), obj, "spec.rules[0].filters[0]", "add urlRewrite"},
		{"wrong-field", filter("    - type: ResponseHeaderModifier\n      responseHeaderModifier: {remove: [a]}\n      requestHeaderModifier: {remove: [a]} # HERE\n" + backend), obj, "spec.rules[0].filters[0].requestHeaderModifier", "no effect"},
		{"twice", filter("    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a]}}\n    - type: ResponseHeaderModifier # HERE\n      responseHeaderModifier: {remove: [b]}\n" + backend), obj, "spec.rules[0].filters[1].type", "merge the two"},
		{"both", strings.Replace(filter("    - {type: RequestRedirect, requestRedirect: {hostname: a.b}}\n    - {type: URLRewrite, urlRewrite: {hostname: a.b}}\n"), "filters:", "filters: # HERE", 1), obj, "spec.rules[0].filters", "exclude each other"},
		{"redirect-backend", filter("    - {type: RequestRedirect, requestRedirect: {hostname: a.b}}\n" + "    backendRefs: # HERE\n    - {name: web, port: 80}\n"), obj, "spec.rules[0].backendRefs", "a rule that redirects"},
		{"status", filter("    - type: RequestRedirect\n      requestRedirect:\n        statusCode: 200 # HERE\n"), obj, "spec.rules[0].filters[0].requestRedirect.statusCode", "does not redirect"},
		{"scheme", filter("    - type: RequestRedirect\n      requestRedirect:\n        scheme: ftp # HERE\n"), obj, "spec.rules[0].filters[0].requestRedirect.scheme", "use http or https"},
		{"redirect-host", filter("    - type: RequestRedirect\n      requestRedirect:\n        hostname: \"a b\" # HERE\n"), obj, "spec.rules[0].filters[0].requestRedirect.hostname", "not a host name"},
		{"redirect-port", filter("    - type: RequestRedirect\n      requestRedirect:\n        port: 0 # HERE\n"), obj, "spec.rules[0].filters[0].requestRedirect.port", "from 1 to 65535"},
		{"prefix", filter("    - type: URLRewrite\n      urlRewrite:\n        path:\n          type: ReplacePrefixMatch # HERE\n          replacePrefixMatch: /\n" + backend), obj, "spec.rules[0].filters[0].urlRewrite.path.type", "use ReplaceFullPath"},
		{"path-type", filter("    - type: URLRewrite\n      urlRewrite:\n        path:\n          type: Full # HERE\n" + backend), obj, "spec.rules[0].filters[0].urlRewrite.path.type", "use ReplaceFullPath"},
		{"path-value", filter("    - type: URLRewrite\n      urlRewrite:\n        path:\n          type: ReplaceFullPath\n          replaceFullPath: \"/a b\" # HERE\n" + backend), obj, "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath", "leave out spaces"},
		{"path-nothing", filter("    - type: URLRewrite\n      urlRewrite:\n        path: # HERE\n          type: ReplaceFullPath\n" + backend), obj, "spec.rules[0].filters[0].urlRewrite.path", "needs replaceFullPath"},
		{"header-name", filter("    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        set:\n        - name: \":path\" # HERE\n          value: a\n" + backend), obj, "spec.rules[0].filters[0].requestHeaderModifier.set[0].name", "valid header name"},
		{"header-value", filter("    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        add:\n        - name: a\n          value: \"x\\r\\ny: z\" # HERE\n" + backend), obj, "spec.rules[0].filters[0].requestHeaderModifier.add[0].value", "control characters"},
		{"header-twice", filter("    - type: RequestHeaderModifier\n      requestHeaderModifier:\n        set: [{name: A, value: b}]\n        remove:\n        - a # HERE\n" + backend), obj, "spec.rules[0].filters[0].requestHeaderModifier.remove[0]", "edited twice"},
		{"in-backend", filter("    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a]}}\n    backendRefs:\n    - name: web\n      port: 80\n      filters:\n      - type: CORS # HERE\n"), obj, "spec.rules[0].backendRefs[0].filters[0]", "add cors"},
	})
}

func TestPolicyProblems(t *testing.T) {
	policy := func(spec string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\nspec:\n" + spec
	}
	from := func(s string) string { return policy("  rules:\n  - from:\n    - source:\n" + s) }
	to := func(s string) string { return policy("  rules:\n  - to:\n    - operation:\n" + s) }
	when := func(s string) string { return policy("  rules:\n  - when:\n" + s) }
	peer := func(spec string) string {
		return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec:\n" + spec
	}
	const obj, peerObj = "AuthorizationPolicy default/p", "PeerAuthentication default/p"
	checkWrong(t, []wrong{
		{"action", policy("  action: allow # HERE\n"), obj, "spec.action", "use ALLOW, DENY, AUDIT or CUSTOM"},
		{"custom-l4", policy("  action: CUSTOM # HERE\n  provider: {name: x}\n"), obj, "spec.action", "only waypoints ask providers"},
		{"custom-nobody", policy("  action: CUSTOM\n  provider: {} # HERE\n"), obj, "spec.provider", "needs a provider"},
		{"custom-unknown", policy("  action: CUSTOM\n  targetRef: {kind: Service, name: web}\n  provider:\n    name: x # HERE\n") + svc, obj, "spec.provider.name", "no extension provider \"x\""},
		{"provider", policy("  provider: {name: x} # HERE\n"), obj, "spec.provider", "belongs to action CUSTOM"},
		{"dry-run", strings.Replace(policy("  action: DENY\n  rules: [{}]\n"), "  name: p\n", "  name: p\n  annotations:\n    istio.io/dry-run: \"yes\" # HERE\n", 1), obj, "metadata.annotations[istio.io/dry-run]", `use "true"`},
		{"target-missing", policy("  targetRefs:\n  - kind: Service\n    group: \"\"\n    name: nope # HERE\n"), obj, "spec.targetRefs[0].name", "Service default/nope does not exist"},
		{"target-gateway", policy("  targetRef:\n    kind: Gateway\n    group: gateway.networking.k8s.io\n    name: nope # HERE\n"), obj, "spec.targetRef.name", "Gateway default/nope does not exist"},
		{"target-entry", policy("  targetRef:\n    kind: ServiceEntry\n    group: networking.istio.io\n    name: nope # HERE\n"), obj, "spec.targetRef.name", "ServiceEntry default/nope does not exist"},
		{"target-kind", policy("  targetRef:\n    kind: Pod # HERE\n    name: x\n"), obj, "spec.targetRef.kind", "target a Service"},
		{"target-namespace", policy("  targetRef:\n    kind: Service\n    name: web\n    namespace: other # HERE\n"), obj, "spec.targetRef.namespace", "its own namespace"},
		{"target-class", policy("  targetRef:\n    group: gateway.networking.k8s.io\n    kind: GatewayClass # HERE\n    name: cairn-waypoint\n"), obj, "spec.targetRef.kind", "move it to namespace istio-system"},
		{"target-no-class", strings.Replace(policy("  targetRef:\n    group: gateway.networking.k8s.io\n    kind: GatewayClass\n    name: nope # HERE\n"), "name: p", "name: p\n  namespace: istio-system", 1), "AuthorizationPolicy istio-system/p", "spec.targetRef.name", "GatewayClass nope does not exist"},
		{"selector-and-target", policy("  targetRef: {kind: Service, name: web}\n  selector: {matchLabels: {a: b}} # HERE\n") + svc, obj, "spec.selector", "exclude each other"},
		{"empty-rule", policy("  rules:\n  - # HERE\n"), obj, "spec.rules[0]", "would match everything"},
		{"empty-from", policy("  rules:\n  - from: [] # HERE\n"), obj, "spec.rules[0].from", "would match everything"},
		{"no-source", policy("  rules:\n  - from:\n    - {} # HERE\n"), obj, "spec.rules[0].from[0]", "add one"},
		{"empty-source", policy("  rules:\n  - from:\n    - source: {} # HERE\n"), obj, "spec.rules[0].from[0].source", "would match everyone"},
		{"empty-operation", policy("  rules:\n  - to:\n    - operation: {} # HERE\n"), obj, "spec.rules[0].to[0].operation", "would match everything"},
		{"empty-list", from("        principals: [] # HERE\n"), obj, "spec.rules[0].from[0].source.principals", "would match everything"},
		{"empty-value", from("        namespaces:\n        - \"\" # HERE\n"), obj, "spec.rules[0].from[0].source.namespaces[0]", "matches nothing"},
		{"block", from("        ipBlocks:\n        - 10.0.0.0/8\n        - 10.0.0/8 # HERE\n"), obj, "spec.rules[0].from[0].source.ipBlocks[1]", "not an address block"},
		{"account", from("        serviceAccounts:\n        - a/b/c # HERE\n"), obj, "spec.rules[0].from[0].source.serviceAccounts[0]", "write NAMESPACE/NAME"},
		{"account-mixed", from("        namespaces: [a]\n        serviceAccounts: [a/b] # HERE\n"), obj, "spec.rules[0].from[0].source.serviceAccounts", "use separate sources"},
		{"trust-domains", from("        trustDomains: [] # HERE\n"), obj, "spec.rules[0].from[0].source.trustDomains", "empty list"},
		{"port", to("        ports:\n        - \"http\" # HERE\n"), obj, "spec.rules[0].to[0].operation.ports[0]", "not a port"},
		{"template", to("        paths:\n        - \"/a/{*}b\" # HERE\n"), obj, "spec.rules[0].to[0].operation.paths[0]", "not a path template"},
		{"template-order", to("        paths:\n        - \"/{**}/{*}\" # HERE\n"), obj, "spec.rules[0].to[0].operation.paths[0]", "not a path template"},
		{"unknown-field", to("        path: [/a] # HERE\n        methods: [GET]\n"), obj, "spec.rules[0].to[0].operation.path", `did you mean "paths"?`},
		{"key", when("    - key: request.header[x] # HERE\n      values: [a]\n"), obj, "spec.rules[0].when[0].key", "is not a condition"},
		{"key-experimental", when("    - key: experimental.envoy.filters.x # HERE\n      values: [a]\n"), obj, "spec.rules[0].when[0].key", "not supported"},
		{"key-header", when("    - key: request.headers[] # HERE\n      values: [a]\n"), obj, "spec.rules[0].when[0].key", "names no header"},
		{"no-values", when("    - key: source.ip # HERE\n"), obj, "spec.rules[0].when[0]", "add values"},
		{"when-ip", when("    - key: source.ip\n      notValues:\n      - x # HERE\n"), obj, "spec.rules[0].when[0].notValues[0]", "not an address block"},
		{"when-port", when("    - key: destination.port\n      values:\n      - \"0\" # HERE\n"), obj, "spec.rules[0].when[0].values[0]", "not a port"},
		{"mode", peer("  mtls:\n    mode: strict # HERE\n"), peerObj, "spec.mtls.mode", "use STRICT"},
		{"port-no-selector", peer("  portLevelMtls: {8080: {mode: STRICT}} # HERE\n"), peerObj, "spec.portLevelMtls", "need a selector"},
		{"port-range", peer("  selector: {matchLabels: {a: b}}\n  portLevelMtls:\n    70000: {mode: STRICT} # HERE\n"), peerObj, "spec.portLevelMtls[70000]", "from 1 to 65535"},
		{"port-mode", peer("  selector: {matchLabels: {a: b}}\n  portLevelMtls:\n    8080:\n      mode: OFF # HERE\n"), peerObj, "spec.portLevelMtls[8080].mode", "use STRICT"},
	})
}

func TestAllProblemsAtOnce(t *testing.T) {
	res, _ := translate(t, "f.yaml", `
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 0}], foo: bar}
---
}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: "", kind: Service, name: nope}]
  rules:
  - backendRefs: [{name: nope, port: 80}, {name: a, port: 80, weight: -1}]
`[1:], object.Options{})
	var got []string
	for _, p := range res.Problems {
		got = append(got, fmt.Sprintf("%d %s", p.Line, p.Field))
	}
	want := "4 spec.foo|6 |4 spec.ports[0].port|12 spec.parentRefs[0].name|14 spec.rules[0].backendRefs[0].name|14 spec.rules[0].backendRefs[1].port|14 spec.rules[0].backendRefs[1].weight"
	if strings.Join(got, "|") != want {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "|"), want)
	}
}

// What is wrong fails closed where it is served all the same.
func TestProblemsBreakWhatTheyTouch(t *testing.T) {
	res, _ := translate(t, "f.yaml", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
  - backendRefs: [{name: web, port: 80}, {name: gone, port: 80}]
  - filters: [{type: CORS}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec: {action: CUSTOM, provider: {name: x}}
`+svc, object.Options{})
	if len(res.Problems) != 3 || len(res.Parts.Attachments) != 2 {
		t.Fatalf("%d problems and %d rules, want 3 and 2: %v", len(res.Problems), len(res.Parts.Attachments), res.Problems)
	}
	first, second := res.Parts.Attachments[0].Route, res.Parts.Attachments[1].Route
	if first.Broken != "" || first.Backends[0].Broken != "" || !strings.Contains(first.Backends[1].Broken, "does not exist") {
		t.Errorf("first rule: %+v, want only its second backend broken", first)
	}
	if !strings.Contains(second.Broken, "CORS") {
		t.Errorf("second rule is broken by %q, want its filter", second.Broken)
	}
	if p := res.Parts.Policies[0]; !strings.Contains(p.Invalid, "only waypoints ask providers") {
		t.Errorf("policy is invalid by %q, want its provider", p.Invalid)
	}
}
