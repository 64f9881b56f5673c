package up

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"

	"cairnproxy.dev/cairn/mesh"
)

// Allocator gives services, pods, waypoints and nodes their addresses. The
// address of a name follows from the name alone (a hash, then the next free
// one), so that it is the same in every run and a script may know it; and it
// stays as long as the Allocator lives. Methods may be called from any
// goroutine.
type Allocator struct {
	services, workloads netip.Prefix

	mu    sync.Mutex
	byKey map[string]netip.Addr
	taken map[netip.Addr]bool
}

// DefaultRange is where the addresses of the loopback mode are from.
var DefaultRange = netip.MustParsePrefix("127.64.0.0/10")

// NewLoopback returns an allocator of addresses in r, a part of 127.0.0.0/8 of
// at least 512 addresses: the lower half for services, the upper for pods,
// waypoints and nodes. Addresses that manifests name are honoured anywhere in
// 127.0.0.0/8.
func NewLoopback(r netip.Prefix) (*Allocator, error) {
	loop := netip.MustParsePrefix("127.0.0.0/8")
	if !r.Addr().Is4() || !loop.Contains(r.Addr()) || r.Bits() < 8 || r.Bits() > 23 {
		return nil, fmt.Errorf("address range %s: want a part of 127.0.0.0/8 between /8 and /23", r)
	}
	lo, hi := halves(r)
	return newAllocator(lo, hi), nil
}

// NewNetns returns an allocator for pods in network namespaces: services in
// 10.79.0.0/16, which is only ever captured, and pods and waypoints in
// 10.78.0.0/16, which is routed between them.
func NewNetns() *Allocator {
	return newAllocator(netip.MustParsePrefix("10.79.0.0/16"), netip.MustParsePrefix("10.78.0.0/16"))
}

func newAllocator(services, workloads netip.Prefix) *Allocator {
	return &Allocator{services: services, workloads: workloads, byKey: map[string]netip.Addr{}, taken: map[netip.Addr]bool{}}
}

// Service returns the address of a Service, or of a ServiceEntry's host. Like
// the methods below it returns the zero Addr when none is left.
func (a *Allocator) Service(n mesh.Name) netip.Addr { return a.assign(a.services, "service", n) }

// Pod returns the address of a pod.
func (a *Allocator) Pod(n mesh.Name) netip.Addr { return a.assign(a.workloads, "pod", n) }

// Waypoint returns the address of a waypoint, by its Gateway's name.
func (a *Allocator) Waypoint(n mesh.Name) netip.Addr { return a.assign(a.workloads, "waypoint", n) }

// Node returns the address of a node proxy's admin and metrics ports.
func (a *Allocator) Node(name string) netip.Addr {
	return a.assign(a.workloads, "node", mesh.Name{Name: name})
}

func (a *Allocator) assign(r netip.Prefix, kind string, n mesh.Name) netip.Addr {
	key := kind + " " + n.Namespace + "/" + n.Name
	a.mu.Lock()
	defer a.mu.Unlock()
	if got, ok := a.byKey[key]; ok {
		return got
	}
	addr, ok := a.probe(r, key)
	if ok {
		a.byKey[key], a.taken[addr] = addr, true
	}
	return addr
}

// probe returns the first free address of r from the hash of key on. It leaves
// out .0 and .255, and the first and last 256: they look like networks, and
// the first hold gateways in the namespaced mode.
func (a *Allocator) probe(r netip.Prefix, key string) (netip.Addr, bool) {
	h := fnv.New64a()
	h.Write([]byte(key))
	size := uint64(1) << (32 - r.Bits())
	start := h.Sum64() % size
	for i := range size {
		n := (start + i) % size
		if last := n & 255; last == 0 || last == 255 || (size > 512 && n < 256) {
			continue
		}
		addr := addAddr(r.Masked().Addr(), n)
		if !a.taken[addr] {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// halves splits a prefix in two.
func halves(p netip.Prefix) (lo, hi netip.Prefix) {
	bits := p.Bits() + 1
	lo = netip.PrefixFrom(p.Masked().Addr(), bits)
	return lo, netip.PrefixFrom(addAddr(lo.Addr(), uint64(1)<<(32-bits)), bits)
}

// addAddr returns the IPv4 address n after base.
func addAddr(base netip.Addr, n uint64) netip.Addr {
	b := base.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}
