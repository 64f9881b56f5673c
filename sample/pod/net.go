package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// clusterDomain is the domain that a pod's search list ends in.
const clusterDomain = "cluster.local"

// Listen opens a TCP listener at addr ("HOST:PORT", ":PORT"). An addr without
// a host means the pod's address if it has one. A port that the port table
// moves is bound where the table says.
func (p *Pod) Listen(ctx context.Context, addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("reading the listen address %q, which is written HOST:PORT or :PORT: %w", addr, err)
	}
	if host == "" && p.ip.IsValid() {
		host = p.ip.String()
	}
	at := net.JoinHostPort(host, port)
	if ap, err := netip.ParseAddrPort(at); err == nil {
		at = p.bound(ap).String()
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", at)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("listening on %s: a port below 1024 needs a right that this user lacks: choose another with --listen: %w", at, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", at, err)
	}
	return ln, nil
}

// DialContext connects to addr as a program in the pod would: the name is
// looked up in the hosts file and then in DNS, the port in the port table, and
// the connection starts from the pod's address. The signature is that of
// http.Transport.DialContext; network must be "tcp", "tcp4" or "tcp6".
func (p *Pod) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("reading the address %q: %w", addr, err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, fmt.Errorf("reading the port of %q: %w", addr, err)
	}
	ips, err := p.lookup(ctx, network, host)
	if err != nil {
		return nil, err
	}
	var failed error
	for i, ip := range ips {
		c, err := p.dial(ctx, network, netip.AddrPortFrom(ip, uint16(port)), len(ips)-i)
		if err == nil {
			return c, nil
		}
		failed = errors.Join(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("connecting to %s: %w", addr, failed)
}

// dial connects to one address. It takes at most its share of the time left,
// when left addresses are still to be tried.
func (p *Pod) dial(ctx context.Context, network string, to netip.AddrPort, left int) (net.Conn, error) {
	to = p.bound(to)
	d := net.Dialer{KeepAlive: 30 * time.Second, Control: lateBind}
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		d.Timeout = time.Until(deadline) / time.Duration(left)
	}
	if p.fits(to.Addr()) {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.ip, 0))
	}
	return d.DialContext(ctx, network, to.String())
}

// fits reports whether a connection to ip can start from the pod's address:
// the kernel refuses one from loopback to anywhere else.
func (p *Pod) fits(ip netip.Addr) bool {
	return p.ip.IsValid() && p.ip.Is4() == ip.Is4() && (!p.ip.IsLoopback() || ip.IsLoopback())
}

// bound returns where the port of ap is really bound.
func (p *Pod) bound(ap netip.AddrPort) netip.AddrPort {
	moved, _ := p.ports.get() // a table that does not parse moves nothing new
	if port, ok := moved[ap]; ok {
		return netip.AddrPortFrom(ap.Addr(), port)
	}
	return ap
}

// lookup returns the addresses of host, from the hosts file or else from DNS.
func (p *Pod) lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	known, tableErr := p.hosts.get()
	for _, name := range p.search(host) {
		if ips := known[name]; len(ips) > 0 {
			return ips, nil
		}
	}
	family := "ip" + strings.TrimPrefix(network, "tcp") // "tcp4" asks for "ip4"
	ips, err := net.DefaultResolver.LookupNetIP(ctx, family, host)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("looking up %s: %w", host, err), tableErr)
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, nil
}

// search returns the names that host may stand for, in the order of a pod's
// resolv.conf (ndots:5): search domains first, unless host ends in a dot.
func (p *Pod) search(host string) []string {
	name := canonicalName(host)
	if strings.HasSuffix(host, ".") || strings.Count(name, ".") >= 5 {
		return []string{name}
	}
	return []string{
		name + "." + strings.ToLower(p.namespace) + ".svc." + clusterDomain,
		name + ".svc." + clusterDomain,
		name + "." + clusterDomain,
		name,
	}
}

// Transport returns an HTTP transport whose connections are made by
// DialContext. It uses no proxy, and keeps connections for reuse. Each call
// returns a new one, which the caller may change before using it.
func (p *Pod) Transport() *http.Transport {
	return &http.Transport{
		DialContext:            p.DialContext,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}
