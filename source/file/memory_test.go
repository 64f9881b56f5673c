package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
)

// writeMany writes manifests of services with pods each, 100 services a file.
func writeMany(tb testing.TB, dir string, services, pods int) {
	tb.Helper()
	var text strings.Builder
	for i := range services {
		fmt.Fprintf(&text, "apiVersion: v1\nkind: Service\nmetadata: {name: svc-%d, namespace: ns-%d}\nspec: {clusterIP: 10.64.%d.%d, selector: {app: svc-%d}, ports: [{name: http, port: 80}]}\n---\n", i, i/100, i>>8, i&255, i)
		for j := range pods {
			n := i*pods + j
			fmt.Fprintf(&text, "apiVersion: v1\nkind: Pod\nmetadata: {name: svc-%d-%d, namespace: ns-%d, labels: {app: svc-%d, version: v1}}\nspec: {serviceAccountName: svc-%d, nodeName: node-%d, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}\nstatus: {podIP: 10.%d.%d.%d, conditions: [{type: Ready, status: 'True'}]}\n---\n",
				i, j, i/100, i, i, n%50, 128+n>>16, n>>8&255, n&255)
		}
		if i%100 == 99 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(text.String()), 0o600); err != nil {
				tb.Fatal(err)
			}
			text.Reset()
		}
	}
}

// held returns the bytes that a source and its store hold for such a mesh.
func held(t *testing.T, services, pods int) float64 {
	t.Helper()
	dir := t.TempDir()
	writeMany(t, dir, services, pods)
	before := heap()
	src, store := file.New(file.Options{Paths: []string{dir}}), source.NewStore()
	res := src.Load()
	if len(res.Problems) > 0 {
		t.Fatal(res.Problems)
	}
	store.Publish(res.Parts)
	res = file.Result{}
	used := heap() - before
	if n := len(store.Current().Workloads); n != services*pods {
		t.Fatalf("%d workloads, want %d", n, services*pods)
	}
	runtime.KeepAlive(src)
	return used
}

func heap() float64 {
	for range 2 { // what has a finalizer goes with the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// The memory of a large mesh is a promise: 10 KB for a service with one pod, of
// which a waypoint's connections and rules take their share.
func TestMemoryPerObject(t *testing.T) {
	const services = 1000
	few, many := held(t, services, 1), held(t, services, 6)
	workload := (many - few) / (5 * services)
	service := few/services - workload
	t.Logf("%.0f bytes a workload, %.0f a service", workload, service)
	if workload > 2500 || service > 4500 {
		t.Errorf("a workload takes %.0f bytes and a service %.0f; at most 2500 and 4500 are expected", workload, service)
	}
}
