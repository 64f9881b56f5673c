package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/node"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// lab is one waypoint under test with the services of many cases behind it.
type lab struct {
	peer     string // cairn or envoy
	dir      string // what the programs write
	folder   string // manifests
	ca       *ca.CA
	net      *loopback.Network
	nodes    *node.Server
	waypoint netip.Addr
	admin    string
	metrics  string
	access   string // file
	process  *proc.Process
	trials   []*trial

	mu      sync.Mutex
	clients map[clientKey]*node.Client
}

type clientKey struct {
	namespace, account string
	from               netip.Addr
}

// identityOf is the SPIFFE URI of a service account.
func identityOf(namespace, account string) string {
	return "spiffe://cluster.local/ns/" + namespace + "/sa/" + account
}

// newLab makes everything but the waypoint.
func newLab(t *testing.T, peer string) *lab {
	t.Helper()
	network, err := loopback.TakeNetwork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{
		peer: peer, dir: t.TempDir(), ca: authority, net: network, clients: map[clientKey]*node.Client{},
		nodes: node.NewServer(identityOf("mesh", "waypoint")), waypoint: network.Next(),
	}
	t.Cleanup(l.nodes.Close)
	l.folder = filepath.Join(l.dir, "manifests")
	if err := os.Mkdir(l.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

// gatewayManifest is the waypoint that all namespaces use, and the nodes that pods may be
// on: it is on "near" itself, "beside" is in its zone, "around" in its region.
const gatewayManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: mesh}
spec:
  gatewayClassName: cairn-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
    allowedRoutes: {namespaces: {from: All}}
---
apiVersion: v1
kind: Pod
metadata: {name: waypoint, namespace: mesh, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}
spec:
  serviceAccountName: waypoint
  nodeName: near
  containers: [{name: proxy, image: example.com/proxy}]
status:
  phase: Running
  podIP: $WAYPOINT
  podIPs: [{ip: $WAYPOINT}]
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: v1
kind: Node
metadata: {name: near, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: beside, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1}}
---
apiVersion: v1
kind: Node
metadata: {name: around, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z2}}
---
apiVersion: v1
kind: Node
metadata: {name: far, labels: {topology.kubernetes.io/region: r2, topology.kubernetes.io/zone: z3}}
---
apiVersion: v1
kind: Node
metadata: {name: farther, labels: {topology.kubernetes.io/region: r3, topology.kubernetes.io/zone: z4}}
`

// start runs the waypoint for the trials that have been added.
func (l *lab) start(t *testing.T) {
	t.Helper()
	leaf, err := l.ca.Issue("mesh", "waypoint")
	if err != nil {
		t.Fatal(err)
	}
	files, err := l.ca.Write(l.dir, "waypoint", leaf)
	if err != nil {
		t.Fatal(err)
	}
	l.access = filepath.Join(l.dir, "access.log")
	if l.peer == "cairn" {
		l.startCairn(t, files)
	} else {
		l.startEnvoy(t, files)
	}
	t.Cleanup(func() {
		if err := l.process.Err(); err != nil {
			t.Errorf("the waypoint ended before it was told to: %v", err)
			return
		}
		l.keep(t)
		if err := l.process.Stop(20 * time.Second); err != nil {
			t.Errorf("stopping the waypoint: %v", err)
		}
	})
}

func (l *lab) startCairn(t *testing.T, files ca.Files) {
	if err := os.WriteFile(filepath.Join(l.folder, "mesh.yaml"), []byte(strings.ReplaceAll(gatewayManifest, "$WAYPOINT", l.waypoint.String())), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, x := range l.trials {
		if err := x.write(x.manifests()); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.writeMeshConfig(); err != nil {
		t.Fatal(err)
	}
	l.leaveOutRefused(t)
	w := cairn.Waypoint{Manifests: l.folder, Gateway: "mesh/waypoint", Address: l.waypoint, Files: files, AccessLog: l.access}
	for _, addr := range []*string{&w.Admin, &w.Metrics} {
		port, err := loopback.Port(l.waypoint)
		if err != nil {
			t.Fatal(err)
		}
		*addr = netip.AddrPortFrom(l.waypoint, port).String()
	}
	l.admin, l.metrics = w.Admin, w.Metrics
	var err error
	if l.process, err = w.Start(t.Context(), l.dir, "waypoint", proc.Options{}); err != nil {
		t.Fatal(err)
	}
}

// writeMeshConfig writes the MeshConfig with the providers of all cases, if there are any.
func (l *lab) writeMeshConfig() error {
	var providers strings.Builder
	for _, x := range l.trials {
		text := x.c.provider
		if x.twin {
			text = x.c.providerTwin
		}
		providers.WriteString(x.expand(text))
	}
	if providers.Len() == 0 {
		return nil
	}
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    extensionProviders:\n    " +
		strings.ReplaceAll(strings.TrimSpace(providers.String()), "\n", "\n    ") + "\n"
	return os.WriteFile(filepath.Join(l.folder, "meshconfig.yaml"), []byte(text), 0o644)
}

// keep copies what a lab wrote, and Envoy's statistics, into the folder that
// $TRAFFIC_KEEP names, for those who look for the reason of a failure.
func (l *lab) keep(t *testing.T) {
	dir := os.Getenv("TRAFFIC_KEEP")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, l.peer)
	if err := os.CopyFS(dir, os.DirFS(l.dir)); err != nil {
		t.Log(err)
	}
	for _, page := range []string{"clusters", "stats", "config_dump"} {
		resp, err := http.Get("http://" + l.admin + "/" + page)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		os.WriteFile(filepath.Join(dir, page+".txt"), text, 0o644)
	}
}

// leaveOutRefused asks `cairn check` which manifests it refuses, and takes
// these cases out: they fail, and the others run.
func (l *lab) leaveOutRefused(t *testing.T) {
	path, err := peers.Cairn()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is taken away may be what others lead to
		out, err := exec.CommandContext(t.Context(), path, "check", l.folder, "--json").Output()
		if err == nil {
			return
		}
		var exit *exec.ExitError
		var report struct {
			Problems []problem `json:"problems"`
		}
		if !errors.As(err, &exit) || json.Unmarshal(out, &report) != nil {
			t.Fatalf("cairn check: %v: %s", err, out)
		}
		for _, p := range report.Problems {
			l.refuse(p)
		}
	}
}

// problem is one line of `cairn check --json`.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Object  any    `json:"object"`
	Field   string `json:"field"`
	Message string `json:"message"`
	Served  bool   `json:"served"` // the rest of the configuration is served all the same
}

func (l *lab) refuse(p problem) {
	for _, x := range l.trials {
		if filepath.Base(p.File) != x.ns+".yaml" || p.Served || x.refused != "" {
			continue
		}
		x.refused = fmt.Sprintf("line %d: %v %s: %s", p.Line, p.Object, p.Field, p.Message)
		os.Remove(x.file())
	}
}

func (l *lab) startEnvoy(t *testing.T, files ca.Files) {
	w := envoy.Waypoint{
		Listen: netip.AddrPortFrom(l.waypoint, 15008), Admin: netip.AddrPortFrom(l.waypoint, 15000), Files: files, AccessLog: l.access,
	}
	for _, x := range l.trials {
		services, err := x.toEnvoy()
		if err != nil {
			x.refused = err.Error()
			continue
		}
		w.Services = append(w.Services, services...)
		w.Clusters = append(w.Clusters, x.clusters...)
		w.Inspect = w.Inspect || strings.HasPrefix(x.c.name, "tls-")
	}
	l.admin = w.Admin.String()
	var err error
	if l.process, err = envoy.Start(t.Context(), l.dir, "waypoint", w, proc.Options{}); err != nil {
		log, _ := os.ReadFile(filepath.Join(l.dir, "waypoint.log"))
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "rror") {
				t.Log(line[:min(len(line), 600)])
			}
		}
		t.Fatal(err)
	}
}

// client returns the node proxy of a service account, which connects from an
// address; the zero one is any.
func (l *lab) client(namespace, account string, from netip.Addr) (*node.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := clientKey{namespace, account, from}
	if c := l.clients[key]; c != nil {
		return c, nil
	}
	leaf, err := l.ca.Issue(namespace, account)
	if err != nil {
		return nil, err
	}
	c := node.NewClient(netip.AddrPortFrom(l.waypoint, 15008), leaf, identityOf("mesh", "waypoint"), from)
	l.clients[key] = c
	return c, nil
}

// dial opens a connection as a client's node proxy does.
func (l *lab) dial(ctx context.Context, namespace, account string, from netip.Addr, to netip.AddrPort) (*node.Conn, error) {
	c, err := l.client(namespace, account, from)
	if err != nil {
		return nil, err
	}
	return c.Dial(ctx, to.String())
}

// logged returns the lines of the waypoint's access log that have all texts.
func (l *lab) logged(texts ...string) []string {
	content, err := os.ReadFile(l.access)
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(content)) {
		all := true
		for _, s := range texts {
			all = all && strings.Contains(line, s)
		}
		if all {
			out = append(out, line)
		}
	}
	return out
}
