package up

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"cairnproxy.dev/cairn/mesh"
)

// lowPortOffset is added to a port below 1024 that this user may not bind.
const lowPortOffset = 10000

// mayBind reports whether this user may bind at: a port below 1024 can need a
// right. A port that is taken says nothing about rights.
func mayBind(at netip.AddrPort) bool {
	ln, err := net.Listen("tcp", at.String())
	if err == nil {
		ln.Close()
	}
	return !errors.Is(err, syscall.EACCES)
}

// moveLowPorts gives pods other ports where they could not bind those below
// 1024: their programs are told, and the services that send there.
func (m *manifests) moveLowPorts(c *config) {
	moved := map[string]map[uint16]uint16{} // by UID
	for i, p := range c.pods {
		if ports := m.lowPorts(p); len(ports) > 0 {
			moved[p.UID] = ports
			c.pods[i] = withPorts(p, ports)
		}
	}
	if len(moved) == 0 {
		return
	}
	services := map[mesh.ServiceKey]*mesh.Service{}
	for _, s := range c.parts.Services {
		services[s.Key] = s
	}
	for i, w := range c.parts.Workloads {
		ports := moved[w.UID]
		if ports == nil {
			continue
		}
		w := *w
		old := w.Services
		w.Services = make(map[mesh.ServiceKey]map[uint16]uint16, len(old))
		for key, targets := range old {
			w.Services[key] = retarget(services[key], targets, ports)
		}
		c.parts.Workloads[i] = &w
	}
}

// lowPorts maps those ports of p that cannot be bound to those it gets.
func (m *manifests) lowPorts(p Pod) map[uint16]uint16 {
	out := map[uint16]uint16{}
	for _, port := range slices.Concat(p.TargetPorts, containerPorts(p)) {
		if port < 1024 && out[port] == 0 && !m.mayBind(netip.AddrPortFrom(p.Address, port)) {
			out[port] = port + lowPortOffset
		}
	}
	return out
}

func containerPorts(p Pod) []uint16 {
	var out []uint16
	for _, c := range p.Containers {
		out = append(out, c.Ports...)
	}
	return out
}

// withPorts returns p with other ports in place of some.
func withPorts(p Pod, moved map[uint16]uint16) Pod {
	move := func(ports []uint16) []uint16 {
		out := slices.Clone(ports)
		for i, port := range out {
			if to, ok := moved[port]; ok {
				out[i] = to
			}
		}
		return out
	}
	p.TargetPorts = move(p.TargetPorts)
	p.Containers = slices.Clone(p.Containers)
	for i := range p.Containers {
		p.Containers[i].Ports = move(p.Containers[i].Ports)
	}
	return p
}

// retarget returns a workload's target ports of s with some moved.
func retarget(s *mesh.Service, targets, moved map[uint16]uint16) map[uint16]uint16 {
	out := maps.Clone(targets)
	if s == nil {
		return out
	}
	for _, p := range s.Ports {
		target := targets[p.Port]
		if target == 0 {
			target = p.TargetPort
		}
		if to, ok := moved[target]; ok {
			if out == nil {
				out = map[uint16]uint16{}
			}
			out[p.Port] = to
		}
	}
	return out
}
