package waypoint

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// cannedWorkload is a node proxy with an application that answers each request
// with the same bytes and allocates nothing for it.
func (r *rig) cannedWorkload(name, response string) *mesh.Workload {
	r.t.Helper()
	w := labWorkload(1)
	w.Name, w.WorkloadName, w.ServiceAccount, w.UID = name, name, name, "Kubernetes//Pod/app/"+name
	w.Addresses = []netip.Addr{r.address()}
	ln, err := net.Listen("tcp", netip.AddrPortFrom(w.Addresses[0], 15008).String())
	if err != nil {
		r.t.Fatal(err)
	}
	srv := tunnel.NewServer(tunnel.ServerOptions{TLS: r.cache.Server(w.Identity()), Inline: func(t *loop.Turn, c *tunnel.Connect) {
		c.AcceptInline(t, &cannedApp{response: []byte(response)})
	}})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	r.t.Cleanup(func() {
		srv.Close()
		if err := <-served; err != nil {
			r.t.Errorf("serving %s: %v", name, err)
		}
	})
	return w
}

type cannedApp struct{ response []byte }

func (*cannedApp) Headers(*loop.Turn, *h2.Stream, *h2.Head) {}

// Data takes requests that come whole and end with their head.
func (a *cannedApp) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	for range bytes.Count(b, []byte("\r\n\r\n")) {
		st.Write(t, a.response, false)
	}
	st.Consumed(t, len(b))
	if end {
		st.Write(t, nil, true)
	}
}
func (*cannedApp) Reset(*loop.Turn, *h2.Stream, error) {}
func (*cannedApp) Writable(*loop.Turn, *h2.Stream)     {}

// callers send the same request again and again, each when the answer to the
// one before is complete, and share a number of requests to send.
type callers struct {
	r         *rig
	authority string
	request   []byte
	fresh     bool         // each request has a tunnel of its own
	size      atomic.Int64 // of each response; 0: not known yet
	left      atomic.Int64 // requests that may still be sent
	busy      atomic.Int64 // callers at work
	idle      chan struct{}
	failed    chan error
}

// caller is one of them, in one tunnel at a time.
type caller struct {
	l    *callers
	st   *h2.Stream
	peer *tunnel.Peer
	head []byte // of the first response, until it is complete
	got  int    // of the response at hand
}

// Opened implements tunnel.Opener.
func (c *caller) Opened(_ *loop.Turn, st *h2.Stream, err error) {
	if err != nil {
		c.l.fail(err)
		return
	}
	c.st = st
}

func (c *caller) Headers(t *loop.Turn, st *h2.Stream, h *h2.Head) {
	if status := tunnel.Status(h); status != 200 {
		c.l.fail(fmt.Errorf("CONNECT was answered with %d", status))
		return
	}
	if c.l.fresh {
		st.Write(t, c.l.request, false)
		return
	}
	c.l.done()
}

func (c *caller) Data(t *loop.Turn, st *h2.Stream, b []byte, end bool) {
	st.Consumed(t, len(b))
	if st != c.st {
		return // the end of the tunnel before
	}
	c.got += len(b)
	if c.l.size.Load() == 0 { // nobody else is at work yet
		c.head = append(c.head, b...)
		n := bytes.Index(c.head, []byte("\r\n\r\n"))
		if !bytes.HasPrefix(c.head, []byte("HTTP/1.1 200")) || n < 0 || c.got < n+4+1024 {
			return // it is not complete, or never will be: the test's deadline tells
		}
		c.l.size.Store(int64(n + 4 + 1024))
	}
	switch size := int(c.l.size.Load()); {
	case c.got > size || end:
		c.l.fail(fmt.Errorf("%d bytes came of a response of %d, end %v", c.got, size, end))
	case c.got == size:
		c.got = 0
		c.next(t)
	}
}

func (c *caller) Reset(_ *loop.Turn, _ *h2.Stream, err error) { c.l.fail(err) }
func (c *caller) Writable(*loop.Turn, *h2.Stream)             {}

// next sends a request if there is one left.
func (c *caller) next(t *loop.Turn) {
	switch {
	case c.l.left.Add(-1) < 0:
		c.l.done()
	case c.l.fresh:
		c.st.Write(t, nil, true)
		if c.st = c.peer.TryOpen(t, tunnel.Request{Authority: c.l.authority}, c); c.st == nil {
			c.l.fail(errors.New("there is no room for another tunnel"))
		}
	default:
		c.st.Write(t, c.l.request, false)
	}
}

func (l *callers) done() {
	if l.busy.Add(-1) == 0 {
		l.idle <- struct{}{}
	}
}

func (l *callers) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// run sends n requests and returns when all are answered.
func (l *callers) run(t *testing.T, n int64, cs []*caller) {
	t.Helper()
	l.left.Store(n)
	l.busy.Store(int64(len(cs)))
	for _, c := range cs {
		loop.Run(c.next)
	}
	l.wait(t)
}

func (l *callers) wait(t *testing.T) {
	t.Helper()
	select {
	case <-l.idle:
	case err := <-l.failed:
		t.Fatal(err)
	}
}

// open makes n tunnels.
func (l *callers) open(t *testing.T, n int) (cs []*caller) {
	t.Helper()
	peer := l.r.pool.Peer(tunnel.Target{Addr: netip.AddrPortFrom(l.r.addr, 15008), Own: clientID, Expect: []string{wpID.String()}})
	l.busy.Store(int64(n))
	for range n {
		c := &caller{l: l, peer: peer}
		cs = append(cs, c)
		loop.Run(func(t *loop.Turn) { peer.Open(t, tunnel.Request{Authority: l.authority}, c) })
	}
	l.wait(t)
	return cs
}

// newCallers makes callers in a rig with everything on.
func newCallers(t *testing.T) *callers {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.cannedWorkload("canned", benchResponse+strings.Repeat("x", 1024))
		v = r.service("web", 80, mesh.ProtocolHTTP, w)
		parts := mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
		everything(&parts, v)
		return parts
	})
	return &callers{r: r, authority: vip(v), request: []byte(benchRequest), idle: make(chan struct{}, 1), failed: make(chan error, 1)}
}

// Over real sockets with TLS a request allocates nothing at any of the four ends
// (client, waypoint twice, workload). Everything in the process counts: records
// of the access log, timers, ticks; hence the fraction. In FIPS mode, where
// crypto/tls carries the records, it would be 8. It runs on one P, so that how
// many requests share a batch does not depend on the machine.
func TestAllocationsOverSockets(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, tc := range []struct {
		name    string
		streams int
		fresh   bool
		most    float64
	}{
		{"one-stream", 1, false, 0.5},
		{"streams", 16, false, 0.5},
		{"connect", 1, true, 39},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newCallers(t)
			cs := l.open(t, tc.streams)
			l.run(t, 1, cs[:1])
			l.fresh = tc.fresh
			l.run(t, 2000, cs)
			const n = 10_000
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			l.run(t, n, cs)
			runtime.ReadMemStats(&after)
			per := float64(after.Mallocs-before.Mallocs) / n
			if t.Logf("%.2f allocations per request", per); per > tc.most {
				t.Errorf("%.2f allocations per request in the whole process, want at most %v", per, tc.most)
			}
			l.r.pool.Close()
			l.r.stop()
			if got := strings.Count(l.r.log.String(), "\n"); got != n+2001 {
				t.Errorf("%d requests are on record, want %d", got, n+2001)
			}
		})
	}
}
