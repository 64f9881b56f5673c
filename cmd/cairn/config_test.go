package main

import (
	"strings"
	"testing"
)

const testDump = `{
  "services": [{"name": "a", "namespace": "ns", "hostname": "a.ns.svc.cluster.local", "vips": ["/127.64.0.1"], "ports": {"80": 8080},
    "waypoint": {"destination": "/127.96.0.9", "hboneMtlsPort": 15008}, "endpoints": {"x": {}, "y": {}}}],
  "certificates": [{"identity": "spiffe://td/ns/ns/sa/a", "state": "Available", "certChain": [{"expirationTime": "2026-01-02T03:04:05Z"}]}],
  "routes": [{"path": "/v1", "weight": 90}],
  "version": {"version": "dev"}
}`

func TestPrintSection(t *testing.T) {
	tests := []struct {
		name, section, output string
		want                  []string
	}{
		{"services", "services", "table", []string{"NAMESPACE", "ns", "a", "a.ns.svc.cluster.local", "127.64.0.1", "80:8080", "127.96.0.9", "2"}},
		{"certificates", "certificates", "table", []string{"IDENTITY", "spiffe://td/ns/ns/sa/a", "Available", "until", "2026-01-02T03:04:05Z"}},
		{"section without columns", "routes", "table", []string{"PATH", "WEIGHT", "/v1", "90"}},
		{"not a list", "version", "table", []string{`"version": "dev"`}},
		{"json", "services", "json", []string{`"hboneMtlsPort": 15008`}},
		{"dump", "dump", "table", []string{`"services": [`, `"routes": [`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := printSection(&b, []byte(testDump), tt.section, tt.output); err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.want {
				if !strings.Contains(b.String(), w) {
					t.Errorf("lacks %q:\n%s", w, &b)
				}
			}
		})
	}
	err := printSection(&strings.Builder{}, []byte(testDump), "nope", "table")
	if err == nil || !strings.Contains(err.Error(), "certificates, routes, services, version") {
		t.Errorf("error %v, want one that lists the sections", err)
	}
}
