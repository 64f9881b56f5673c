package acceptance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairnproxy.dev/cairn/conformance/proc"
)

// namespace is a network namespace with a few addresses on lo, and no way out.
type namespace struct{ name string }

func newNamespace(t *testing.T, addrs ...string) namespace {
	t.Helper()
	n := namespace{fmt.Sprintf("cairn-acc-%d", os.Getpid())}
	for _, args := range [][]string{{"netns", "add", n.name}, {"-n", n.name, "link", "set", "lo", "up"}} {
		if o := command(t, "/", "ip", args...); o.code != 0 {
			t.Fatalf("ip %v: %s", args, o.stderr)
		}
	}
	t.Cleanup(func() { command(t, "/", "ip", "netns", "del", n.name) })
	for _, a := range addrs {
		if o := command(t, "/", "ip", "-n", n.name, "addr", "add", a+"/32", "dev", "lo"); o.code != 0 {
			t.Fatal(o.stderr)
		}
	}
	return n
}

// run starts a program in the namespace, until the test ends.
func (n namespace) run(t *testing.T, name string, args []string) {
	t.Helper()
	ip, ok := tryCommand([]string{"sh", "-c", "command -v ip"})
	if !ok {
		t.Fatal("there is no ip")
	}
	dir := t.TempDir()
	p, err := proc.Start(proc.Options{Path: ip[:len(ip)-1], Args: append([]string{"netns", "exec", n.name}, args...), Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Signal(syscall.SIGKILL) // it may have ended
		<-p.Ended()
	})
}

// dial connects from inside the namespace.
func (n namespace) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, so that nothing else
		// runs in the namespace.
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// But for the first thread, which does not end and is what /proc/self
			// shows: it waits here while another does it.
			conn, err = n.dial(ctx, network, addr)
			runtime.UnlockOSThread()
			return
		}
		var ns *os.File
		if ns, err = os.Open("/run/netns/" + n.name); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
		conn, err = d.DialContext(ctx, network, addr)
	}()
	<-done
	return conn, err
}

// get does one HTTP request from inside the namespace.
func (n namespace) get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return (&http.Transport{DialContext: n.dial, DisableKeepAlives: true}).RoundTrip(req)
}
