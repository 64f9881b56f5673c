package waypoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// resolution is what a name stood for, and when.
type resolution struct {
	addrs []netip.Addr
	at    time.Time
}

const (
	// resolveAgain is for how long an answer is used without another question. The
	// records' own lifetimes are not to be had from the system's resolver.
	resolveAgain = 5 * time.Second
	// resolveKeep is for how long an old answer is used when there is no new one.
	resolveKeep = 10 * time.Minute
	// maxResolved bounds the addresses of one name.
	maxResolved = 32
	// nextAddress is how long one address may take before the next is tried beside
	// it: RFC 8305's Connection Attempt Delay.
	nextAddress = 250 * time.Millisecond
)

// addresses are what the destination's name stands for, the families in turn.
func (d *destination) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	old, now := d.resolved.Load(), time.Now()
	if old != nil && now.Sub(old.at) < resolveAgain {
		return old.addrs, nil
	}
	found, err := d.p.o.Resolve(ctx, host)
	if err == nil && len(found) == 0 {
		err = errors.New("no addresses")
	}
	if err != nil {
		if old != nil && now.Sub(old.at) < resolveKeep {
			return old.addrs, nil
		}
		return nil, fmt.Errorf("resolving %s: %w", host, err)
	}
	list := inTurn(found)
	d.resolved.Store(&resolution{list, now})
	return list, nil
}

// inTurn orders addresses so that the families alternate, beginning with that of the first.
func inTurn(list []netip.Addr) []netip.Addr {
	var a, b []netip.Addr
	for _, addr := range list {
		if addr = addr.Unmap(); addr.Is4() == list[0].Unmap().Is4() {
			a = append(a, addr)
		} else {
			b = append(b, addr)
		}
	}
	out := make([]netip.Addr, 0, len(list))
	for len(a)+len(b) > 0 && len(out) < maxResolved {
		if len(a) > 0 {
			out, a = append(out, a[0]), a[1:]
		}
		if len(b) > 0 {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return out
}

// dialName connects to a destination that is a name: to whichever of its addresses
// answers first (RFC 8305, section 5).
func (d *destination) dialName(ctx context.Context) (*net.TCPConn, error) {
	host, text, err := net.SplitHostPort(d.authority)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", text)
	if err != nil {
		return nil, err
	}
	addrs, err := d.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   *net.TCPConn
		err error
	}
	results := make(chan result)
	var first error
	next, running := 0, 0
	dial := func() {
		to := netip.AddrPortFrom(addrs[next], uint16(port))
		next, running = next+1, running+1
		go func() {
			c, err := d.p.o.Dial(ctx, netip.Addr{}, to) // of either family, so from no address of ours in particular
			select {
			case results <- result{c, err}:
			case <-ctx.Done():
				if c != nil {
					c.Close() // another was quicker
				}
			}
		}()
	}
	timer := time.NewTimer(nextAddress)
	defer timer.Stop()
	for dial(); running > 0; {
		select {
		case r := <-results:
			running--
			if r.err == nil {
				return r.c, nil
			}
			if first == nil {
				first = r.err
			}
			if next < len(addrs) {
				dial()
			}
		case <-timer.C:
			if next < len(addrs) {
				dial()
				timer.Reset(nextAddress)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, first
}
