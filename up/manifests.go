package up

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
	"cairnproxy.dev/cairn/source/object"
)

// defaultNode is the node of pods that name none.
const defaultNode = "local"

// manifests follows the manifests: what source/file makes of them, changed
// where one machine is not a cluster.
type manifests struct {
	src   *file.Source
	log   *slog.Logger
	alloc *Allocator
	netns bool
	// noticed are the notices that have been told.
	noticed map[string]bool
	mayBind func(netip.AddrPort) bool
}

func newManifests(o Options, alloc *Allocator, log *slog.Logger) *manifests {
	src := file.New(file.Options{Paths: o.Paths, Log: log, Objects: object.Options{
		Enrol: !o.NoEnrol, Allocator: alloc, Node: func(mesh.Name) string { return defaultNode },
	}})
	return &manifests{src: src, log: log, alloc: alloc, netns: o.Netns, noticed: map[string]bool{}, mayBind: mayBind}
}

// load reads the manifests once.
func (m *manifests) load() update { return m.update(m.src.Load()) }

// run follows the manifests until ctx ends; then it closes the channel.
func (m *manifests) run(ctx context.Context) <-chan update {
	out := make(chan update)
	send := func(u update) {
		select {
		case out <- u:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(out)
		// The store is not read: what is served is told by update. The first
		// reading is told only if it differs from that of load.
		err := m.src.Run(ctx, source.NewStore(), func(_ int, problems []source.Problem) {
			if source.Refused(problems) != nil {
				send(update{problems: problems})
				return
			}
			send(m.update(m.src.Good()))
		})
		if err != nil {
			m.log.Error("following the manifests", "error", err)
		}
	}()
	return out
}

// update turns what was read into what is to run.
func (m *manifests) update(res file.Result) update {
	m.tell(res.Notices)
	if res.Refused() != nil {
		return update{problems: res.Problems}
	}
	c := &config{parts: res.Parts, objects: res.Objects}
	var problems []source.Problem
	for _, p := range res.Pods {
		pod, err := podOf(p)
		if err != nil {
			problems = append(problems, source.Problem{
				File: p.Workload.Origin.File, Line: p.Workload.Origin.Line, Object: "Pod " + p.Name.String(), Message: err.Error(),
			})
			continue
		}
		c.pods = append(c.pods, pod)
	}
	if len(problems) > 0 {
		return update{problems: problems}
	}
	if !m.netns {
		m.localise(c)
		m.moveLowPorts(c)
	}
	return update{config: c, problems: res.Problems}
}

// tell logs notices, each once.
func (m *manifests) tell(notices []object.Notice) {
	for _, n := range notices {
		if s := n.String(); !m.noticed[s] {
			m.noticed[s] = true
			m.log.Info("notice: " + s)
		}
	}
}

// podOf takes from a pod what running it needs.
func podOf(p object.Pod) (Pod, error) {
	w := p.Workload
	out := Pod{
		Namespace: p.Name.Namespace, Name: p.Name.Name, Node: w.Node, ServiceAccount: w.ServiceAccount, UID: w.UID,
		Captured: w.Protocol == mesh.TunnelHBONE, TargetPorts: targetPorts(w),
	}
	if len(w.Addresses) == 0 {
		return out, errors.New("no address is left for it; choose a larger --range")
	}
	out.Address = w.Addresses[0]
	for _, c := range p.Containers {
		x := Container{Image: c.Image, Command: c.Command, Args: c.Args, Dir: c.WorkingDir}
		for _, e := range c.Env {
			x.Env = append(x.Env, e.Name+"="+e.Value)
		}
		for _, port := range c.Ports {
			if !port.UDP {
				x.Ports = append(x.Ports, port.Port)
			}
		}
		out.Containers = append(out.Containers, x)
	}
	return out, nil
}

// targetPorts are the ports at which services expect w, in order.
func targetPorts(w *mesh.Workload) []uint16 {
	set := map[uint16]bool{}
	for _, ports := range w.Services {
		for port, target := range ports {
			if target == 0 {
				target = port
			}
			set[target] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// localise replaces addresses that this machine does not have, which manifests
// from a cluster name: services and pods get loopback addresses of ours. What
// is outside the mesh keeps its own.
func (m *manifests) localise(c *config) {
	for i, s := range c.parts.Services {
		if !slices.ContainsFunc(s.VIPs, foreign) {
			continue
		}
		s := *s
		s.VIPs = []netip.Addr{m.alloc.Service(mesh.Name{Namespace: s.Key.Namespace, Name: s.Key.Hostname})}
		c.parts.Services[i] = &s
	}
	moved := map[netip.Addr]netip.Addr{}
	for i, p := range c.pods {
		if foreign(p.Address) {
			c.pods[i].Address = m.alloc.Pod(mesh.Name{Namespace: p.Namespace, Name: p.Name})
			moved[p.Address] = c.pods[i].Address
		}
	}
	for i, w := range c.parts.Waypoints {
		if slices.ContainsFunc(w.Addresses, foreign) {
			ours := m.alloc.Waypoint(w.Name)
			for _, a := range w.Addresses {
				moved[a] = ours
			}
			w := *w
			w.Addresses = []netip.Addr{ours}
			c.parts.Waypoints[i] = &w
		}
	}
	for i, w := range c.parts.Workloads {
		if len(w.Addresses) > 0 && moved[w.Addresses[0]].IsValid() {
			w := *w
			w.Addresses = []netip.Addr{moved[w.Addresses[0]]}
			c.parts.Workloads[i] = &w
		}
	}
}

func foreign(a netip.Addr) bool { return !a.IsLoopback() }
