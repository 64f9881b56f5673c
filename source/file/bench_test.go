package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
)

// BenchmarkReload is the time from an edit of one of 100 files to the
// publication, with 10,000 services and 100,000 pods.
func BenchmarkReload(b *testing.B) {
	dir := b.TempDir()
	for i := range 100 {
		var text strings.Builder
		for j := range 100 {
			fmt.Fprintf(&text, "apiVersion: v1\nkind: Service\nmetadata: {name: svc-%d, namespace: ns-%d}\nspec: {clusterIP: 10.64.%d.%d, selector: {app: svc-%d}, ports: [{name: http, port: 80}]}\n---\n", j, i, i, j, j)
			for k := range 10 {
				n := (i*100+j)*10 + k
				fmt.Fprintf(&text, "apiVersion: v1\nkind: Pod\nmetadata: {name: svc-%d-%d, namespace: ns-%d, labels: {app: svc-%d}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.%d.%d.%d}\n---\n", j, k, i, j, 128+n>>16, n>>8&255, n&255)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(text.String()), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	src, store := file.New(file.Options{Paths: []string{dir}}), source.NewStore()
	first := store.Publish(src.Load().Parts)
	if len(first.Workloads) != 100_000 {
		b.Fatalf("%d workloads", len(first.Workloads))
	}
	for i := 0; b.Loop(); i++ {
		f, err := os.OpenFile(filepath.Join(dir, "0.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprintf(f, "---\napiVersion: v1\nkind: Service\nmetadata: {name: more-%d}\nspec: {ports: [{port: 80}]}\n", i)
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		store.Publish(src.Load().Parts)
	}
	if last := store.Current(); last.Workloads[5] != first.Workloads[5] || len(last.Services) <= len(first.Services) {
		b.Fatal("nothing was reused or nothing was added")
	}
}
