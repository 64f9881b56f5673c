package acceptance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/proc"
)

const rotationMesh = demoWaypoint + `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec:
  serviceAccountName: web
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: demo, labels: {app: client}}
spec:
  serviceAccountName: client
  containers: [{name: x, image: example.com/x}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: demo}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: demo}
`

const clientURI, waypointURI = "spiffe://cluster.local/ns/demo/sa/client", "spiffe://cluster.local/ns/demo/sa/waypoint"

// TestRotation replaces the root of a mesh whose certificates live four
// seconds, under load: requests over kept and new connections, streams that
// last throughout, and new tunnels all the time from a client that gets its
// certificates from the CA's service, as a node proxy elsewhere would. None fails.
func TestRotation(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	m := up(t, write(t, t.TempDir(), "mesh.yaml", rotationMesh), "--state", state, "--ca", "127.0.0.1:0", "--cert-ttl", "4s")
	url := "http://" + m.addr(t, "demo", "web") + "/"
	client := m.pod(t, "client").Address

	const lines = 200 // a tenth of a second each
	began, ended := make(chan struct{}, 4), make(chan error, 4)
	for range cap(ended) {
		go func() { ended <- readStream(url+fmt.Sprintf("stream/%d/100ms", lines), lines, began) }()
	}
	for range cap(began) {
		<-began
	}
	l := startLoad(t, 8, client, url, func(string) string { return "web" })
	n := startNewcomers(t, m, 3)
	own, err := (ca.Service{Address: m.CA.Address, RootFile: m.CA.Root, TokenFile: filepath.Join(m.CA.Tokens, "demo", "client")}).Request(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // a round of renewals before

	if out := command(t, t.TempDir(), cairnPath(t), "ca", "rotate", "--state", state); out.code != 0 || !strings.Contains(out.stdout, "trusted, signs later") {
		t.Fatalf("cairn ca rotate: %+v", out)
	}
	if out := command(t, t.TempDir(), cairnPath(t), "ca", "rotate", "--state", state); out.code != 1 || !strings.Contains(out.stderr, "under way") {
		t.Errorf("a second rotation at once: %+v", out)
	}
	eventually(t, 20*time.Second, func() error {
		text, err := os.ReadFile(m.CA.Root)
		if got := strings.Count(string(text), "BEGIN CERTIFICATE"); err != nil || got != 1 {
			return fmt.Errorf("%d roots are trusted, %w", got, err)
		}
		return nil
	})
	for range cap(ended) { // some seconds more under the new root alone
		if err := <-ended; err != nil {
			t.Errorf("a long stream: %v", err)
		}
	}
	noneFailed(t, l.stop())
	noneFailed(t, n.stop())
	if len(n.issuers) != 2 {
		t.Errorf("certificates of the waypoint were signed by %v, want the old root and the new", n.issuers)
	}
	// The twins: who did not renew is out, and so is a root that nobody announced.
	stranger, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	strange, err := stranger.Issue("demo", "client")
	if err != nil {
		t.Fatal(err)
	}
	end := tunnelEnd{addr: net.JoinHostPort(m.Waypoints[0].Address, "15008")}
	for name, l := range map[string]*ca.Leaf{"expired, of the old root": own, "of a stranger's root": strange} {
		cfg := l.Client("")
		cfg.VerifyConnection = nil // it is the waypoint that refuses
		if got, err := end.exchange(cfg, strings.TrimPrefix(strings.TrimSuffix(url, "/"), "http://"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err == nil || got != "" {
			t.Errorf("a certificate that is %s got %.100q", name, got)
		}
	}
	t.Logf("%d requests, %d newcomers' tunnels with %d certificates, none failed", len(l.all), len(n.all), n.certs)
}

// newcomers open a new tunnel for each request.
type newcomers struct {
	load
	issuers map[string]int // by which roots the waypoint's certificates were signed
	certs   int            // how many certificates the CA gave
}

func startNewcomers(t *testing.T, m *mesh, clients int) *newcomers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	n := &newcomers{issuers: map[string]int{}}
	n.cancel = cancel
	t.Cleanup(func() { n.stop() })
	for range clients {
		n.wg.Go(func() { n.run(ctx, m) })
	}
	return n
}

func (n *newcomers) run(ctx context.Context, m *mesh) {
	service := ca.Service{Address: m.CA.Address, RootFile: m.CA.Root, TokenFile: filepath.Join(m.CA.Tokens, "demo", "client")}
	end := tunnelEnd{addr: net.JoinHostPort(m.Waypoints[0].Address, "15008")}
	host, port, err := m.URL("demo", "web", "http")
	authority := net.JoinHostPort(host, fmt.Sprint(port))
	var leaf *ca.Leaf
	for ctx.Err() == nil {
		a := answer{began: time.Now()}
		if leaf == nil || time.Until(leaf.TLS.Leaf.NotAfter) < 2*time.Second {
			if leaf, err = service.Request(context.WithoutCancel(ctx), 4*time.Second); err == nil {
				n.mu.Lock()
				n.certs++
				n.mu.Unlock()
			}
		}
		if err == nil {
			cfg := leaf.Client(waypointURI)
			verify := cfg.VerifyConnection
			cfg.VerifyConnection = func(s tls.ConnectionState) error {
				n.mu.Lock()
				n.issuers[s.PeerCertificates[0].Issuer.CommonName]++
				n.mu.Unlock()
				return verify(s)
			}
			var text string
			text, err = end.exchange(cfg, authority, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
			fmt.Sscanf(text, "HTTP/1.1 %d", &a.status)
		}
		a.err, a.ended = err, time.Now()
		n.mu.Lock()
		n.all = append(n.all, a)
		n.mu.Unlock()
		err = nil
		time.Sleep(20 * time.Millisecond)
	}
}

// TestCertificatesFromCA runs a waypoint by itself that has its certificate from
// the CA of a mesh: by its token, and only under the identity that this stands for.
func TestCertificatesFromCA(t *testing.T) {
	m := up(t, write(t, t.TempDir(), "mesh.yaml", rotationMesh), "--ca", "127.0.0.1:0", "--cert-ttl", "4s")
	token := func(account string) string { return filepath.Join(m.CA.Tokens, "demo", account) }
	text := strings.Replace(rotationMesh, "  containers: [{name: echo,", "  containers: [{name: web,", 1)
	pod := m.pod(t, "web").Address
	text = strings.Replace(text, "ports: [{containerPort: 8080}]}]\n", "ports: [{containerPort: 8080}]}]\nstatus:\n  phase: Running\n  podIP: "+pod+
		"\n  podIPs: [{ip: "+pod+"}]\n  conditions: [{type: Ready, status: \"True\"}]\n", 1)
	vip := strings.TrimSuffix(m.addr(t, "demo", "web"), ":8080")
	text = strings.Replace(text, "  selector: {app: web}", "  clusterIP: "+vip+"\n  selector: {app: web}", 1)
	dir := t.TempDir()
	folder, err := cairn.WriteManifests(dir, text)
	if err != nil {
		t.Fatal(err)
	}
	address := m.prefix.Addr().Next().Next().Next()
	w := cairn.Waypoint{
		Manifests: folder, Gateway: "demo/waypoint", Address: address, Admin: net.JoinHostPort(address.String(), "15000"), Metrics: net.JoinHostPort(address.String(), "15020"),
		Certs: []string{"--ca", m.CA.Address, "--ca-root", m.CA.Root, "--ca-token", token("waypoint")},
	}
	p, err := w.Start(t.Context(), dir, "waypoint", proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop(10 * time.Second)
	service := ca.Service{Address: m.CA.Address, RootFile: m.CA.Root, TokenFile: token("client")}
	for range 3 { // over more than one life of the waypoint's certificate
		leaf, err := service.Request(t.Context(), time.Hour) // it gets four seconds
		if err != nil {
			t.Fatal(err)
		}
		if life := time.Until(leaf.TLS.Leaf.NotAfter); life > 5*time.Second {
			t.Errorf("a certificate for %v where four seconds are the longest", life)
		}
		got, err := tunnelEnd{addr: net.JoinHostPort(address.String(), "15008")}.exchange(leaf.Client(waypointURI), vip+":8080", "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
		if err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatalf("%.300q %v", got, err)
		}
		time.Sleep(2500 * time.Millisecond)
	}
	t.Run("refused", func(t *testing.T) {
		forged := write(t, t.TempDir(), "token", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.AAAA")
		for name, tt := range map[string]struct {
			service ca.Service
			want    string
		}{
			"forged":         {ca.Service{TokenFile: forged}, "Unauthenticated"},
			"impersonation":  {ca.Service{TokenFile: token("client"), Impersonate: waypointURI}, "PermissionDenied"},
			"node-elsewhere": {ca.Service{TokenFile: filepath.Join(m.CA.NodeTokens, "local"), Impersonate: "spiffe://cluster.local/ns/demo/sa/stranger"}, "PermissionDenied"},
		} {
			tt.service.Address, tt.service.RootFile = m.CA.Address, m.CA.Root
			if l, err := tt.service.Request(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, %v, want %s", name, l, err, tt.want)
			}
		}
		node := ca.Service{Address: m.CA.Address, RootFile: m.CA.Root, TokenFile: filepath.Join(m.CA.NodeTokens, m.pod(t, "web").Node), Impersonate: clientURI}
		if l, err := node.Request(t.Context(), time.Hour); err != nil || l.TLS.Leaf.URIs[0].String() != clientURI {
			t.Errorf("the node's proxy got %v, %v", l, err)
		}
	})
	t.Run("other-account", func(t *testing.T) {
		out := commandWithin(t, 3*time.Second, dir, nil, "timeout", "2", cairnPath(t), "waypoint", "--manifests", folder, "--gateway", "demo/waypoint", "--address", address.Next().String(),
			"--admin", address.Next().String()+":15000", "--metrics", address.Next().String()+":15020", "--ca", m.CA.Address, "--ca-root", m.CA.Root, "--ca-token", token("client"))
		if !strings.Contains(out.stderr, "is the token another service account's") {
			t.Errorf("a waypoint with a client's token says %s", out.stderr)
		}
	})
}
