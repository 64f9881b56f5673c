package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ProbeAddr is the source address of a node's own health checks. The
// redirection rules let it pass, as Istio's do.
var ProbeAddr = netip.AddrFrom4([4]byte{169, 254, 7, 127})

// uplinks is the range of the nodes' addresses on the fabric.
var uplinks = netip.AddrFrom4([4]byte{169, 254, 64, 0})

// Lab is a set of nodes that reach each other.
type Lab struct {
	fabric *Namespace
	links  *netlink.Handle

	mu    sync.Mutex
	nodes []*Node
}

// Node is a namespace with a bridge to which its pods are attached.
type Node struct {
	// Name is what AddNode was given.
	Name string
	// Prefix is the range of the pods' addresses.
	Prefix netip.Prefix
	// Gateway is the node's own address in it, the first.
	Gateway netip.Addr

	ns     *Namespace
	links  *netlink.Handle
	uplink netip.Addr

	mu   sync.Mutex
	pods map[*Pod]struct{}
	next int
}

// Pod is a namespace with an address of its own.
type Pod struct {
	Name    string
	Address netip.Addr
	Node    *Node

	ns         *Namespace
	link       string
	resolvConf string
}

// PodOptions describes a pod.
type PodOptions struct {
	Name string
	// Address must be in the node's prefix and neither its first nor the gateway.
	Address netip.Addr
	// ResolvConf is what the pod's processes read from /etc/resolv.conf; ""
	// leaves them the machine's.
	ResolvConf string
}

// NewLab makes a lab without nodes. Without the permission to it fails with
// ErrPermission.
func NewLab() (*Lab, error) {
	ns, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	l := &Lab{fabric: ns}
	if l.links, err = handleAt(ns); err == nil {
		err = addBridge(l.links, "fabric0")
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("making the lab's fabric: %w", err)
	}
	return l, nil
}

// Close takes down every node and pod.
func (l *Lab) Close() error {
	l.mu.Lock()
	nodes := l.nodes
	l.nodes = nil
	l.mu.Unlock()
	var errs []error
	for _, n := range nodes {
		errs = append(errs, n.close())
	}
	if l.links != nil {
		l.links.Close()
	}
	return errors.Join(append(errs, l.fabric.Close())...)
}

// AddNode makes a node whose pods have addresses in prefix (IPv4), and routes
// between it and the other nodes.
func (l *Lab) AddNode(name string, prefix netip.Prefix) (*Node, error) {
	prefix = prefix.Masked()
	if !prefix.Addr().Is4() || prefix.Bits() > 30 {
		return nil, fmt.Errorf("node %s: %s is no IPv4 range with room for pods", name, prefix)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.nodes {
		if o.Prefix.Overlaps(prefix) {
			return nil, fmt.Errorf("node %s: %s overlaps with node %s (%s)", name, prefix, o.Name, o.Prefix)
		}
	}
	ns, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	n := &Node{Name: name, Prefix: prefix, Gateway: prefix.Addr().Next(), ns: ns, pods: map[*Pod]struct{}{}}
	if err := l.join(n, len(l.nodes)+1); err != nil {
		n.close()
		return nil, fmt.Errorf("making node %s: %w", name, err)
	}
	for _, o := range l.nodes {
		if err := errors.Join(routeVia(o.links, n.Prefix, n.uplink), routeVia(n.links, o.Prefix, o.uplink)); err != nil {
			n.close()
			return nil, fmt.Errorf("routing between nodes %s and %s: %w", o.Name, name, err)
		}
	}
	l.nodes = append(l.nodes, n)
	return n, nil
}

// join sets up the node's inside and its link to the fabric. index is from 1.
func (l *Lab) join(n *Node, index int) (err error) {
	if index >= 1<<14 {
		return errors.New("too many nodes")
	}
	a := uplinks.As4()
	a[2] += byte(index >> 8)
	a[3] = byte(index)
	n.uplink = netip.AddrFrom4(a)
	if n.links, err = handleAt(n.ns); err != nil {
		return err
	}
	up := fmt.Sprintf("n%d", index)
	return steps(
		func() error {
			return n.ns.Do(func() error { return sysctls("net/ipv4/ip_forward=1", "net/ipv4/conf/all/rp_filter=0") })
		},
		func() error { return setUp(n.links, "lo") },
		func() error { return addBridge(n.links, "br0") },
		func() error { return addAddr(n.links, "br0", netip.PrefixFrom(n.Gateway, n.Prefix.Bits())) },
		func() error { return addAddr(n.links, "br0", netip.PrefixFrom(ProbeAddr, 32)) },
		func() error { return addVeth(l.links, up, "up0", n.ns) },
		func() error { return attach(l.links, up, "fabric0") },
		func() error { return addAddr(n.links, "up0", netip.PrefixFrom(n.uplink, 18)) },
		func() error { return setUp(n.links, "up0") },
	)
}

// Namespace returns the node's namespace, from which its pods can be reached
// as their node reaches them.
func (n *Node) Namespace() *Namespace { return n.ns }

func (n *Node) close() error {
	n.mu.Lock()
	pods := n.pods
	n.pods = map[*Pod]struct{}{}
	n.mu.Unlock()
	var errs []error
	for p := range pods {
		errs = append(errs, p.ns.Close())
	}
	if n.links != nil {
		n.links.Close()
	}
	return errors.Join(append(errs, n.ns.Close())...)
}

// AddPod makes a pod on the node: its own namespace, address, default route
// and loopback device.
func (n *Node) AddPod(opts PodOptions) (*Pod, error) {
	if !n.Prefix.Contains(opts.Address) || opts.Address == n.Gateway || opts.Address == n.Prefix.Addr() {
		return nil, fmt.Errorf("pod %s: %s is not a free address of node %s (%s)", opts.Name, opts.Address, n.Name, n.Prefix)
	}
	ns, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	p := &Pod{Name: opts.Name, Address: opts.Address, Node: n, ns: ns, link: fmt.Sprintf("p%d", n.next), resolvConf: opts.ResolvConf}
	if err := n.wire(p); err != nil {
		ns.Close()
		return nil, fmt.Errorf("making pod %s: %w", opts.Name, err)
	}
	n.pods[p] = struct{}{}
	return p, nil
}

func (n *Node) wire(p *Pod) error {
	links, err := handleAt(p.ns)
	if err != nil {
		return err
	}
	defer links.Close()
	return steps(
		func() error {
			return p.ns.Do(func() error { return sysctls("net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0") })
		},
		func() error { return setUp(links, "lo") },
		func() error { return addVeth(n.links, p.link, "eth0", p.ns) },
		func() error { return attach(n.links, p.link, "br0") },
		func() error { return addAddr(links, "eth0", netip.PrefixFrom(p.Address, n.Prefix.Bits())) },
		func() error { return setUp(links, "eth0") },
		func() error { return routeVia(links, netip.PrefixFrom(netip.IPv4Unspecified(), 0), n.Gateway) },
	)
}

// Namespace returns the pod's network namespace.
func (p *Pod) Namespace() *Namespace { return p.ns }

// Close removes the pod from its node. Processes in it lose their network.
func (p *Pod) Close() error {
	p.Node.mu.Lock()
	_, there := p.Node.pods[p]
	delete(p.Node.pods, p)
	p.Node.mu.Unlock()
	if !there {
		return nil
	}
	var err error
	if link, e := p.Node.links.LinkByName(p.link); e == nil {
		err = p.Node.links.LinkDel(link)
	}
	return errors.Join(err, p.ns.Close())
}

// steps runs each until one fails.
func steps(list ...func() error) error {
	for _, f := range list {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func handleAt(ns *Namespace) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, permission("opening a netlink socket", err)
	}
	return h, nil
}

func addBridge(h *netlink.Handle, name string) error {
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return permission("adding bridge "+name, err)
	}
	return setUp(h, name)
}

// addVeth makes a pair of which name stays and peer goes to the namespace ns.
func addVeth(h *netlink.Handle, name, peer string, ns *Namespace) error {
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(ns.FD())}
	if err := h.LinkAdd(v); err != nil {
		return fmt.Errorf("adding link %s: %w", name, err)
	}
	return nil
}

func attach(h *netlink.Handle, name, bridge string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for link %s: %w", name, err)
	}
	b, err := h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("looking for bridge %s: %w", bridge, err)
	}
	if err := h.LinkSetMaster(link, b); err != nil {
		return fmt.Errorf("attaching %s to %s: %w", name, bridge, err)
	}
	return setUp(h, name)
}

func setUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for link %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", name, err)
	}
	return nil
}

func addAddr(h *netlink.Handle, name string, p netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for link %s: %w", name, err)
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
		return fmt.Errorf("adding %s to %s: %w", p, name, err)
	}
	return nil
}

func routeVia(h *netlink.Handle, dst netip.Prefix, gw netip.Addr) error {
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: gw.AsSlice()}); err != nil {
		return fmt.Errorf("adding route %s via %s: %w", dst, gw, err)
	}
	return nil
}

// sysctls writes settings of the form path=value, in the calling thread's namespace.
func sysctls(settings ...string) error {
	for _, s := range settings {
		path, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0o644); err != nil {
			return fmt.Errorf("setting %s: %w", path, err)
		}
	}
	return nil
}
