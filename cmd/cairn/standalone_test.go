package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

// certFiles writes a certificate of ns/account and returns the flags that name
// its files.
func certFiles(t *testing.T, ns, account string) []string {
	t.Helper()
	ca, err := identity.NewCA(mesh.DefaultTrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Issue(mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: ns, ServiceAccount: account}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, "cert", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate.Certificate[0]})))
	put(t, dir, "key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	put(t, dir, "root", string(ca.RootPEM()))
	return []string{"--cert", filepath.Join(dir, "cert"), "--key", filepath.Join(dir, "key"), "--root", filepath.Join(dir, "root")}
}

// runUntilReady runs a command until fn, which is called once the readiness
// page at addr answers 200, has returned.
func runUntilReady(t *testing.T, args []string, addr string, fn func()) (code int, stderr string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, args, &out, &errs) }()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case code := <-done:
			return code, errs.String()
		case <-deadline.C:
			t.Fatalf("%v is not ready after 20 s", args)
		default:
		}
		if status, _, err := ask(ctx, testClient(t), "GET", "http://"+addr+"/healthz/ready"); err == nil && status == 200 {
			break
		}
	}
	fn()
	cancel()
	return <-done, errs.String()
}

func TestWaypointAlone(t *testing.T) {
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	args := append([]string{
		"waypoint", "--manifests", dir, "--gateway", "shop/waypoint", "--address", "127.85.0.1",
		"--admin", "127.85.0.1:15000", "--metrics", "127.85.0.1:15020", "--log-level", "error",
	}, certFiles(t, "shop", "waypoint")...)
	code, stderr := runUntilReady(t, args, "127.85.0.1:15020", func() {
		c, err := net.Dial("tcp", "127.85.0.1:15008")
		if err != nil {
			t.Errorf("nobody listens for tunnels: %v", err)
		} else {
			c.Close()
		}
		var b, errs strings.Builder
		if code := run(t.Context(), []string{"config", "--admin", "127.85.0.1:15000"}, &b, &errs); code != exitGood || !strings.Contains(b.String(), `"waypoint": "shop/waypoint"`) {
			t.Errorf("cairn config: exit code %d, %.200s %s", code, b.String(), errs.String())
		}
	})
	if code != exitGood || stderr != "" {
		t.Errorf("exit code %d, stderr %q, want %d and nothing", code, stderr, exitGood)
	}
}

func TestWaypointRefuses(t *testing.T) {
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	certs := certFiles(t, "shop", "waypoint")
	good := map[string]string{"--manifests": dir, "--gateway": "shop/waypoint", "--address": "127.85.1.1"}
	tests := []struct {
		name, flag, value string
		code              int
		want              string
	}{
		{"no gateway", "--gateway", "", exitUsage, "--gateway is needed"},
		{"half a gateway", "--gateway", "waypoint", exitUsage, "NAMESPACE/NAME"},
		{"bad address", "--address", "here", exitUsage, "want an IP address"},
		{"no manifests", "--manifests", "", exitUsage, "--manifests is needed"},
		{"unknown gateway", "--gateway", "shop/other", exitFailed, "no waypoint shop/other"},
		{"missing folder", "--manifests", "/nonexistent", exitFailed, "/nonexistent"},
		{"missing certificate", "--cert", "/nonexistent.pem", exitFailed, "/nonexistent.pem"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"waypoint"}, certs...)
			for flag, value := range good {
				args = append(args, flag, value)
			}
			for i, a := range args {
				if a == tt.flag {
					args[i+1] = tt.value
				}
			}
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), args, &stdout, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d, stderr %s; want %d and %q", code, &stderr, tt.code, tt.want)
			}
		})
	}
}

func TestZtunnelRefuses(t *testing.T) {
	certs := certFiles(t, "shop", "web")
	tests := []struct {
		name string
		env  map[string]string
		args []string
		code int
		want string
	}{
		{"no certificate", map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop/web/web", "LOCAL_XDS_PATH": "/x"}, nil, exitUsage, "certificates are needed"},
		{"no environment", nil, certs, exitFailed, "PROXY_MODE"},
		{"no mesh", map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop/web/web", "XDS_ADDRESS": ""}, certs, exitFailed, "LOCAL_XDS_PATH"},
		{
			"missing file",
			map[string]string{"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "shop/web/web", "LOCAL_XDS_PATH": "/nonexistent.yaml"},
			certs, exitFailed, "/nonexistent.yaml",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), append([]string{"ztunnel"}, tt.args...), &stdout, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d, stderr %s; want %d and %q", code, &stderr, tt.code, tt.want)
			}
		})
	}
}

func TestNameservers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# x\nnameserver 10.0.0.2\nnameserver ::1 # y\nsearch a b\nnameserver\nnameserver bad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := nameservers(file)
	if len(got) != 2 || got[0] != netip.MustParseAddrPort("10.0.0.2:53") || got[1] != netip.MustParseAddrPort("[::1]:53") {
		t.Errorf("nameservers = %v", got)
	}
	if got := nameservers(file + "-not"); got != nil {
		t.Errorf("a missing file names %v", got)
	}
}
