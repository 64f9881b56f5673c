package suite

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairnproxy.dev/cairn/conformance/peers"
)

// pod is a network namespace with one end of a veth pair, captured the way
// that an ambient mesh captures a pod.
type pod struct {
	name  string
	addr  netip.Addr // in the namespace
	host  netip.Addr // the other end, in the test's own namespace
	other netip.Addr // further addresses of the other end
	third netip.Addr
}

// redirection is what Istio's node agent sets in a pod: outgoing TCP to 15001,
// incoming plain TCP to 15006, HBONE left alone, all but the proxy's own
// packets (mark 0x539). The mark of its connections to the application is kept
// with the connection, so that answers to a borrowed source address come back.
const redirection = `*mangle
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -j ISTIO_OUTPUT
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
`

// newPod makes the namespace; it goes away with the test. Without root the
// test is skipped, and says so.
func newPod(t *testing.T) *pod {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root: run this suite as root")
	}
	n := byte(os.Getpid())
	p := &pod{
		name:  fmt.Sprintf("cairn-conf-%d", os.Getpid()),
		addr:  netip.AddrFrom4([4]byte{198, 18, n, 2}),
		host:  netip.AddrFrom4([4]byte{198, 18, n, 1}),
		other: netip.AddrFrom4([4]byte{198, 18, n, 3}),
		third: netip.AddrFrom4([4]byte{198, 18, n, 4}),
	}
	veth := fmt.Sprintf("cc%d", os.Getpid())
	command(t, "", "ip", "netns", "add", p.name)
	t.Cleanup(func() { command(t, "", "ip", "netns", "del", p.name) })
	command(t, "", "ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", p.name)
	for _, a := range []netip.Addr{p.host, p.other, p.third} {
		command(t, "", "ip", "addr", "add", a.String()+"/24", "dev", veth)
	}
	command(t, "", "ip", "link", "set", veth, "up")
	in := func(stdin string, args ...string) {
		t.Helper()
		command(t, stdin, "ip", append([]string{"netns", "exec", p.name}, args...)...)
	}
	in("", "ip", "addr", "add", p.addr.String()+"/24", "dev", "eth0")
	in("", "ip", "link", "set", "eth0", "up")
	in("", "ip", "link", "set", "lo", "up")
	in("", "ip", "route", "add", "default", "via", p.host.String())
	in("", "ip", "route", "replace", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
	in("", "ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
	if _, err := peers.Program(t.Context(), "iptables"); err != nil {
		t.Fatal(err)
	}
	in(redirection, "iptables-restore")
	return p
}

// command runs a program and fails the test when it does.
func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	// Not the test's context: clean-up runs after that has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	path, err := peers.Program(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// inside runs f on a thread that is in the namespace. Sockets that f makes
// stay there, wherever they are used from.
func (p *pod) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so nothing
		// else can come to run in the namespace.
		runtime.LockOSThread()
		ns, err := os.Open("/run/netns/" + p.name)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering %s: %w", p.name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (p *pod) listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	err := p.inside(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// dial connects from inside the namespace. The address must be literal.
func (p *pod) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	insideErr := p.inside(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, insideErr
}

// get does one HTTP request from inside the namespace.
func (p *pod) get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{DialContext: p.dial, DisableKeepAlives: true}
	return tr.RoundTrip(req)
}

// TestPod shows that the namespace captures as it should, with listeners that
// only accept in the node proxy's place: what fails in TestZtunnel is not the
// redirection.
func TestPod(t *testing.T) {
	p := newPod(t)
	greet := func(ln net.Listener, text string) {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, text) // a client that went away fails the test by itself
				c.Close()
			}
		}()
	}
	for port, text := range map[uint16]string{15001: "out", 15006: "in", 15008: "hbone", 8080: "app"} {
		greet(p.listen(t, fmt.Sprintf("0.0.0.0:%d", port)), text)
	}
	outside := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
	}
	for _, test := range []struct {
		name string
		dial func(context.Context, string, string) (net.Conn, error)
		addr netip.AddrPort
		want string
	}{
		{"from-outside", outside, addrPort(p.addr, 8080), "in"},
		{"hbone-from-outside", outside, addrPort(p.addr, 15008), "hbone"},
		{"to-outside", p.dial, netip.MustParseAddrPort("198.19.0.1:80"), "out"},
		{"to-neighbour", p.dial, addrPort(p.host, 8080), "out"},
		{"to-itself", p.dial, addrPort(p.addr, 8080), "app"},
		{"to-loopback", p.dial, netip.MustParseAddrPort("127.0.0.1:8080"), "app"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := test.dial(t.Context(), "tcp", test.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := io.ReadAll(c); err != nil || string(got) != test.want {
				t.Errorf("%q (%v), want %q", got, err, test.want)
			}
		})
	}
}
