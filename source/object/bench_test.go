package object_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
)

// The size to think of: 10,000 services with ten pods each.
const (
	manyServices = 10_000
	podsEach     = 10
)

// manyTexts are the manifests of that many services and pods, as files of 100
// services each.
func manyTexts() (texts []string) {
	var b strings.Builder
	for i := range manyServices {
		fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: svc-%d, namespace: ns-%d}
spec:
  clusterIP: 10.%d.%d.%d
  selector: {app: svc-%d}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
`, i, i%100, 64+i>>16, i>>8&255, i&255, i)
		for j := range podsEach {
			k := i*podsEach + j
			fmt.Fprintf(&b, `apiVersion: v1
kind: Pod
metadata:
  name: svc-%d-%d
  namespace: ns-%d
  labels: {app: svc-%d, version: v1}
spec:
  serviceAccountName: svc-%d
  nodeName: node-%d
  containers:
  - name: app
    image: example.com/app:v1
    ports: [{containerPort: 8080}]
status:
  phase: Running
  podIP: 10.%d.%d.%d
  conditions: [{type: Ready, status: "True"}]
---
`, i, j, i%100, i, i, k%500, 128+k>>16, k>>8&255, k&255)
		}
		if i%100 == 99 {
			texts = append(texts, b.String())
			b.Reset()
		}
	}
	return texts
}

func decodeMany(texts []string) (objects []*object.Object) {
	for i, text := range texts {
		objects = append(objects, object.Decode(fmt.Sprintf("%d.yaml", i), []byte(text)).Objects...)
	}
	return objects
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

func BenchmarkDecode(b *testing.B) {
	texts := manyTexts()
	size := 0
	for _, t := range texts {
		size += len(t)
	}
	b.SetBytes(int64(size))
	before := heap()
	var kept []*object.Object
	for b.Loop() {
		kept = decodeMany(texts)
	}
	b.ReportMetric(heap()-before, "MiB-kept")
	runtime.KeepAlive(kept)
}

func BenchmarkTranslate(b *testing.B) {
	objects := decodeMany(manyTexts())
	before := heap()
	var res object.Result
	for b.Loop() {
		res = object.Translate(objects, object.Options{Enrol: true})
	}
	if len(res.Problems) > 0 || len(res.Parts.Workloads) != manyServices*podsEach {
		b.Fatalf("%d workloads, problems %v", len(res.Parts.Workloads), res.Problems)
	}
	b.ReportMetric(heap()-before, "MiB-kept")
	runtime.KeepAlive(res)
}

// BenchmarkPublish is a reload in which one thing has changed.
func BenchmarkPublish(b *testing.B) {
	objects := decodeMany(manyTexts())
	store := source.NewStore()
	store.Publish(object.Translate(objects, object.Options{Enrol: true}).Parts)
	for b.Loop() {
		b.StopTimer()
		parts := object.Translate(objects, object.Options{Enrol: true}).Parts
		parts.Workloads[0].Ready = false
		b.StartTimer()
		store.Publish(parts)
	}
	if n := len(store.Current().Endpoints(mesh.ServiceKey{Namespace: "ns-1", Hostname: "svc-1.ns-1.svc.cluster.local"})); n != podsEach {
		b.Fatalf("%d endpoints, want %d", n, podsEach)
	}
}
