package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	ns, err := NewNamespace()
	if errors.Is(err, ErrPermission) {
		t.Skip("skipped: network namespaces need root")
	}
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
}

// lab returns two nodes, with two pods on the first and one on the second.
func lab(t *testing.T) (l *Lab, a, b, c *Pod) {
	t.Helper()
	needRoot(t)
	l, err := NewLab()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n1, err := l.AddNode("n1")
	if err != nil {
		t.Fatal(err)
	}
	n2, err := l.AddNode("n2")
	if err != nil {
		t.Fatal(err)
	}
	add := func(n *Node, name, addr string) *Pod {
		p, err := n.AddPod(PodOptions{Name: name, Address: netip.MustParseAddr(addr), ResolvConf: "nameserver 10.96.0.10\nsearch lab\n"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return l, add(n1, "a", "10.71.1.2"), add(n1, "b", "10.71.1.3"), add(n2, "c", "10.71.2.2")
}

func mark(m int) Control {
	return func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, m) }
}

// greet serves one connection at a time in ns: it writes who the peer is.
func greet(t *testing.T, ns *Namespace, addr string, c Control) {
	t.Helper()
	ln, err := ns.ListenTCP(t.Context(), netip.MustParseAddrPort(addr), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			io.WriteString(conn, addr+" "+conn.RemoteAddr().(*net.TCPAddr).IP.String())
			conn.Close()
		}
	}()
}

// ask dials to from ns and returns what it is told.
func ask(t *testing.T, ns *Namespace, from, to string, c Control) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var local netip.AddrPort
	if from != "" {
		local = netip.AddrPortFrom(netip.MustParseAddr(from), 0)
	}
	conn, err := ns.DialTCP(ctx, local, netip.MustParseAddrPort(to), c)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(conn)
	return string(b), err
}

func TestLabReach(t *testing.T) {
	_, a, b, c := lab(t)
	greet(t, b.Namespace(), "10.71.1.3:80", nil)
	greet(t, c.Namespace(), "10.71.2.2:80", nil)
	for _, to := range []string{"10.71.1.3:80", "10.71.2.2:80"} {
		got, err := ask(t, a.Namespace(), "", to, nil)
		if want := to + " 10.71.1.2"; err != nil || got != want {
			t.Errorf("a to %s: got %q, %v; want %q", to, got, err, want)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestLabRefuses(t *testing.T) {
	_, a, b, c := lab(t)
	for _, addr := range []string{"10.71.1.2", "10.71.2.2", "127.0.0.1", "169.254.1.1", "fd00::1", "0.0.0.0"} {
		if _, err := a.Node.AddPod(PodOptions{Name: "x", Address: netip.MustParseAddr(addr)}); err == nil {
			t.Errorf("pod address %s was taken", addr)
		}
	}
	// An address is free again when its pod is gone, and may move.
	c.Close()
	moved, err := b.Node.AddPod(PodOptions{Name: "moved", Address: netip.MustParseAddr("10.71.2.2")})
	if err != nil {
		t.Fatal(err)
	}
	greet(t, moved.Namespace(), "10.71.2.2:80", nil)
	if got, err := ask(t, a.Namespace(), "", "10.71.2.2:80", nil); err != nil || got != "10.71.2.2:80 10.71.1.2" {
		t.Errorf("a to the moved address: got %q, %v", got, err)
	}
}

func TestLateNode(t *testing.T) {
	l, a, _, _ := lab(t)
	n, err := l.AddNode("late")
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.AddPod(PodOptions{Name: "late", Address: netip.MustParseAddr("10.71.1.77")})
	if err != nil {
		t.Fatal(err)
	}
	greet(t, a.Namespace(), "10.71.1.2:80", nil)
	if got, err := ask(t, p.Namespace(), "", "10.71.1.2:80", nil); err != nil || got != "10.71.1.2:80 10.71.1.77" {
		t.Errorf("late pod to a: got %q, %v", got, err)
	}
}

func TestProcess(t *testing.T) {
	_, a, _, _ := lab(t)
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip("skipped: this machine has no /etc/resolv.conf")
	}
	var out bytes.Buffer
	cmd := exec.Command("/bin/sh", "-c", "cat /etc/resolv.conf; cat /proc/net/fib_trie | grep -c 10.71.1.2; exit 3")
	cmd.Stdout = &out
	p, err := a.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("process ended with %v, want exit code 3", err)
	}
	if got := out.String(); !strings.HasPrefix(got, "nameserver 10.96.0.10\nsearch lab\n") || strings.HasSuffix(got, "\n0\n") {
		t.Errorf("process saw %q: want the pod's resolv.conf and address", got)
	}
	if after, _ := os.ReadFile("/etc/resolv.conf"); !bytes.Equal(before, after) {
		t.Errorf("the machine's resolv.conf was changed to %q", after)
	}
	if _, err := a.Start(exec.Command("/nonexistent/program")); err == nil {
		t.Error("a program that does not exist was started")
	}
}

// TestRedirectIPv6 has a way around the mesh by IPv6: it is closed.
func TestRedirectIPv6(t *testing.T) {
	_, a, b, _ := lab(t)
	for p, addr := range map[*Pod]string{a: "fd71::1/64", b: "fd71::2/64"} {
		h, err := handleAt(p.Namespace())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if !p.Namespace().hasIPv6() {
			t.Skip("skipped: this machine has no IPv6")
		}
		link, err := h.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(addr)), Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
	}
	greet(t, b.Namespace(), "[fd71::2]:80", nil)
	if got, err := ask(t, a.Namespace(), "", "[fd71::2]:80", nil); err != nil {
		t.Fatalf("before: got %q, %v", got, err)
	}
	if err := a.Namespace().Redirect(DefaultRedirection()); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, a.Namespace(), "", "[fd71::2]:80", nil); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("outbound past the proxy: got %q, %v; want connection refused", got, err)
	}
	greet(t, a.Namespace(), "[fd71::1]:80", nil)
	if got, err := ask(t, b.Namespace(), "", "[fd71::1]:80", nil); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("inbound past the proxy: got %q, %v; want connection refused", got, err)
	}
}

func TestRedirect(t *testing.T) {
	_, a, b, _ := lab(t)
	for range 2 { // the second replaces the first
		if err := a.Namespace().Redirect(DefaultRedirection()); err != nil {
			t.Fatal(err)
		}
	}
	greet(t, b.Namespace(), "10.71.1.3:80", nil)
	if got, err := ask(t, a.Namespace(), "", "10.71.1.3:80", nil); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("without a proxy: got %q, %v; want connection refused", got, err)
	}
	greet(t, a.Namespace(), "0.0.0.0:15001", mark(0x539))
	greet(t, a.Namespace(), "0.0.0.0:15006", mark(0x539))
	greet(t, a.Namespace(), "127.0.0.1:15053", mark(0x539))
	greet(t, a.Namespace(), "10.71.1.2:15008", mark(0x539))
	greet(t, a.Namespace(), "10.71.1.2:8080", nil)
	greet(t, a.Namespace(), "127.0.0.1:9090", nil)

	tests := []struct {
		name     string
		ns       *Namespace
		from, to string
		control  Control
		want     string
	}{
		{"outbound", a.Namespace(), "", "10.71.1.3:80", nil, "0.0.0.0:15001 "},
		{"outbound-vip", a.Namespace(), "", "10.96.0.1:80", nil, "0.0.0.0:15001 "},
		{"outbound-marked", a.Namespace(), "", "10.71.1.3:80", mark(0x539), "10.71.1.3:80 10.71.1.2"},
		{"dns-tcp", a.Namespace(), "", "10.96.0.10:53", nil, "127.0.0.1:15053 "},
		{"self", a.Namespace(), "", "10.71.1.2:8080", nil, "10.71.1.2:8080 10.71.1.2"},
		{"localhost", a.Namespace(), "", "127.0.0.1:9090", nil, "127.0.0.1:9090 127.0.0.1"},
		{"inbound", b.Namespace(), "", "10.71.1.2:8080", nil, "0.0.0.0:15006 10.71.1.3"},
		{"inbound-tunnel", b.Namespace(), "", "10.71.1.2:15008", nil, "10.71.1.2:15008 10.71.1.3"},
		{"probe", a.Node.Namespace(), "169.254.7.127", "10.71.1.2:8080", nil, "10.71.1.2:8080 169.254.7.127"},
		{"from-node", a.Node.Namespace(), "", "10.71.1.2:8080", nil, "0.0.0.0:15006 169.254.1.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ask(t, tt.ns, tt.from, tt.to, tt.control)
			if err != nil || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s to %s: got %q, %v; want %q", tt.name, tt.to, got, err, tt.want)
			}
		})
	}
}

// TestSpoofedSource opens a connection to the pod's app with a client's
// address, as the proxy does.
func TestSpoofedSource(t *testing.T) {
	_, a, _, _ := lab(t)
	if err := a.Namespace().Redirect(DefaultRedirection()); err != nil {
		t.Fatal(err)
	}
	greet(t, a.Namespace(), "10.71.1.2:8080", nil)
	transparent := func(fd int) error {
		return errors.Join(mark(0x539)(fd), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
	}
	got, err := ask(t, a.Namespace(), "10.71.2.99", "10.71.1.2:8080", transparent)
	if want := "10.71.1.2:8080 10.71.2.99"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestDoLeavesNothingBehind(t *testing.T) {
	needRoot(t)
	ns, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var inside string
	if err := ns.Do(func() (err error) { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	if inside == own {
		t.Error("Do ran in the process's own namespace")
	}
	for range 100 {
		if _, err := ns.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:1"), nil); err == nil {
			t.Fatal("dialled into an empty namespace")
		}
		if now, _ := os.Readlink("/proc/thread-self/ns/net"); now != own {
			t.Fatalf("left in namespace %s", now)
		}
	}
	again, err := OpenNamespace(ns.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !again.Same(ns) {
		t.Error("a reopened namespace is not the same")
	}
}
