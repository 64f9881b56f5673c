// Package loopback hands out addresses in 127.0.0.0/8, so that services and
// pods of a test have addresses of their own and the fixed ports of a mesh,
// and runs at the same time do not meet.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
)

// A Block is 254 addresses, 127.A.B.1 to 127.A.B.254. It lives until Close.
type Block struct {
	a, b byte
	hold net.Listener
}

// Take reserves a random block between 127.64 and 127.127. A listener on its
// last address marks it as taken for other processes.
func Take() (*Block, error) {
	for range 64 {
		b := &Block{a: byte(64 + rand.IntN(64)), b: byte(rand.IntN(256))}
		ln, err := net.Listen("tcp", netip.AddrPortFrom(b.Addr(254), 15999).String())
		if err == nil {
			b.hold = ln
			return b, nil
		}
	}
	return nil, errors.New("no free block of loopback addresses: is 127.0.0.0/8 routed to lo?")
}

// Addr returns the n-th address of the block, 1 to 254.
func (b *Block) Addr(n byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, b.a, b.b, n})
}

// Wide returns a random prefix 127.A.0.0/16, A from 128 to 191, for a program
// that gives out addresses itself.
func Wide() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(128 + rand.IntN(64)), 0, 0}), 16)
}

// Port returns a port that was free on the address a moment ago.
func Port(addr netip.Addr) (uint16, error) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return 0, fmt.Errorf("finding a free port on %s: %w", addr, err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

// Close gives the block back.
func (b *Block) Close() error { return b.hold.Close() }

// A Network is 127.A.0.0/16, A from 224 to 254, for a test that needs more
// addresses than a Block has. Its addresses are given out one after the other
// by Next, which may be called from any goroutine.
type Network struct {
	a    byte
	next atomic.Uint32
	hold net.Listener
}

// TakeNetwork reserves a network, marked as Take does.
func TakeNetwork() (*Network, error) {
	for range 128 {
		n := &Network{a: byte(224 + rand.IntN(31))}
		ln, err := net.Listen("tcp", netip.AddrPortFrom(n.addr(0xfffe), 15999).String())
		if err == nil {
			n.hold = ln
			return n, nil
		}
	}
	return nil, errors.New("no free network of loopback addresses: is 127.0.0.0/8 routed to lo?")
}

// Next returns an address that was not given out before.
func (n *Network) Next() netip.Addr { return n.addr(uint16(n.next.Add(1))) }

func (n *Network) addr(i uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{127, n.a, byte(i >> 8), byte(i)})
}

// Close gives the network back.
func (n *Network) Close() error { return n.hold.Close() }
