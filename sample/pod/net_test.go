package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newPod(t *testing.T, o Options) *Pod {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNew(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	p := newPod(t, Options{})
	if p.Name() != host || p.Namespace() == "" || p.Version() != "" {
		t.Errorf("zero options give pod %q in %q, version %q", p.Name(), p.Namespace(), p.Version())
	}
	env := map[string]string{
		"CAIRN_POD_NAME": "a", "CAIRN_NAMESPACE": "b", "CAIRN_SERVICE_VERSION": "c",
		"CAIRN_POD_IP": "127.0.0.9", "CAIRN_HOSTS": "h", "CAIRN_PORTS": "p",
	}
	want := Options{Name: "a", Namespace: "b", Version: "c", IP: "127.0.0.9", HostsFile: "h", Ports: "p"}
	o := FromEnv(func(k string) string { return env[k] })
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("FromEnv (-want +got):\n%s", diff)
	}
	p = newPod(t, o)
	if p.Name() != "a" || p.Namespace() != "b" || p.Version() != "c" {
		t.Errorf("pod %q in %q, version %q", p.Name(), p.Namespace(), p.Version())
	}
	_, err = New(Options{IP: "nowhere"})
	checkError(t, err, `pod's address "nowhere"`)
	_, err = New(Options{Ports: "127.0.0.1 80"})
	checkError(t, err, "port table")
}

func TestNamespaceOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "namespace")
	if got := namespaceOf(path); got != "default" {
		t.Errorf("namespace %q without a file, want default", got)
	}
	if err := os.WriteFile(path, []byte("shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := namespaceOf(path); got != "shop" {
		t.Errorf("namespace %q, want shop", got)
	}
}

func TestSearch(t *testing.T) {
	p := newPod(t, Options{Namespace: "Shop"})
	tests := []struct {
		host string
		want []string
	}{
		{"Details", []string{"details.shop.svc.cluster.local", "details.svc.cluster.local", "details.cluster.local", "details"}},
		{"details.b", []string{"details.b.shop.svc.cluster.local", "details.b.svc.cluster.local", "details.b.cluster.local", "details.b"}},
		{"details.", []string{"details"}},
		{"a.b.c.d.e.f", []string{"a.b.c.d.e.f"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, p.search(tt.host)); diff != "" {
			t.Errorf("search(%q) (-want +got):\n%s", tt.host, diff)
		}
	}
}

func TestFits(t *testing.T) {
	tests := []struct {
		pod, to string
		want    bool
	}{
		{"", "127.0.0.1", false},
		{"127.0.0.5", "127.0.0.1", true},
		{"127.0.0.5", "192.0.2.1", false},
		{"127.0.0.5", "::1", false},
		{"10.0.0.5", "192.0.2.1", true},
		{"::1", "::1", true},
	}
	for _, tt := range tests {
		p := newPod(t, Options{IP: tt.pod})
		if got := p.fits(netip.MustParseAddr(tt.to)); got != tt.want {
			t.Errorf("a connection from %q to %s: %v, want %v", tt.pod, tt.to, got, tt.want)
		}
	}
}

// acceptOnce answers the next connection to ln with the address it comes from.
func acceptOnce(t *testing.T, ln net.Listener) <-chan netip.AddrPort {
	t.Helper()
	from := make(chan netip.AddrPort, 1)
	go func() {
		defer close(from)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		from <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
	}()
	return from
}

// TestDial connects by name, from the pod's address, to a port that had to
// move; and follows the service when the hosts file sends it elsewhere.
func TestDial(t *testing.T) {
	hostsFile := filepath.Join(t.TempDir(), "hosts")
	server := newPod(t, Options{IP: "127.77.0.1"})
	for _, ip := range []string{"127.77.0.1", "127.77.0.2"} {
		ln, err := server.Listen(t.Context(), ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		bound := ln.Addr().(*net.TCPAddr).AddrPort()
		if err := os.WriteFile(hostsFile, []byte(ip+" details.shop.svc.cluster.local\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		client := newPod(t, Options{
			IP: "127.77.0.9", Namespace: "shop", HostsFile: hostsFile,
			Ports: fmt.Sprintf("%s 80 %d", ip, bound.Port()),
		})
		for _, addr := range []string{"details:80", "details.shop:http", "details.shop.svc.cluster.local.:80", ip + ":80"} {
			from := acceptOnce(t, ln)
			c, err := client.DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatalf("dialing %s: %v", addr, err)
			}
			if got := (<-from).Addr().String(); got != "127.77.0.9" {
				t.Errorf("dialing %s: the server saw %s, want 127.77.0.9", addr, got)
			}
			c.Close()
		}
	}
}

// TestDialFallback tries a name's second address when the first refuses.
func TestDialFallback(t *testing.T) {
	p := newPod(t, Options{})
	ln, err := p.Listen(t.Context(), "127.77.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	from := acceptOnce(t, ln)
	hostsFile := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hostsFile, []byte("127.77.0.3 x\n127.77.0.4 x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := newPod(t, Options{HostsFile: hostsFile})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	c, err := client.DialContext(t.Context(), "tcp", "x:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !(<-from).IsValid() {
		t.Error("the second address was not tried")
	}
}

func TestDialErrors(t *testing.T) {
	hostsFile := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hostsFile, []byte("broken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPod(t, Options{HostsFile: hostsFile})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for addr, want := range map[string]string{
		"noport":         `reading the address "noport"`,
		"127.0.0.1:nine": "reading the port",
		"127.77.0.5:1":   "connecting to 127.77.0.5:1",
	} {
		_, err := p.DialContext(t.Context(), "tcp", addr)
		checkError(t, err, want)
	}
	_, err := p.DialContext(gone, "tcp", "name.invalid:80")
	checkError(t, err, "looking up name.invalid")
	checkError(t, err, "hosts: line 1") // the file that should have known it
}

func TestListen(t *testing.T) {
	p := newPod(t, Options{IP: "127.77.0.6", Ports: "127.77.0.6 80 0080"})
	_, err := p.Listen(t.Context(), "80")
	checkError(t, err, "HOST:PORT")
	ln, err := p.Listen(t.Context(), ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := ln.Addr().String(); !strings.HasPrefix(got, "127.77.0.6:") {
		t.Errorf("listening on %s, want the pod's address", got)
	}
	_, err = p.Listen(t.Context(), ln.Addr().String())
	checkError(t, err, "listening on "+ln.Addr().String())
	if errors.Is(err, os.ErrPermission) {
		t.Errorf("a port in use is told as missing permission: %v", err)
	}
}

// TestListenMoved binds a port where the port table says.
func TestListenMoved(t *testing.T) {
	first, err := newPod(t, Options{}).Listen(t.Context(), "127.77.0.7:0")
	if err != nil {
		t.Fatal(err)
	}
	free := first.Addr().(*net.TCPAddr).Port
	first.Close()
	p := newPod(t, Options{IP: "127.77.0.7", Ports: fmt.Sprintf("127.77.0.7 80 %d", free)})
	ln, err := p.Listen(t.Context(), ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if got := ln.Addr().(*net.TCPAddr).Port; got != free {
		t.Errorf("port 80 was bound at %d, want %d", got, free)
	}
}
