package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
)

// BenchmarkReload is the time from an edit of one of 100 files to the
// publication, with 10,000 services and 100,000 pods.
func BenchmarkReload(b *testing.B) {
	dir := b.TempDir()
	writeMany(b, dir, 10_000, 10)
	src, store := file.New(file.Options{Paths: []string{dir}}), source.NewStore()
	first := store.Publish(src.Load().Parts)
	if len(first.Workloads) != 100_000 {
		b.Fatalf("%d workloads", len(first.Workloads))
	}
	for i := 0; b.Loop(); i++ {
		f, err := os.OpenFile(filepath.Join(dir, "99.yaml"), os.O_APPEND|os.O_WRONLY, 0)
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
