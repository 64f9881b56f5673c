package host

import (
	"errors"
	"fmt"
	"net"
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

// gateway is the address at which every pod finds its node.
var gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// uplinks is the range of the nodes' addresses on the fabric.
var uplinks = netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 64, 0}), 18)

// Lab is a set of nodes that reach each other's pods.
type Lab struct {
	fabric *Namespace
	links  *netlink.Handle

	mu    sync.Mutex
	nodes []*Node
	made  int
	pods  map[netip.Addr]*Pod
}

// Node is a namespace with a bridge to which its pods are attached.
type Node struct {
	Name string

	lab    *Lab
	ns     *Namespace
	links  *netlink.Handle
	uplink netip.Addr
	made   int // under lab.mu
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
	// Address is the pod's IPv4 address: any that no other pod of the lab has.
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
	l := &Lab{fabric: ns, pods: map[netip.Addr]*Pod{}}
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
	nodes, pods := l.nodes, l.pods
	l.nodes, l.pods = nil, map[netip.Addr]*Pod{}
	l.mu.Unlock()
	var errs []error
	for _, p := range pods {
		errs = append(errs, p.ns.Close())
	}
	for _, n := range nodes {
		errs = append(errs, n.close())
	}
	if l.links != nil {
		l.links.Close()
	}
	return errors.Join(append(errs, l.fabric.Close())...)
}

// AddNode makes a node.
func (l *Lab) AddNode(name string) (*Node, error) {
	ns, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	n := &Node{Name: name, lab: l, ns: ns}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made++
	err = l.join(n, l.made)
	for _, p := range l.pods {
		if err == nil {
			err = routeVia(n.links, netip.PrefixFrom(p.Address, 32), p.Node.uplink)
		}
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("making node %s: %w", name, err)
	}
	l.nodes = append(l.nodes, n)
	return n, nil
}

// join sets up the node's inside and its link to the fabric. index is from 1.
func (l *Lab) join(n *Node, index int) (err error) {
	a := uplinks.Addr().As4()
	a[2] += byte(index >> 8)
	a[3] = byte(index)
	n.uplink = netip.AddrFrom4(a)
	if !uplinks.Contains(n.uplink) || index >= 1<<14-1 {
		return errors.New("too many nodes")
	}
	if n.links, err = handleAt(n.ns); err != nil {
		return err
	}
	up := fmt.Sprintf("n%d", index)
	return steps(
		func() error {
			// Pods of one node speak through it, in and out by the same device.
			return n.ns.Do(func() error {
				return sysctls("net/ipv4/ip_forward=1", "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/all/send_redirects=0", "net/ipv4/conf/default/send_redirects=0")
			})
		},
		func() error { return setUp(n.links, "lo") },
		func() error { return addBridge(n.links, "br0") },
		func() error { return addAddr(n.links, "br0", netip.PrefixFrom(gateway, 32)) },
		func() error { return addAddr(n.links, "br0", netip.PrefixFrom(ProbeAddr, 32)) },
		func() error { return addVeth(l.links, up, "up0", n.uplink, n.ns) },
		func() error { return attach(l.links, up, "fabric0") },
		func() error { return addAddr(n.links, "up0", netip.PrefixFrom(n.uplink, uplinks.Bits())) },
		func() error { return setUp(n.links, "up0") },
	)
}

// Namespace returns the node's namespace, from which its pods can be reached
// as their node reaches them.
func (n *Node) Namespace() *Namespace { return n.ns }

func (n *Node) close() error {
	if n.links != nil {
		n.links.Close()
	}
	return n.ns.Close()
}

// AddPod makes a pod on the node: its own namespace, address, default route
// and loopback device, and routes to it from every node.
func (n *Node) AddPod(opts PodOptions) (*Pod, error) {
	addr := opts.Address
	if !addr.Is4() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() {
		return nil, fmt.Errorf("pod %s: %s is no IPv4 address that a pod can have", opts.Name, addr)
	}
	ns, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	l := n.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.pods[addr]; o != nil {
		ns.Close()
		return nil, fmt.Errorf("pod %s: address %s belongs to pod %s", opts.Name, addr, o.Name)
	}
	n.made++
	p := &Pod{Name: opts.Name, Address: addr, Node: n, ns: ns, link: fmt.Sprintf("p%d", n.made), resolvConf: opts.ResolvConf}
	if err := n.wire(p); err != nil {
		p.unwire()
		return nil, fmt.Errorf("making pod %s: %w", opts.Name, err)
	}
	l.pods[addr] = p
	return p, nil
}

func (n *Node) wire(p *Pod) error {
	links, err := handleAt(p.ns)
	if err != nil {
		return err
	}
	defer links.Close()
	host := netip.PrefixFrom(p.Address, 32)
	err = steps(
		func() error {
			return p.ns.Do(func() error { return sysctls("net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0") })
		},
		func() error { return setUp(links, "lo") },
		func() error { return addVeth(n.links, p.link, "eth0", p.Address, p.ns) },
		func() error { return attach(n.links, p.link, "br0") },
		func() error { return addAddr(links, "eth0", host) },
		func() error { return setUp(links, "eth0") },
		func() error { return routeDev(links, netip.PrefixFrom(gateway, 32), "eth0") },
		func() error { return routeVia(links, netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway) },
		func() error { return routeDev(n.links, host, "br0") },
	)
	for _, o := range n.lab.nodes {
		if err == nil && o != n {
			err = routeVia(o.links, host, n.uplink)
		}
	}
	return err
}

// unwire takes back what wire did, as far as it got.
func (p *Pod) unwire() {
	host := ipNet(netip.PrefixFrom(p.Address, 32))
	for _, o := range p.Node.lab.nodes {
		_ = o.links.RouteDel(&netlink.Route{Dst: host, Scope: netlink.SCOPE_NOWHERE})
	}
	if link, err := p.Node.links.LinkByName(p.link); err == nil {
		_ = p.Node.links.LinkDel(link)
	}
	p.ns.Close()
}

// Namespace returns the pod's network namespace.
func (p *Pod) Namespace() *Namespace { return p.ns }

// Close removes the pod from its node. Processes in it lose their network.
func (p *Pod) Close() error {
	l := p.Node.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods[p.Address] == p {
		delete(l.pods, p.Address)
		p.unwire()
	}
	return nil
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
	// A bridge without a hardware address of its own takes that of one of its
	// ports, another one as ports come and go.
	gw := gateway.As4()
	attrs := netlink.LinkAttrs{Name: name, HardwareAddr: net.HardwareAddr{0x0a, 0x58, gw[0], gw[1], gw[2], gw[3]}}
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return permission("adding bridge "+name, err)
	}
	return setUp(h, name)
}

// addVeth makes a pair of which name stays and peer goes to the namespace ns.
// The peer's hardware address follows from its IP address: whoever takes the
// place of a pod is reached at once, and not only when the node has forgotten
// where that one was.
func addVeth(h *netlink.Handle, name, peer string, addr netip.Addr, ns *Namespace) error {
	ip := addr.As4()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(ns.FD()),
		PeerHardwareAddr: net.HardwareAddr{0x0a, 0x58, ip[0], ip[1], ip[2], ip[3]},
	}
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

func routeDev(h *netlink.Handle, dst netip.Prefix, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for link %s: %w", name, err)
	}
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(dst), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("adding route %s by %s: %w", dst, name, err)
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
