package up

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"
)

// Kind is what an address is for.
type Kind string

// The kinds of things that get an address.
const (
	KindService  Kind = "Service"
	KindPod      Kind = "Pod"
	KindWaypoint Kind = "Gateway"
	KindNode     Kind = "Node"
)

// Allocator gives services, pods, waypoints and nodes their addresses. The
// address of a name follows from the name alone (a hash, then the next free
// one), so that it is the same in every run and a script may know it; and it
// stays as long as the Allocator lives. Methods may be called from any
// goroutine.
type Allocator struct {
	services, workloads netip.Prefix
	// honoured is where an address that a manifest names is taken as it stands.
	honoured netip.Prefix

	mu    sync.Mutex
	byKey map[string]netip.Addr
	owner map[netip.Addr]string
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
	return newAllocator(lo, hi, loop), nil
}

// NewNetns returns an allocator for pods in network namespaces: services in
// 10.79.0.0/16, which is only ever captured, and pods and waypoints in
// 10.78.0.0/16, which is routed between them. Addresses that manifests name
// are honoured anywhere in 10.0.0.0/8.
func NewNetns() *Allocator {
	return newAllocator(netip.MustParsePrefix("10.79.0.0/16"), netip.MustParsePrefix("10.78.0.0/16"), netip.MustParsePrefix("10.0.0.0/8"))
}

func newAllocator(services, workloads, honoured netip.Prefix) *Allocator {
	return &Allocator{
		services: services, workloads: workloads, honoured: honoured,
		byKey: map[string]netip.Addr{}, owner: map[netip.Addr]string{},
	}
}

// Assign returns the address of the named thing. given is the address that its
// manifest asks for, or the zero Addr: it is honoured where the mode can serve
// it, and refused when another has it. An address of another range (a manifest
// from a cluster) is not an error: the thing gets one of ours.
func (a *Allocator) Assign(kind Kind, namespace, name string, given netip.Addr) (netip.Addr, error) {
	key := string(kind) + " " + namespace + "/" + name
	given = given.Unmap()
	a.mu.Lock()
	defer a.mu.Unlock()
	if given.IsValid() && a.honoured.Contains(given) {
		if o, taken := a.owner[given]; taken && o != key {
			return netip.Addr{}, fmt.Errorf("address %s of %s is taken by %s; give one of them another", given, key, o)
		}
		if old, ok := a.byKey[key]; ok && old != given {
			delete(a.owner, old)
		}
		a.byKey[key], a.owner[given] = given, key
		return given, nil
	}
	if got, ok := a.byKey[key]; ok {
		return got, nil
	}
	r := a.workloads
	if kind == KindService {
		r = a.services
	}
	addr, ok := a.probe(r, key)
	if !ok {
		return netip.Addr{}, fmt.Errorf("no address is left in %s for %s; choose a larger --range", r, key)
	}
	a.byKey[key], a.owner[addr] = addr, key
	return addr, nil
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
		if _, taken := a.owner[addr]; !taken {
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
