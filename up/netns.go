package up

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"sync"

	"cairnproxy.dev/cairn/host"
)

// namespaces is the machine with a network namespace per pod. Nothing of it
// has a name on this machine: it ends with the process.
type namespaces struct {
	lab *host.Lab
	log *slog.Logger
	// domain is the cluster domain, for the pods' search lists.
	domain string

	mu    sync.Mutex
	nodes map[string]*host.Node
	pods  map[string]*host.Pod // by Pod.key
}

// newNamespaceMachine needs root; its error says so.
func newNamespaceMachine(domain string, log *slog.Logger) (*namespaces, error) {
	lab, err := host.NewLab()
	if err != nil {
		return nil, fmt.Errorf("--netns: %w", err)
	}
	return &namespaces{lab: lab, log: log, domain: domain, nodes: map[string]*host.Node{}, pods: map[string]*host.Pod{}}, nil
}

func (m *namespaces) addPod(p Pod) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[p.Node]
	if n == nil {
		var err error
		if n, err = m.lab.AddNode(p.Node); err != nil {
			return fmt.Errorf("adding node %s: %w", p.Node, err)
		}
		m.nodes[p.Node] = n
	}
	hp, err := n.AddPod(host.PodOptions{Name: p.key(), Address: p.Address, ResolvConf: resolvConf(p.Namespace, m.domain)})
	if err != nil {
		return fmt.Errorf("adding a network namespace: %w", err)
	}
	if p.Captured {
		if err := hp.Namespace().Redirect(host.DefaultRedirection()); err != nil {
			hp.Close()
			return fmt.Errorf("redirecting the traffic of pod %s: %w", p.key(), err)
		}
	}
	m.pods[p.key()] = hp
	return nil
}

// resolvConf is what programs in a pod read. The name server's address is
// nobody's: queries are captured on their way.
func resolvConf(namespace, domain string) string {
	return fmt.Sprintf("nameserver 169.254.1.53\nsearch %s.svc.%s svc.%[2]s %[2]s\noptions ndots:5\n", namespace, domain)
}

func (m *namespaces) removePod(p Pod) {
	m.mu.Lock()
	hp := m.pods[p.key()]
	delete(m.pods, p.key())
	m.mu.Unlock()
	if hp == nil {
		return
	}
	if err := hp.Close(); err != nil {
		m.log.Warn("taking down a pod's network namespace", "pod", p.key(), "error", err)
	}
}

func (m *namespaces) pod(p Pod) (*host.Pod, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if hp := m.pods[p.key()]; hp != nil {
		return hp, nil
	}
	return nil, fmt.Errorf("pod %s has no network namespace", p.key())
}

func (m *namespaces) namespace(p Pod) (int, error) {
	hp, err := m.pod(p)
	if err != nil {
		return -1, err
	}
	return hp.Namespace().FD(), nil
}

func (m *namespaces) start(cmd *exec.Cmd, p Pod) (func() error, error) {
	hp, err := m.pod(p)
	if err != nil {
		return nil, err
	}
	ownGroup(cmd)
	proc, err := hp.Start(cmd)
	if err != nil {
		return nil, err
	}
	return proc.Wait, nil
}

// dial connects from the pod's node, as its health checks would.
func (m *namespaces) dial(ctx context.Context, p Pod, to netip.AddrPort) (net.Conn, error) {
	hp, err := m.pod(p)
	if err != nil {
		return nil, err
	}
	from := netip.AddrPortFrom(host.ProbeAddr, 0)
	return hp.Node.Namespace().DialTCP(ctx, from, to, nil)
}

func (m *namespaces) dialInside(ctx context.Context, p Pod, to netip.AddrPort) (net.Conn, error) {
	hp, err := m.pod(p)
	if err != nil {
		return nil, err
	}
	return hp.Namespace().DialTCP(ctx, netip.AddrPort{}, to, nil)
}

func (m *namespaces) close() {
	if err := m.lab.Close(); err != nil {
		m.log.Warn("taking down the network namespaces", "error", err)
	}
}
