package main

import (
	"strings"
	"testing"
)

const testDump = `{
  "services": [{"name": "a", "namespace": "ns", "hostname": "a.ns.svc.cluster.local", "vips": ["/127.64.0.1"], "ports": {"80": 8080},
    "waypoint": {"destination": "/127.96.0.9", "hboneMtlsPort": 15008}, "endpoints": {"x": {}, "y": {}}}],
  "certificates": [{"identity": "spiffe://td/ns/ns/sa/a", "state": "Available", "certChain": [{"expirationTime": "2026-01-02T03:04:05Z"}]}],
  "things": [{"path": "/v1", "weight": 90}],
  "version": {"version": "dev"}
}`

const waypointDump = `{
  "services": [{"address": "127.64.0.1:80", "hostname": "a.ns.svc.cluster.local", "protocol": "HTTP", "policies": ["ns/p"], "routes": [
    {"name": "ns/r/0", "matches": [{"Method": "GET", "Path": {"Kind": 1, "Value": "/v1"}, "Headers": [{"Name": "user", "Value": "bob"}]}, {}],
     "backends": [{"service": "ns/b", "port": 80, "weight": 90}, {"service": "ns/c", "port": 80, "weight": 10}]}]}],
  "routes": [{"kind": "HTTPRoute", "name": "ns/r",
    "parents": [{"parent": "Service ns/a", "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted"},
      {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "Service ns/c does not exist"}]}],
    "rules": [{"name": "canary", "matches": ["GET /v1/* user=bob"], "filters": ["mirror to ns/m:80"],
      "ports": [{"hostname": "a.ns.svc.cluster.local", "port": 80, "policy": "timeout=10s retry=2x503"}],
      "backends": [{"service": "ns/b", "port": 80, "weight": 90}, {"service": "nothing", "port": 0, "weight": 10, "broken": "Service ns/c does not exist"}]}]}],
  "statuses": [{"kind": "TrafficPolicy", "name": "ns/p", "parents": [{"parent": "Service ns/a", "conditions": [{"type": "Accepted", "status": "True"}]}]}],
  "clusters": [{"name": "ns/b:80", "balancer": "Maglev by source address", "policies": ["ns/p"], "state": "1 ejected", "endpoints": [{"address": "127.96.0.1:8080"}, {"address": "127.96.0.2:8080", "condition": "ejected"}]}],
  "tokens": [{"issuer": "https://a", "keys": "https://a/keys", "keyIds": ["k1", "k2"], "fetched": "2026-01-02T03:04:05Z", "age": "3s", "error": "https://a/keys answered 503"}]
}`

func TestPrintWaypoint(t *testing.T) {
	tests := []struct {
		section string
		want    string
	}{
		{"services", "HOSTNAME ADDRESS PROTOCOL ROUTES POLICIES\na.ns.svc.cluster.local 127.64.0.1:80 HTTP 1 ns/p\n"},
		{"routes", `HTTPRoute ns/r
parent Service ns/a: Accepted=True ResolvedRefs=False (BackendNotFound: Service ns/c does not exist)
rule canary
match GET /v1/* user=bob
filter mirror to ns/m:80
at a.ns.svc.cluster.local:80: timeout=10s retry=2x503
to ns/b:80 weight=90
to nothing:0 weight=10, BROKEN: Service ns/c does not exist
`},
		{"statuses", "KIND NAME PARENTS\nTrafficPolicy ns/p Service ns/a Accepted=True\n"},
		{"policies", "HOSTNAME ADDRESS NAME\na.ns.svc.cluster.local 127.64.0.1:80 ns/p\n"},
		{"clusters", "NAME BALANCER POLICIES ENDPOINTS STATE\nns/b:80 Maglev by source address ns/p 127.96.0.1:8080,127.96.0.2:8080(ejected) 1 ejected\n"},
		{"tokens", "ISSUER KEYS KEYIDS AGE ERROR\nhttps://a https://a/keys k1,k2 3s https://a/keys answered 503\n"},
	}
	for _, tt := range tests {
		t.Run(tt.section, func(t *testing.T) {
			var b strings.Builder
			if err := printSection(&b, []byte(waypointDump), tt.section, "table"); err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for line := range strings.Lines(b.String()) {
				got.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
			}
			if got.String() != tt.want {
				t.Errorf("got:\n%swant:\n%s", &got, tt.want)
			}
		})
	}
}

func TestPrintSection(t *testing.T) {
	tests := []struct {
		name, section, output string
		want                  []string
	}{
		{"services", "services", "table", []string{"NAMESPACE", "ns", "a", "a.ns.svc.cluster.local", "127.64.0.1", "80:8080", "127.96.0.9", "2"}},
		{"certificates", "certificates", "table", []string{"IDENTITY", "spiffe://td/ns/ns/sa/a", "Available", "until", "2026-01-02T03:04:05Z"}},
		{"section without columns", "things", "table", []string{"PATH", "WEIGHT", "/v1", "90"}},
		{"not a list", "version", "table", []string{`"version": "dev"`}},
		{"json", "services", "json", []string{`"hboneMtlsPort": 15008`}},
		{"dump", "dump", "table", []string{`"services": [`, `"things": [`}},
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
	if err == nil || !strings.Contains(err.Error(), "certificates, services, things, version") {
		t.Errorf("error %v, want one that lists the sections", err)
	}
}
