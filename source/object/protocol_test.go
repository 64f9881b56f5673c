package object_test

import (
	"fmt"
	"testing"

	"cairnproxy.dev/cairn/source/object"
)

// What a port carries, as Istio reads it.
func TestPortProtocols(t *testing.T) {
	tests := []struct {
		app, name string
		port      int
		want      string
	}{
		{"kubernetes.io/h2c", "x", 80, "HTTP2"},
		{"kubernetes.io/ws", "x", 80, "HTTP"},
		{"kubernetes.io/wss", "x", 80, "TLS"},
		{"Kubernetes.io/H2C", "x", 80, "HTTP2"},
		{"kubernetes.io/other", "http", 80, ""}, // appProtocol goes before the name
		{"http", "x", 80, "HTTP"},
		{"HTTP", "x", 80, "HTTP"},
		{"http2", "x", 80, "HTTP2"},
		{"grpc", "http", 80, "GRPC"},
		{"grpc-web", "x", 80, "HTTP"},
		{"tcp", "http", 80, "TCP"},
		{"tls", "x", 80, "TLS"},
		{"https", "x", 80, "TLS"},
		{"mongo", "x", 80, "TCP"},
		{"redis", "x", 80, "TCP"},
		{"mysql", "x", 80, "TCP"},
		{"http-v2", "x", 80, "HTTP"},
		{"example.com/own", "x", 80, ""},
		{"", "http", 80, "HTTP"},
		{"", "http-web", 80, "HTTP"},
		{"", "http2-web", 80, "HTTP2"},
		{"", "httpweb", 80, ""},
		{"", "grpc", 80, "GRPC"},
		{"", "grpc-x", 80, "GRPC"},
		{"", "grpc-web-x", 80, "HTTP"},
		{"", "tcp-x", 80, "TCP"},
		{"", "tls-x", 80, "TLS"},
		{"", "https-x", 80, "TLS"},
		{"", "mongo-x", 80, "TCP"},
		{"", "redis", 80, "TCP"},
		{"", "mysql", 80, "TCP"},
		{"", "udp", 80, ""},
		{"", "x", 25, "TCP"},
		{"", "x", 53, "TCP"},
		{"", "x", 3306, "TCP"},
		{"", "x", 27017, "TCP"},
		{"", "http", 3306, "HTTP"},
		{"unknown", "x", 3306, "TCP"},
	}
	for _, tt := range tests {
		app := ""
		if tt.app != "" {
			app = ", appProtocol: " + tt.app
		}
		res, _ := translate(t, "f.yaml", fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{name: %s, port: %d%s}]}}", tt.name, tt.port, app), object.Options{})
		if len(res.Problems) > 0 {
			t.Fatal(res.Problems)
		}
		if got := res.Parts.Services[0].Ports[0].Protocol.String(); got != tt.want {
			t.Errorf("appProtocol %q, name %q, port %d: %q, want %q", tt.app, tt.name, tt.port, got, tt.want)
		}
	}
}
