package ztunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/host"
	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/internal/logbuf"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/telemetry"
)

// podWorld is a mesh of network namespaces: client, server and other are
// captured pods on two nodes, outside is a pod that is not. Each pod but
// client answers HTTP on 8080 with its name and the address of who asked.
type podWorld struct {
	*world
	lab  *host.Lab
	pods map[string]*host.Pod
}

const resolvConf = "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 timeout:2 attempts:1\n"

func newPodWorld(t *testing.T) *podWorld {
	t.Helper()
	lab, err := host.NewLab()
	if errors.Is(err, host.ErrPermission) {
		t.Skip("skipped: network namespaces need root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	w := &podWorld{world: &world{t: t, store: source.NewStore(), lines: &logbuf.Buffer{}}, lab: lab, pods: map[string]*host.Pod{}}
	w.certs = identity.NewCache(ca.Issuer(time.Hour), identity.CacheOptions{})
	w.m = telemetry.NewMetrics("ztunnel", "test", telemetry.MetricsOptions{NoRuntime: true})
	w.log = telemetry.NewWriter(w.lines, telemetry.WriterOptions{})
	n1, n2 := w.node("n1"), w.node("n2")
	w.pod(n1, "client", "10.72.0.1")
	w.pod(n2, "server", "10.72.0.2")
	w.pod(n1, "other", "10.72.0.3")
	w.pod(n2, "outside", "10.72.0.4")

	server, outside := pod("ns", "server", "10.72.0.2"), pod("ns", "outside", "10.72.0.4")
	outside.Protocol = mesh.TunnelNone
	other := pod("ns", "other", "10.72.0.3")
	w.parts = mesh.Parts{
		Workloads: []*mesh.Workload{pod("ns", "client", "10.72.0.1"), server, other, outside},
		Services: []*mesh.Service{
			svcOf("ns", "echo", "10.96.0.1", server), svcOf("ns", "plain", "10.96.0.2", outside),
			svcOf("ns", "headless", "", server), svcOf("ns", "near", "10.96.0.3", other),
		},
	}
	w.publish(w.parts)
	w.proxy, err = New(Options{
		Mode: ModeInPod, Snapshots: w.store, Certificates: w.certs, Metrics: w.m, AccessLog: w.log, DNS: true,
		Sockets: capture.Sockets{Mark: 0x539, ReusePort: true, KeepAlive: capture.DefaultKeepAlive}, DrainTime: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.done = cancel, make(chan error, 1)
	for _, name := range []string{"client", "server", "other"} {
		if err := w.pods[name].Namespace().Redirect(host.DefaultRedirection()); err != nil {
			t.Fatal(err)
		}
		w.add(name)
	}
	go func() { w.done <- w.proxy.Run(ctx) }()
	t.Cleanup(w.close)
	<-w.proxy.Ready()
	return w
}

func (w *podWorld) add(name string) {
	w.t.Helper()
	p := Pod{UID: "c//Pod/ns/" + name, WorkloadInfo: WorkloadInfo{"ns", name, name}, NetNS: w.pods[name].Namespace().FD()}
	for range 2 { // the second time it is there already
		if err := w.proxy.AddPod(p); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *podWorld) node(name string) *host.Node {
	w.t.Helper()
	n, err := w.lab.AddNode(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *podWorld) pod(n *host.Node, name, addr string) {
	w.t.Helper()
	p, err := n.AddPod(host.PodOptions{Name: name, Address: ip(addr), ResolvConf: resolvConf})
	if err != nil {
		w.t.Fatal(err)
	}
	w.pods[name] = p
	ln, err := p.Namespace().ListenTCP(w.t.Context(), ap("0.0.0.0:8080"), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(rw, "%s saw %s", name, from)
	})}
	go srv.Serve(ln)
	w.t.Cleanup(func() { srv.Close() })
}

// curl runs an unmodified curl in a pod.
func (w *podWorld) curl(from string, args ...string) (string, error) {
	w.t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		w.t.Skip("skipped: there is no curl here")
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, append([]string{"-sS", "--max-time", "8", "--noproxy", "*"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := w.pods[from].Start(cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// get asks over HTTP from a namespace, from an address if one is given.
func (w *podWorld) get(ns *host.Namespace, from netip.Addr, to string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	conn, err := ns.DialTCP(ctx, netip.AddrPortFrom(from, 0), ap(to), nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	b, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	_, body, ok := strings.Cut(string(b), "\r\n\r\n")
	if !ok {
		return "", fmt.Errorf("no answer but %q", b) // writing may have met the reset first
	}
	return body, nil
}

func TestPods(t *testing.T) {
	w := newPodWorld(t)
	tests := []struct {
		name string
		args []string
		want string // "" for refused
	}{
		{"by-name", []string{"http://echo/"}, "server saw 10.72.0.1"},
		{"by-full-name", []string{"http://echo.ns.svc.cluster.local/"}, "server saw 10.72.0.1"},
		{"by-vip", []string{"http://10.96.0.1/"}, "server saw 10.72.0.1"},
		{"by-pod-address", []string{"http://10.72.0.2:8080/"}, "server saw 10.72.0.1"},
		{"headless", []string{"http://headless:8080/"}, "server saw 10.72.0.1"},
		{"same-node", []string{"http://near/"}, "other saw 10.72.0.1"},
		{"outside-the-mesh", []string{"http://plain/"}, "outside saw 10.72.0.1"},
		{"outside-by-address", []string{"http://10.72.0.4:8080/"}, "outside saw 10.72.0.1"},
		{"no-such-port", []string{"http://10.96.0.1:81/"}, ""},
		{"nobody-there", []string{"http://10.72.0.2:9999/"}, ""},
		{"proxys-own-port", []string{"http://10.72.0.2:15001/"}, ""},
		{"localhost-proxys-own-port", []string{"http://127.0.0.1:15001/"}, ""},
		{"own-address-proxys-own-port", []string{"http://10.72.0.1:15006/"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := w.curl("client", tt.args...)
			if tt.want == "" && err == nil {
				t.Errorf("got %q, want a refusal", got)
			}
			if tt.want != "" && (err != nil || got != tt.want) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, err := w.curl("client", "http://no-such-name.ns/"); err == nil || !strings.Contains(err.Error(), "resolve") {
		t.Errorf("unknown name: %v, want that it does not resolve", err)
	}
	var text bytes.Buffer
	if err := w.m.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "istio_dns_requests_total{") {
		t.Error("no DNS requests were counted")
	}
	w.close()
	if log := w.logged(); !strings.Contains(log, `src.identity="spiffe://cluster.local/ns/ns/sa/client" dst.addr=10.72.0.2:8080 dst.hbone_addr=10.72.0.2:8080`) {
		t.Errorf("no inbound connection over HBONE in the access log:\n%s", log)
	}
}

func TestPodsPlaintext(t *testing.T) {
	w := newPodWorld(t)
	outside := w.pods["outside"].Namespace()
	if got, err := w.get(outside, netip.Addr{}, "10.72.0.2:8080"); err != nil || got != "server saw 10.72.0.4" {
		t.Errorf("plain text: got %q, %v", got, err)
	}
	if got, err := w.get(w.pods["server"].Node.Namespace(), host.ProbeAddr, "10.72.0.2:8080"); err != nil || got != "server saw 169.254.7.127" {
		t.Errorf("probe: got %q, %v", got, err)
	}
	if got, err := w.get(outside, netip.Addr{}, "10.72.0.2:15006"); err == nil {
		t.Errorf("the proxy's own port answered %q", got)
	}
	w.parts.PeerAuth = []*mesh.PeerAuthentication{{Name: mesh.Name{Namespace: "ns", Name: "strict"}, Mode: mesh.MTLSStrict}}
	w.publish(w.parts)
	if got, err := w.get(outside, netip.Addr{}, "10.72.0.2:8080"); err == nil {
		t.Errorf("plain text under STRICT: got %q, want a reset", got)
	}
	if got, err := w.curl("client", "http://echo/"); err != nil || got != "server saw 10.72.0.1" {
		t.Errorf("mutual TLS under STRICT: got %q, %v", got, err)
	}
}

// TestPodsBound binds a service to a waypoint: its pods' port is closed to all who come another
// way, in plain text as by HBONE, and all else goes on.
func TestPodsBound(t *testing.T) {
	w := newPodWorld(t)
	ln, err := w.pods["server"].Namespace().ListenTCP(t.Context(), ap("0.0.0.0:8081"), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "other port") })}
	go srv.Serve(ln)
	defer srv.Close()
	bound := *w.parts.Services[0] // echo, of server
	bound.Waypoint = wpRef("ns", "wp")
	w.parts.Services[0], w.parts.Services[2] = &bound, svcOf("ns", "headless", "")
	w.parts.Waypoints = []*mesh.Waypoint{gateway("ns", "wp", "10.72.0.99")}
	w.publish(w.parts)
	outside, node := w.pods["outside"].Namespace(), w.pods["server"].Node.Namespace()
	closed := func(what, got string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: got %q around the waypoint, want a refusal", what, got)
		}
	}
	open := func(what, want, got string, err error) {
		t.Helper()
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", what, got, err, want)
		}
	}
	got, err := w.get(outside, netip.Addr{}, "10.72.0.2:8080")
	closed("plain text", got, err)
	got, err = w.curl("client", "http://10.72.0.2:8080/")
	closed("by the pod's address", got, err)
	got, err = w.curl("client", "http://echo/")
	closed("with no waypoint listening", got, err)
	got, err = w.get(outside, netip.Addr{}, "10.72.0.2:8081")
	open("other port, plain text", "other port", got, err)
	got, err = w.curl("client", "http://10.72.0.2:8081/")
	open("other port, HBONE", "other port", got, err)
	got, err = w.get(node, host.ProbeAddr, "10.72.0.2:8080")
	open("host probe", "server saw 169.254.7.127", got, err)

	optional := bound
	optional.WaypointOptional = true
	w.parts.Services[0] = &optional
	w.publish(w.parts)
	got, err = w.get(outside, netip.Addr{}, "10.72.0.2:8080")
	open("opted out, plain text", "server saw 10.72.0.4", got, err)
	got, err = w.curl("client", "http://echo/")
	open("opted out, no waypoint listening", "server saw 10.72.0.1", got, err)
	w.close()
	if log := w.logged(); !strings.Contains(log, "this connection (in plain text) did not come through it: service ns/echo.ns.svc.cluster.local is bound to waypoint ns/wp") {
		t.Errorf("the access log does not say why:\n%s", log)
	}
}

func TestPodsPolicyByAddress(t *testing.T) {
	w := newPodWorld(t)
	w.parts.Policies = []*mesh.AuthorizationPolicy{{
		Name: mesh.Name{Namespace: "ns", Name: "by-address"}, Action: mesh.ActionDeny,
		Rules: []mesh.AuthzRule{{From: []mesh.AuthzSource{{IPBlocks: []netip.Prefix{netip.MustParsePrefix("10.72.0.3/32")}}}}},
	}}
	w.publish(w.parts)
	if got, err := w.curl("client", "http://echo/"); err != nil || got != "server saw 10.72.0.1" {
		t.Errorf("client: got %q, %v", got, err)
	}
	if got, err := w.curl("other", "http://echo/"); err == nil {
		t.Errorf("other: got %q, want a refusal", got)
	}
}

func TestPodsRemove(t *testing.T) {
	w := newPodWorld(t)
	w.proxy.RemovePod("c//Pod/ns/server")
	w.proxy.RemovePod("c//Pod/ns/server")
	if got, err := w.curl("client", "http://echo/"); err == nil {
		t.Errorf("removed: got %q, want a refusal", got)
	}
	w.add("server")
	if got, err := w.curl("client", "http://echo/"); err != nil || got != "server saw 10.72.0.1" {
		t.Errorf("added again: got %q, %v", got, err)
	}
}

func TestAddPodWrongMode(t *testing.T) {
	p, err := New(Options{Snapshots: source.NewStore(), Certificates: identity.NewCache(nil, identity.CacheOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AddPod(Pod{UID: "x"}); err == nil {
		t.Error("a pod was added in loopback mode")
	}
}
