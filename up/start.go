package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/ztunnel"
	"cairnproxy.dev/cairn/telemetry"
)

// startProxies ends the proxies that the manifests do not need any more, and
// starts those that they need and that do not run.
func (r *reconciler) startProxies(life context.Context) error {
	nodes, snap := r.wantedNodes(), r.store.Current()
	for name, p := range r.nodes {
		if !nodes[name] {
			r.retire(p)
			delete(r.nodes, name)
		}
	}
	for name, p := range r.wps {
		if w := snap.Waypoint(name); w == nil || !slices.Equal(w.Addresses, p.spec.Addresses) {
			r.retire(p)
			delete(r.wps, name)
		}
	}
	var errs []error
	for name := range nodes {
		if r.nodes[name] == nil {
			p, err := r.startProxy(life, r.nodeSpec(name), Pod{})
			if err != nil {
				errs = append(errs, err)
				continue
			}
			r.nodes[name] = p
		}
	}
	for _, w := range snap.Waypoints {
		if r.wps[w.Name] == nil && len(w.Addresses) > 0 {
			p, err := r.startWaypoint(life, w)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			r.wps[w.Name] = p
		}
	}
	return errors.Join(errs...)
}

// retire lets a proxy drain by itself. sweepRetired clears up after it.
func (r *reconciler) retire(p *runningProxy) {
	p.cancel()
	r.retired = append(r.retired, p)
}

// sweepRetired takes away the places of proxies that have ended.
func (r *reconciler) sweepRetired() {
	r.retired = slices.DeleteFunc(r.retired, func(p *runningProxy) bool {
		select {
		case <-p.done:
			r.clearPlace(p)
			return true
		default:
			return false
		}
	})
}

func (r *reconciler) clearPlace(p *runningProxy) {
	if p.forward != nil {
		p.forward.close()
	}
	if p.place.Name != "" {
		r.machine.removePod(p.place)
	}
}

// awaitRetired waits for the end of a proxy of that name that still drains: its
// successor needs its ports.
func (r *reconciler) awaitRetired(s spec) {
	r.retired = slices.DeleteFunc(r.retired, func(p *runningProxy) bool {
		if p.spec.String() != s.String() {
			return false
		}
		<-p.done
		r.clearPlace(p)
		return true
	})
}

// wantedNodes are the nodes that have a proxy. In loopback mode that is one for
// all: two cannot listen on the same service.
func (r *reconciler) wantedNodes() map[string]bool {
	want := map[string]bool{}
	if !r.o.Netns {
		want[defaultNode] = true
		return want
	}
	for _, p := range r.pods {
		want[p.Node] = true
	}
	return want
}

func (r *reconciler) nodeSpec(name string) spec {
	return r.servers(spec{Node: name, InPod: r.o.Netns}, r.hostAlloc.Node(name))
}

// servers sets where a proxy's servers listen: at the known ports of addr.
func (r *reconciler) servers(s spec, addr netip.Addr) spec {
	s.Version, s.CRL = r.o.Version, r.ca.ca.CRLPath()
	s.Admin = netip.AddrPortFrom(addr, telemetry.AdminPort)
	s.Metrics = netip.AddrPortFrom(addr, telemetry.MetricsPort)
	s.Ready = netip.AddrPortFrom(addr, telemetry.ReadyPort)
	return s
}

// startWaypoint starts a waypoint: in loopback mode on an address of its own,
// else in a network namespace, like a pod.
func (r *reconciler) startWaypoint(life context.Context, w *mesh.Waypoint) (*runningProxy, error) {
	s := r.servers(spec{Waypoint: w.Name, Identity: w.Identity, Addresses: w.Addresses, Port: w.Port}, w.Addresses[0])
	r.awaitRetired(s)
	if !r.o.Netns {
		return r.startProxy(life, s, Pod{})
	}
	s.Admin = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), telemetry.AdminPort)
	place := Pod{Namespace: w.Name.Namespace, Name: "waypoint " + w.Name.Name, Node: defaultNode, Address: w.Addresses[0]}
	if err := r.machine.addPod(place); err != nil {
		return nil, err
	}
	shown, f, err := r.forwardServers(s, place)
	if err == nil {
		var p *runningProxy
		if p, err = r.startProxy(life, s, place); err == nil {
			p.forward, p.shown = f, shown
			return p, nil
		}
		f.close()
	}
	r.machine.removePod(place)
	return nil, err
}

// forwardServers gives the servers of a proxy in a network namespace addresses
// on this machine, which are those of the spec that it returns.
func (r *reconciler) forwardServers(s spec, place Pod) (spec, *forwarder, error) {
	shown := r.servers(s, r.hostAlloc.Waypoint(s.Waypoint))
	f := newForwarder(func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		return r.machine.dialInside(ctx, place, to)
	})
	if err := errors.Join(f.forward(shown.Admin, s.Admin), f.forward(shown.Metrics, s.Metrics)); err != nil {
		f.close()
		return s, nil, err
	}
	return shown, f, nil
}

// startProxy starts a proxy: in this process, or in its own if that is wanted
// or if it has a place of its own to run in.
func (r *reconciler) startProxy(life context.Context, s spec, place Pod) (*runningProxy, error) {
	p := newRunningProxy(s, place)
	issuer := r.ca.issuer()
	if place.Name == "" && (!r.o.Processes || s.InPod) {
		p.spec.Shared = r.hasRuntime
		r.hasRuntime = true
		err := p.start(life, deps{store: r.store, issuer: issuer, accessLog: r.o.AccessLog, log: r.log.With("proxy", s.String())})
		if err != nil {
			return nil, fmt.Errorf("starting %s: %w", s, err)
		}
		return p, nil
	}
	child := &process{
		spec: s, self: r.o.Self, args: r.o.ProxyArgs, store: r.store, issuer: issuer, accessLog: r.o.AccessLog, stderr: r.o.Stderr,
		log: r.log, place: place, start: r.machine.start, serving: p.setServing, applied: p.setApplied,
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(life)
	go func() {
		defer close(p.done)
		child.run(ctx)
	}()
	return p, nil
}

// startAgainAfter is when proxies of this process that failed are started again.
const startAgainAfter = 2 * time.Second

// sweepFailed looks for proxies that have ended by themselves. One that was
// told to quit stays away, and its traffic is refused; the others are started
// again after a while.
func (r *reconciler) sweepFailed(life context.Context, now time.Time) {
	for name, p := range r.nodes {
		if r.tellFailure(p, now) {
			delete(r.nodes, name)
		}
	}
	for name, p := range r.wps {
		if r.tellFailure(p, now) {
			r.clearPlace(p)
			delete(r.wps, name)
		}
	}
	if r.again.IsZero() || now.Before(r.again) {
		return
	}
	r.again = time.Time{}
	errs := []error{r.startProxies(life)}
	for _, p := range r.pods {
		errs = append(errs, r.takeIn(p))
	}
	if err := errors.Join(errs...); err != nil {
		r.log.Error("starting proxies again", "error", err)
		r.again = now.Add(startAgainAfter)
	}
}

// tellFailure reports whether p has failed and is to be started again.
func (r *reconciler) tellFailure(p *runningProxy, now time.Time) bool {
	ended, err := p.failure()
	if !ended || p.told {
		return false
	}
	if errors.Is(err, errQuit) {
		p.told = true
		r.log.Warn("a proxy was told to quit and has ended; what it served is refused", "proxy", p.spec.String())
		return false
	}
	r.log.Error("a proxy failed; what it served is refused until it is started again", "proxy", p.spec.String(), "error", err)
	r.again = now.Add(startAgainAfter)
	return true
}

// takeIn gives a pod in a network namespace to its node's proxy.
func (r *reconciler) takeIn(p Pod) error {
	node := r.nodes[p.Node]
	if !r.o.Netns || !p.Captured || node == nil || node.node == nil {
		return nil
	}
	fd, err := r.machine.namespace(p)
	if err != nil {
		return err
	}
	return node.node.AddPod(ztunnel.Pod{
		UID: p.UID, NetNS: fd,
		WorkloadInfo: ztunnel.WorkloadInfo{Namespace: p.Namespace, Name: p.Name, ServiceAccount: p.ServiceAccount},
	})
}
