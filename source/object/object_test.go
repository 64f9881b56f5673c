package object_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// published returns Istio's published manifests, which lie beside the project
// on the machines that have them.
func published(t *testing.T, pattern string) []*object.File {
	t.Helper()
	root := "../../../shared/manifests/istio"
	if _, err := os.Stat(root); err != nil {
		t.Skipf("Istio's published manifests are not here (%v): skipped", err)
	}
	var paths []string
	for _, p := range strings.Fields(pattern) {
		found, err := filepath.Glob(filepath.Join(root, p))
		if err != nil || len(found) == 0 {
			t.Fatalf("no manifests at %s: %v", p, err)
		}
		paths = append(paths, found...)
	}
	var files []*object.File
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, object.Decode(filepath.Base(p), text))
	}
	return files
}

func all(files []*object.File) (objects []*object.Object) {
	for _, f := range files {
		objects = append(objects, f.Objects...)
	}
	return objects
}

func TestPublishedManifests(t *testing.T) {
	files := published(t, "bookinfo/*.yaml httpbin/*.yaml curl/*.yaml bookinfo/gateway-api/route-reviews-90-10.yaml")
	for _, f := range files {
		if len(f.Problems) > 0 || len(f.Ignored) > 0 {
			t.Errorf("%s: problems %v, ignored %v", f.Path, f.Problems, f.Ignored)
		}
	}
	res := object.Translate(all(files), object.Options{Enrol: true, Allocator: &counter{}})
	if len(res.Problems) > 0 {
		t.Fatalf("problems: %v", res.Problems)
	}
	snap := mesh.NewSnapshot(1, res.Parts)
	var got []string
	for _, s := range snap.Services {
		var pods []string
		for _, e := range snap.Endpoints(s.Key) {
			port, _ := e.TargetPort(s, s.Ports[0].Port)
			pods = append(pods, fmt.Sprintf("%s:%d", e.Workload.WorkloadName, port))
		}
		got = append(got, fmt.Sprintf("%s %s %v", s.Name, s.Ports[0].Protocol, pods))
	}
	want := []string{
		"curl HTTP [curl:80]",
		"details-v1 HTTP [details-v1:9080]", "details HTTP [details-v1:9080]",
		"httpbin HTTP [httpbin:8080]",
		"productpage-v1 HTTP [productpage-v1:9080]", "productpage HTTP [productpage-v1:9080]",
		"ratings-v1 HTTP [ratings-v1:9080]", "ratings HTTP [ratings-v1:9080]",
		"reviews-v1 HTTP [reviews-v1:9080]", "reviews-v2 HTTP [reviews-v2:9080]", "reviews-v3 HTTP [reviews-v3:9080]",
		"reviews HTTP [reviews-v1:9080 reviews-v2:9080 reviews-v3:9080]",
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("services and endpoints (-want +got):\n%s", d)
	}
	routes := snap.Routes(mesh.ServiceKey{Namespace: "default", Hostname: "reviews.default.svc.cluster.local"})
	if len(routes) != 1 || len(routes[0].Route.Backends) != 2 || routes[0].Route.Backends[0].Weight != 90 {
		t.Errorf("routes of reviews: %+v, want 90 and 10", routes)
	}
	if len(res.Pods) != 8 || res.Pods[0].Containers[0].Image == "" {
		t.Errorf("%d pods to run, want 8", len(res.Pods))
	}
}

func TestPublishedRoutesTogetherAreDuplicates(t *testing.T) {
	files := published(t, "bookinfo/*.yaml bookinfo/gateway-api/*.yaml")
	res := object.Translate(all(files), object.Options{})
	if len(res.Problems) != 4 {
		t.Fatalf("problems: %v, want one for each further file that defines reviews", res.Problems)
	}
	for _, p := range res.Problems {
		if p.Object != "HTTPRoute default/reviews" || p.Line != 4 || p.Field != "metadata.name" ||
			p.Message != "HTTPRoute default/reviews is defined twice: here and at route-all-v1.yaml:1; keep one of them" {
			t.Errorf("problem: %v", p)
		}
	}
}

func TestDeploymentPodNames(t *testing.T) {
	const text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: %s}\nspec: {replicas: %d, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: %s}]}}}\n"
	names := func(name string, replicas int, image string) (out []string) {
		res, _ := translate(t, "f.yaml", fmt.Sprintf(text, name, replicas, image), object.Options{})
		for _, p := range res.Pods {
			out = append(out, p.Name.Name)
		}
		return out
	}
	three, again, two := names("web", 3, "i"), names("web", 3, "i"), names("web", 2, "i")
	if !slices.Equal(three, again) || !slices.Equal(three[:2], two) {
		t.Errorf("names change from one load to the next: %v, %v, %v", three, again, two)
	}
	if other := names("web", 1, "j"); other[0] == three[0] {
		t.Errorf("the name %s does not change with the template", other[0])
	}
	if long := names(strings.Repeat("a", 60), 1, "i"); len(long[0]) > 63 {
		t.Errorf("name %s is %d letters long, more than a host name may have", long[0], len(long[0]))
	}
	if zero := names("web", 0, "i"); len(zero) != 0 {
		t.Errorf("0 replicas are %v", zero)
	}
}

func TestOptions(t *testing.T) {
	const text = `
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: n}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: n}
spec: {ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: root}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b, "other/ns/a/sa/b"]}}], when: [{key: source.principal, values: [cluster.local/ns/c/sa/d]}]}]
`
	res, _ := translate(t, "f.yaml", text, object.Options{
		TrustDomain: "td", ClusterDomain: "cd", RootNamespace: "root", ClusterID: "c1", Network: "net",
		Allocator: &counter{}, Node: func(n mesh.Name) string { return "node-of-" + n.Name },
		NotReady: func(n mesh.Name) bool { return n == mesh.Name{Namespace: "n", Name: "a"} },
	})
	if len(res.Problems) > 0 {
		t.Fatal(res.Problems)
	}
	w := res.Parts.Workloads[0]
	if w.UID != "c1//Pod/n/a" || w.TrustDomain != "td" || w.Node != "node-of-a" || w.Network != "net" || w.Ready || w.Addresses[0] != netip.MustParseAddr("10.2.0.1") {
		t.Errorf("workload: %+v", w)
	}
	if s := res.Parts.Services[0]; s.Key.Hostname != "a.n.svc.cd" || s.VIPs[0] != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("service: %+v", s)
	}
	rule := res.Parts.Policies[0].Rules[0]
	if d := cmp.Diff([]string{"td/ns/a/sa/b", "other/ns/a/sa/b"}, rule.From[0].Principals); d != "" {
		t.Errorf("principals (-want +got):\n%s", d)
	}
	if rule.When[0].Values[0] != "td/ns/c/sa/d" {
		t.Errorf("source.principal: %v", rule.When[0].Values)
	}
	if res.Parts.TrustDomain != "td" || res.Parts.RootNamespace != "root" {
		t.Errorf("parts: %q, %q", res.Parts.TrustDomain, res.Parts.RootNamespace)
	}
}

func TestNew(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.ServiceSpec{ClusterIP: "x"}}
	o := object.New(svc, mesh.Origin{Source: "kube"})
	if o == nil || o.String() != "Service default/a" {
		t.Fatalf("New gives %v", o)
	}
	res := object.Translate([]*object.Object{o}, object.Options{})
	if len(res.Problems) != 1 || res.Problems[0].Line != 0 || res.Problems[0].Field != "spec.clusterIP" {
		t.Errorf("problems: %v, want one without a line", res.Problems)
	}
	if got := object.New(&corev1.Event{}, mesh.Origin{}); got != nil {
		t.Errorf("New of an Event gives %v, want nil", got)
	}
}

// Pods that one service selects, and nothing else, share the map that says so:
// with 100,000 pods that is most of the memory.
func TestSharedServiceMaps(t *testing.T) {
	res, _ := translate(t, "f.yaml", `
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {selector: {app: a}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {app: a}}, spec: {containers: [{name: c}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: y, labels: {app: a}}, spec: {containers: [{name: c}]}}
`, object.Options{})
	x, y := res.Parts.Workloads[0].Services, res.Parts.Workloads[1].Services
	if fmt.Sprintf("%p", x) != fmt.Sprintf("%p", y) || len(x) != 1 {
		t.Errorf("services of the two pods: %v and %v, want one map", x, y)
	}
}

func FuzzManifests(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		f.Fatalf("no inputs: %v", err)
	}
	for _, in := range inputs {
		text, err := os.ReadFile(in)
		if err != nil {
			f.Fatal(err)
		}
		for _, doc := range strings.Split(string(text), "\n---\n") { // small seeds mutate better
			f.Add(doc)
		}
		f.Add(string(text))
	}
	f.Add("apiVersion: v1\nkind: Service\nmetadata: &a {name: *a}\nspec: {<<: *a}\n")
	f.Fuzz(func(t *testing.T, text string) {
		res, _ := translate(t, "f.yaml", text, object.Options{Enrol: true, Allocator: &counter{}})
		for _, p := range res.Problems {
			if p.File != "f.yaml" || p.Message == "" || p.Line < 1 {
				t.Errorf("problem %+v", p)
			}
		}
		mesh.NewSnapshot(1, res.Parts)
	})
}

func TestTooManyDocuments(t *testing.T) {
	f := object.Decode("f.yaml", []byte(strings.Repeat("---\nkind: X\napiVersion: y/v1\n", 100_002)))
	if len(f.Ignored) != 100_000 || len(f.Problems) != 1 || f.Problems[0].Line != 300_001 || !strings.Contains(f.Problems[0].Message, "split it") {
		t.Errorf("%d documents were read, problems %v; want 100,000 and one", len(f.Ignored), f.Problems)
	}
}
