package h1

import "testing"

func TestClaims(t *testing.T) {
	for _, tt := range []struct {
		name              string
		identity, address bool
	}{
		{"x-forwarded-client-cert", true, false},
		{"x_forwarded_client_cert", true, false},
		{"x-forwarded_client-cert", true, false},
		{"x-forwarded-client-cert-chain", false, false},
		{"x-forwarded-client-cer", false, false},
		{"x-forwarded-for", false, false},
		{"x-forwarded-proto", false, false},
		{"forwarded", false, false},
		{"x-envoy-peer-metadata", true, false},
		{"x-envoy-peer-metadata-id", true, false},
		{"x_envoy_peer_metadata_id", true, false},
		{"x-envoy-downstream-service-cluster", true, false},
		{"x-envoy-downstream-service-node", true, false},
		{"x-envoy-external-address", false, true},
		{"x_envoy-external_address", false, true},
		{"x-envoy-internal", false, true},
		{"x-envoy-upstream-rq-timeout-ms", false, false},
		{"x-envoy-attempt-count", false, false},
		{"x-istio-attributes", true, false},
		{"x-istio-", true, false},
		{"x-istio", false, false},
		{"x_istio_source", true, false},
		{"x-request-id", false, false},
		{"xxistio-source", false, false},
		{"x", false, false},
		{"", false, false},
	} {
		if got := ClaimsIdentity(tt.name); got != tt.identity {
			t.Errorf("ClaimsIdentity(%q) = %v", tt.name, got)
		}
		if got := ClaimsAddress(tt.name); got != tt.address {
			t.Errorf("ClaimsAddress(%q) = %v", tt.name, got)
		}
		if got := TrailerAllowed(tt.name); got && (tt.identity || tt.address) {
			t.Errorf("%q may be a trailer", tt.name)
		}
	}
}

func BenchmarkClaims(b *testing.B) {
	names := []string{"user-agent", "accept", "x-request-id", "x-forwarded-for", "x-b3-traceid", "content-type", "traceparent", "x-envoy-attempt-count"}
	b.ReportAllocs()
	for b.Loop() {
		for _, n := range names {
			if ClaimsIdentity(n) {
				b.Fatal(n)
			}
		}
	}
}
