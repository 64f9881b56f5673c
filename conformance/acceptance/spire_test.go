package acceptance

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

const spireServer = `
server {
  bind_address = "ADDRESS"
  bind_port = "8081"
  socket_path = "DIR/api.sock"
  trust_domain = "cluster.local"
  data_dir = "DIR/server"
  ca_ttl = "24h"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "DIR/server/db" } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`

const spireAgent = `
agent {
  data_dir = "DIR/agent"
  server_address = "ADDRESS"
  server_port = "8081"
  socket_path = "DIR/agent.sock"
  insecure_bootstrap = true
  trust_domain = "cluster.local"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`

// TestSPIRE runs a waypoint by itself whose certificates, of ten seconds, are
// SPIRE's.
func TestSPIRE(t *testing.T) {
	serverPath, agentPath, err := peers.SPIRE(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	defer block.Close()
	dir, err := os.MkdirTemp("", "spire") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fill := strings.NewReplacer("DIR", dir, "ADDRESS", block.Addr(1).String(), "VIP", block.Addr(2).String(), "POD", block.Addr(3).String())
	for _, d := range []string{"server", "agent"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run := func(path string, args ...string) {
		name := filepath.Base(path)
		p, err := proc.Start(proc.Options{Path: path, Args: args, Dir: dir, Log: filepath.Join(dir, name+".log"), Out: filepath.Join(dir, name+".out")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Stop(10 * time.Second) })
	}
	server := func(args ...string) outcome {
		return command(t, dir, serverPath, append(args, "-socketPath", dir+"/api.sock")...)
	}
	run(serverPath, "run", "-config", write(t, dir, "server.conf", fill.Replace(spireServer)))
	var token string
	eventually(t, 20*time.Second, func() error {
		out := server("token", "generate", "-spiffeID", "spiffe://cluster.local/node")
		_, token, _ = strings.Cut(strings.TrimSpace(out.stdout), "Token: ")
		if out.code != 0 || token == "" {
			return fmt.Errorf("spire-server has no token: %+v", out)
		}
		return nil
	})
	if out := server("entry", "create", "-parentID", "spiffe://cluster.local/node", "-spiffeID", waypointURI,
		"-selector", fmt.Sprintf("unix:uid:%d", os.Getuid()), "-x509SVIDTTL", "10"); out.code != 0 {
		t.Fatalf("spire-server entry create: %+v", out)
	}
	run(agentPath, "run", "-config", write(t, dir, "agent.conf", fill.Replace(spireAgent)), "-joinToken", token)

	ln, err := net.Listen("tcp", block.Addr(3).String()+":15008")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	web, client := minted(t, server, "web"), minted(t, server, "client")
	sink := &hbone.Sink{TLS: web, DefaultSize: 1024}
	go sink.Serve(ln)
	folder, err := cairn.WriteManifests(dir, fill.Replace(aloneMesh))
	if err != nil {
		t.Fatal(err)
	}
	address := block.Addr(4)
	w := cairn.Waypoint{
		Manifests: folder, Gateway: "demo/waypoint", Address: address, Admin: address.String() + ":15000", Metrics: address.String() + ":15020",
		Certs: []string{"--spiffe-socket", "unix://" + dir + "/agent.sock"},
	}
	p, err := w.Start(t.Context(), dir, "waypoint", proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(10 * time.Second)
	serials, n := map[string]bool{}, 0
	client.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		serials[leaf.SerialNumber.String()] = true
		if got := leaf.URIs[0].String(); got != waypointURI {
			return fmt.Errorf("the waypoint is %s", got)
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: client.RootCAs})
		return err
	}
	end := tunnelEnd{addr: address.String() + ":15008"}
	for began := time.Now(); time.Since(began) < 25*time.Second; n++ {
		got, err := end.exchange(client, block.Addr(2).String()+":80", "GET /bytes HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
		if err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatalf("request %d: %.300q %v", n, got, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(serials) < 3 {
		t.Errorf("the waypoint showed %d certificates in 25 seconds", len(serials))
	}
	t.Logf("%d requests, each by a new tunnel, with %d certificates of the waypoint", n, len(serials))
}

// minted is one end of tunnels with a certificate that SPIRE's server makes.
func minted(t *testing.T, server func(...string) outcome, account string) *tls.Config {
	t.Helper()
	dir := t.TempDir()
	if out := server("x509", "mint", "-spiffeID", "spiffe://cluster.local/ns/demo/sa/"+account, "-write", dir); out.code != 0 {
		t.Fatalf("spire-server x509 mint: %+v", out)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "bundle.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair}, RootCAs: roots,
		ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, InsecureSkipVerify: true, SessionTicketsDisabled: true,
	}
}
