package object_test

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
)

// 10,000 routes, each on a service of its own: from nothing, and when one of them has changed.
func BenchmarkRoutes(b *testing.B) {
	text := func(weight int) []byte {
		var s strings.Builder
		s.WriteString(waypoint + served)
		for i := range 10_000 {
			kind := []string{"HTTPRoute", "GRPCRoute"}[i%2]
			w := 1
			if i == 5000 {
				w = weight
			}
			fmt.Fprintf(&s, "---\n{apiVersion: v1, kind: Service, metadata: {name: s-%d}, spec: {ports: [{name: http, port: 80}]}}\n", i)
			fmt.Fprintf(&s, "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: %s, metadata: {name: r-%d}, spec: {parentRefs: [{group: '', kind: Service, name: s-%d}], rules: [{backendRefs: [{name: s-%d, port: 80, weight: %d}]}]}}\n", kind, i, i, i, w)
		}
		return []byte(s.String())
	}
	first := object.Decode("f.yaml", text(1))
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if res := object.NewTranslator(object.Options{}).Translate(first.Objects); len(res.Problems) > 0 || len(res.Parts.Statuses) != 10_000 {
				b.Fatal(res.Problems)
			}
		}
	})
	b.Run("one-changed", func(b *testing.B) {
		second := object.Redecode("f.yaml", text(2), first)
		tr := object.NewTranslator(object.Options{})
		tr.Translate(first.Objects)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			objects := second.Objects
			if i%2 == 1 {
				objects = first.Objects
			}
			if res := tr.Translate(objects); len(res.Parts.Attachments) != 10_000 {
				b.Fatal(res.Problems)
			}
		}
	})
}
