package up

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestNextDelay(t *testing.T) {
	tests := []struct {
		name              string
		prev, lived, want time.Duration
	}{
		{"first", 0, 0, firstDelay},
		{"second", firstDelay, time.Second, 2 * firstDelay},
		{"capped", maxDelay, time.Second, maxDelay},
		{"after a long life", maxDelay, longLife, firstDelay},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := nextDelay(tt.prev, tt.lived); got != tt.want {
				t.Errorf("nextDelay(%s, %s) = %s, want %s", tt.prev, tt.lived, got, tt.want)
			}
		})
	}
}

func TestPodLog(t *testing.T) {
	var b bytes.Buffer
	l := newPodLog("ns/a", &b)
	for _, s := range []string{"one\ntw", "o\n", strings.Repeat("x", 3*maxTail), "\nlast\n"} {
		if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if got := b.String(); !strings.HasPrefix(got, "[ns/a] one\n[ns/a] two\n[ns/a] x") || !strings.HasSuffix(got, "[ns/a] last\n") {
		t.Errorf("passed on %.60q…", got)
	}
	if got := l.tail(); !strings.HasSuffix(got, "x | last") || len(got) > maxTail+10 {
		t.Errorf("tail is %d bytes and ends in %.20q", len(got), got[max(0, len(got)-20):])
	}
}

// testRunner runs real programs; started counts what it started.
func testRunner(t *testing.T) (r *Runner, started chan string, out *lockedBuffer) {
	t.Helper()
	started, out = make(chan string, 100), &lockedBuffer{}
	ctx, cancel := context.WithCancel(t.Context())
	s := newSpawner()
	ended := make(chan struct{})
	go func() { defer close(ended); s.run(ctx) }()
	r = newRunner(runnerOptions{
		self: "/nonexistent/cairn",
		log:  slog.New(slog.NewTextHandler(out, nil)),
		out:  func(pod string) *podLog { return newPodLog(pod, out) },
		dial: func(ctx context.Context, _ Pod, to netip.AddrPort) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to.String())
		},
		start: func(c *exec.Cmd, p Pod) (func() error, error) {
			if err := s.start(c); err != nil {
				return nil, err
			}
			started <- p.key()
			return c.Wait, nil
		},
	})
	t.Cleanup(func() { r.Stop(); cancel(); <-ended })
	return r, started, out
}

func sh(name, script string) Pod {
	return Pod{Namespace: "ns", Name: name, Address: netip.MustParseAddr("127.0.0.1"), Containers: []Container{{Command: []string{"/bin/sh", "-c", script}}}}
}

func noEnv(Pod) []string { return nil }

func TestRunnerRestartsAndStops(t *testing.T) {
	r, started, out := testRunner(t)
	r.Set(t.Context(), []Pod{sh("dies", "echo bye; exit 3")}, noEnv)
	for range 2 {
		if got := wait(t, started); got != "ns/dies" {
			t.Fatalf("started %s", got)
		}
	}
	r.Stop()
	if got := out.String(); !strings.Contains(got, "exit status 3") || !strings.Contains(got, "bye") {
		t.Errorf("the log does not tell of the death: %s", got)
	}
}

func TestRunnerReplaces(t *testing.T) {
	r, started, out := testRunner(t)
	file := filepath.Join(t.TempDir(), "ended")
	// The first ends in order: it gets SIGTERM and may say good-bye.
	first := sh("a", "trap 'echo x > "+file+"; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	r.Set(t.Context(), []Pod{first}, noEnv)
	wait(t, started)
	out.waitFor(t, "] up")
	r.Set(t.Context(), []Pod{first}, noEnv)
	select {
	case s := <-started:
		t.Fatalf("an unchanged pod was started again: %s", s)
	default:
	}
	second := first
	second.Containers = []Container{{Command: []string{"/bin/sleep", "1000"}}}
	r.Set(t.Context(), []Pod{second}, noEnv)
	wait(t, started)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the replaced program was not ended with SIGTERM: %v", err)
	}
	gone := r.running["ns/a"]
	r.Set(t.Context(), nil, noEnv)
	<-gone.done
	r.Set(t.Context(), []Pod{second}, noEnv)
	if got := wait(t, started); got != "ns/a" {
		t.Errorf("started %s, want the pod that came back", got)
	}
}

func TestRunnerExternal(t *testing.T) {
	r, _, _ := testRunner(t)
	p := Pod{Namespace: "ns", Name: "x", Containers: []Container{{Image: "mysql"}}}
	r.Set(t.Context(), []Pod{p}, noEnv)
	if got := r.State(p); got != PodExternal {
		t.Errorf("state %s, want %s", got, PodExternal)
	}
}

func TestRunnerReady(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r, started, out := testRunner(t)
	p := sh("a", "echo up; read x")
	r.Set(t.Context(), []Pod{p, {Namespace: "ns", Name: "external"}}, noEnv)
	wait(t, started)
	if !r.Ready("ns/a") || !r.Ready("ns/external") {
		t.Error("a pod without a port is not ready")
	}
	out.waitFor(t, "] up")
	p.Containers = []Container{{Command: []string{"/bin/sleep", "1000"}, Ports: []uint16{ln.Addr().(*net.TCPAddr).AddrPort().Port()}}}
	r.Set(t.Context(), []Pod{p}, noEnv)
	for !r.Ready("ns/a") {
		<-r.Changed()
	}
	r.Set(t.Context(), nil, noEnv)
	for r.Ready("ns/a") {
		<-r.Changed()
	}
}

func wait(t *testing.T, c <-chan string) string {
	t.Helper()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case s := <-c:
		return s
	case <-timer.C:
		t.Fatal("nothing was started within 10 s")
		return ""
	}
}

type lockedBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	wake chan struct{} // closed by the next Write, if somebody waits
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
	return l.b.Write(b)
}

// waitFor returns when the buffer contains s.
func (l *lockedBuffer) waitFor(t *testing.T, s string) {
	t.Helper()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	for {
		l.mu.Lock()
		if bytes.Contains(l.b.Bytes(), []byte(s)) {
			l.mu.Unlock()
			return
		}
		if l.wake == nil {
			l.wake = make(chan struct{})
		}
		wake := l.wake
		l.mu.Unlock()
		select {
		case <-wake:
		case <-timer.C:
			t.Fatalf("no %q within 10 s in:\n%s", s, l)
		}
	}
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
