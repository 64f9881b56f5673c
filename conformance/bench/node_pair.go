package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/proc"
	"cairnproxy.dev/cairn/conformance/tcpload"
)

// nodePair is what stands around a pair of node proxies:
//
//	load ──TCP──► client's proxy ══HBONE══► server's proxy ──TCP──► application
//	└─ client's namespace ─────┘  veth pair └──────── server's namespace ────┘
//
// Both proxies are of the same kind and share the proxies' core; load and
// application are in this process, on the other one. What is counted is the sum
// of both proxies.
type nodePair struct {
	net      *nodeNet
	load     *tcpload.Load
	pressure *pressure
	stop     func() error // ends the application
}

// pairContender starts both ends of one kind.
type pairContender struct {
	single contender // of the same program, for its version
	lab    *lab
	// run starts the proxies, the server's first, and returns them, the
	// client's first, and the access log of the server's.
	run func(ctx context.Context, dir string, n *nodeNet, files [2]ca.Files, opts proc.Options) (proc.Group, string, error)
}

func nodeContenders(l *lab) []contender {
	return []contender{
		&pairContender{single: &cairnProxy{lab: l, called: "cairn"}, lab: l, run: runCairnPair},
		&pairContender{single: &envoyProxy{lab: l}, lab: l, run: runEnvoyPair},
	}
}

func (p *pairContender) name() string { return p.single.name() + "-pair" }

func (p *pairContender) version(ctx context.Context) (string, error) { return p.single.version(ctx) }

func (p *pairContender) start(ctx context.Context, dir string, s shape) (*running, error) {
	pods, err := newNodeNet(ctx)
	if err != nil {
		return nil, err
	}
	pair := &nodePair{net: pods}
	serve := pair.serve
	if s.apart {
		serve = func() error { return pair.serveApart(ctx, dir, p.lab.opts) }
	}
	if err := serve(); err != nil {
		return nil, errors.Join(err, pods.close())
	}
	r, err := p.proxies(ctx, dir, pair)
	if err != nil {
		return nil, errors.Join(err, pair.stop(), pods.close())
	}
	return r, nil
}

// serve starts the application.
func (n *nodePair) serve() error {
	ln, err := n.net.listen()
	if err != nil {
		return fmt.Errorf("starting the application: %w", err)
	}
	app, done := &tcpload.App{}, make(chan error, 1)
	go func() { done <- app.Serve(ln) }()
	n.load = &tcpload.Load{Dial: n.net.dial, App: app}
	n.stop = func() error { return errors.Join(ln.Close(), <-done) }
	return nil
}

// applicationCommand makes this program an application alone.
const applicationCommand = "application"

// serveApart starts the application as a process of its own.
func (n *nodePair) serveApart(ctx context.Context, dir string, o options) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting the application: %w", err)
	}
	p, err := proc.Start(proc.Options{
		Path: self, Args: []string{applicationCommand, nodeApp.String()}, Log: filepath.Join(dir, "application.log"),
		Core: o.loadCore, Nice: o.nice, Netns: n.net.server,
	})
	if err != nil {
		return err
	}
	n.load = &tcpload.Load{Dial: n.net.dial, App: &tcpload.App{}}
	n.stop = func() error { return p.Stop(10 * time.Second) }
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = p.Await(ctx, func() error {
		return proc.Inside(n.net.server, func() error {
			conn, err := net.DialTimeout("tcp", nodeApp.String(), time.Second)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	})
	if err != nil {
		return errors.Join(fmt.Errorf("starting the application: %w", err), n.stop())
	}
	return nil
}

// serveApplication is the application's process. It returns its exit code.
func serveApplication(addr string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		context.AfterFunc(ctx, func() { ln.Close() })
		err = new(tcpload.App).Serve(ln)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: the application:", err)
		return 1
	}
	return 0
}

func (p *pairContender) proxies(ctx context.Context, dir string, pair *nodePair) (*running, error) {
	var files [2]ca.Files
	for i, leaf := range []*ca.Leaf{p.lab.client, p.lab.server} {
		var err error
		if files[i], err = p.lab.ca.Write(dir, []string{"client", "server"}[i], leaf); err != nil {
			return nil, err
		}
	}
	group, log, err := p.run(ctx, dir, pair.net, files, proc.Options{Core: p.lab.opts.proxyCore, Nice: p.lab.opts.nice})
	if err != nil {
		return nil, err
	}
	pair.pressure = newPressure(group)
	undo := func() {
		pair.pressure.close()
		// What failed of the application failed the run already.
		if err := errors.Join(pair.stop(), pair.net.close()); err != nil {
			fmt.Fprintln(os.Stderr, "bench: taking the pods away:", err)
		}
	}
	return &running{Group: group, addr: nodeApp.String(), log: log, undo: undo, pair: pair}, nil
}

// pairMesh is what Cairn's node proxies know, in ztunnel's format. Envoy is
// told the same by its configuration: one peer, with that identity.
const pairMesh = `workloads:
- {uid: cluster1//Pod/bench/client, name: client, namespace: bench, serviceAccount: client, trustDomain: cluster.local,
   workloadName: client, workloadType: deployment, canonicalName: client, canonicalRevision: v1,
   workloadIps: ["CLIENT"], protocol: HBONE, node: node-c, network: "", services: {}}
- {uid: cluster1//Pod/bench/server, name: server, namespace: bench, serviceAccount: server, trustDomain: cluster.local,
   workloadName: server, workloadType: deployment, canonicalName: server, canonicalRevision: v1,
   workloadIps: ["SERVER"], protocol: HBONE, node: node-s, network: "", services: {}}
policies: []
services: []
`

func runCairnPair(ctx context.Context, dir string, n *nodeNet, files [2]ca.Files, opts proc.Options) (proc.Group, string, error) {
	xds := filepath.Join(dir, "xds.yaml")
	text := strings.NewReplacer("CLIENT", nodeClient.String(), "SERVER", nodeServer.String()).Replace(pairMesh)
	if err := os.WriteFile(xds, []byte(text), 0o600); err != nil {
		return nil, "", fmt.Errorf("describing the mesh: %w", err)
	}
	start := func(name, netns, node string, files ca.Files) (*proc.Process, error) {
		z := cairn.Ztunnel{
			Netns: netns, Workload: "bench/" + name + "/" + name, Node: node, LocalXDS: xds, Files: files, Options: opts,
			// The application sees the proxy's address, as behind Envoy: the
			// client's own takes marks and conntrack in the server's pod.
			Env: []string{"ENABLE_ORIG_SRC=false"},
		}
		z.Options.Out = filepath.Join(dir, name+".access")
		return z.Start(ctx, dir, name, func(ctx context.Context, url string) (*http.Response, error) { return proc.Get(ctx, netns, url) })
	}
	server, err := start("server", n.server, "node-s", files[1])
	if err != nil {
		return nil, "", err
	}
	client, err := start("client", n.client, "node-c", files[0])
	if err != nil {
		return nil, "", errors.Join(err, server.Stop(0))
	}
	return proc.Group{client, server}, filepath.Join(dir, "server.access"), nil
}

func runEnvoyPair(ctx context.Context, dir string, n *nodeNet, files [2]ca.Files, opts proc.Options) (proc.Group, string, error) {
	admin, log := netip.MustParseAddrPort("127.0.0.1:15000"), filepath.Join(dir, "server.access")
	hbone := netip.AddrPortFrom(nodeServer, 15008)
	opts.Netns = n.server
	server, err := envoy.Start(ctx, dir, "server", envoy.Server{
		Listen: hbone, Admin: admin, Files: files[1], AccessLog: log, Apps: map[string]netip.AddrPort{nodeApp.String(): nodeApp},
	}, opts)
	if err != nil {
		return nil, "", err
	}
	opts.Netns = n.client
	client, err := envoy.Start(ctx, dir, "client", envoy.Client{
		Listen: netip.MustParseAddrPort("127.0.0.1:15001"), Admin: admin, Upstream: hbone, Authority: nodeApp.String(),
		Expect: serverURI, Files: files[0], AccessLog: filepath.Join(dir, "client.access"),
	}, opts)
	if err != nil {
		return nil, "", errors.Join(err, server.Stop(0))
	}
	return proc.Group{client, server}, log, nil
}
