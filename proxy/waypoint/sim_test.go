package waypoint

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

var (
	simSeed  = flag.Uint64("seed", 0, "run one schedule of TestSchedules, and say what happens")
	simCount = flag.Int("seeds", 0, "how many schedules TestSchedules runs; 0 means 1500, or 200 with -short")
)

// TestSchedules runs clients, a waypoint and workloads in memory under random
// schedules: which connection delivers how many bytes next, who stops reading,
// what breaks. Whatever happens, each request gets exactly one of its own
// response, a local reply, or a reset; exactly one record; and nothing is left
// behind. In half of the schedules nothing breaks, and all responses must be whole.
func TestSchedules(t *testing.T) {
	if *simSeed != 0 {
		runSchedule(t, *simSeed, true)
		return
	}
	n := *simCount
	if n == 0 {
		n = 1500
		if testing.Short() {
			n = 200
		}
	}
	for i := range n {
		runSchedule(t, uint64(i+1), false)
		if t.Failed() {
			t.Fatalf("seed %d: repeat it with -run TestSchedules -seed %d", i+1, i+1)
		}
	}
}

// sim is one schedule.
type sim struct {
	*lab
	rng     *rand.Rand
	seed    uint64
	verbose bool
	breaks  bool // things go wrong
	calls   []*call
	actors  []actor
	hbone   []*wire
	svcs    []*mesh.Service
	works   []*mesh.Workload
	tcps    []*tcpCli
	denies  bool // a policy refuses PATCH
	ending  bool // no more faults; everything is read
	errs    []error
	steps   int
}

// actor is something that can act on its own.
type actor interface {
	ready() bool
	act(t *loop.Turn)
}

func (s *sim) logf(format string, args ...any) {
	if s.verbose {
		s.t.Logf("%6d "+format, append([]any{s.steps}, args...)...)
	}
}

func (s *sim) fail(format string, args ...any) { s.errs = append(s.errs, fmt.Errorf(format, args...)) }

func (s *sim) chance(percent int) bool { return s.rng.IntN(100) < percent }

// size is a length: mostly small, at times larger than a window.
func (s *sim) size() int {
	switch n := s.rng.IntN(100); {
	case n < 25:
		return 0
	case n < 75:
		return s.rng.IntN(200)
	case n < 92:
		return s.rng.IntN(20_000)
	case n < 96:
		return []int{65535, 65536, 16384, 16375, 1 << 18, 65535 * 2}[s.rng.IntN(6)]
	}
	return s.rng.IntN(300_000)
}

// piece is how many of at most n bytes move at once.
func (s *sim) piece(n int) int {
	if n <= 0 {
		return 0
	}
	switch k := s.rng.IntN(10); {
	case s.ending || k < 6:
		return n
	case k < 7:
		return 1 + s.rng.IntN(min(n, 8))
	case k < 8:
		return 1 + s.rng.IntN(min(n, 200))
	}
	return 1 + s.rng.IntN(n)
}

func runSchedule(t testing.TB, seed uint64, verbose bool) {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 7)), seed: seed, verbose: verbose}
	s.breaks = s.chance(50)
	for i := range 3 {
		s.works = append(s.works, labWorkload(i+1))
	}
	for i, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolSniff} {
		// One workload each: which of several is chosen is drawn elsewhere, and
		// a schedule must repeat itself.
		s.svcs = append(s.svcs, labService(i+1, proto, s.works[i]))
	}
	tcp := labService(4, mesh.ProtocolTCP, s.works[0])
	parts := mesh.Parts{Services: append([]*mesh.Service{tcp}, s.svcs...), Workloads: s.works}
	if s.chance(50) {
		parts.Policies = []*mesh.AuthorizationPolicy{{
			Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionDeny, TargetRefs: []mesh.TargetRef{{Kind: "Gateway", Group: "gateway.networking.k8s.io", Name: wpName.Name}},
			Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"PATCH"}}}}},
		}}
		s.denies = true
	}
	timeouts := s.breaks && s.chance(50)
	if timeouts {
		for i, v := range s.svcs {
			r := mesh.Route{Backends: []mesh.Backend{to(v, 1)}, Timeout: 5 * time.Second}
			if s.chance(50) {
				r.BackendTimeout = 2 * time.Second
			}
			parts.Attachments = append(parts.Attachments, route(fmt.Sprint("r", i), i, v, r))
		}
	}
	s.lab = newLab(t, parts)
	s.lab.serve = s.serveConnect
	for range 1 + s.rng.IntN(2) {
		s.hbone = append(s.hbone, s.client())
	}
	for range 1 + s.rng.IntN(4) {
		s.newTunnel(s.hbone[s.rng.IntN(len(s.hbone))])
	}
	for range s.rng.IntN(3) {
		if s.denies {
			break // such a policy refuses connections that it cannot look into
		}
		to := []*mesh.Service{tcp, s.svcs[2]}[s.rng.IntN(2)]
		c := &tcpCli{s: s, w: s.hbone[0], to: vip(to), n: 1 + s.size()}
		if s.breaks && s.chance(20) {
			c.faultIn = 1 + s.rng.IntN(20)
		}
		s.tcps = append(s.tcps, c)
		s.actors = append(s.actors, c)
	}
	s.logf("breaks=%v timeouts=%v", s.breaks, timeouts)
	s.run()
	s.end()
	for _, err := range s.errs {
		t.Errorf("seed %d: %v", seed, err)
	}
}

const maxSteps = 200_000

// run plays the schedule until nothing is left to do.
func (s *sim) run() {
	for s.steps = 0; s.steps < maxSteps && len(s.errs) == 0; s.steps++ {
		if !s.ending {
			s.calm()
			if s.breaks {
				s.disturb()
			}
		}
		if s.rng.IntN(400) == 0 {
			s.now = s.now.Add(time.Duration(s.rng.IntN(300)) * time.Millisecond)
			s.do(s.p.timers.sweep)
		}
		if s.rng.IntN(600) == 0 && !s.ending {
			s.publish()
		}
		if !s.step() {
			if s.ending {
				return
			}
			s.ending = true // what nobody answers is given up
			s.giveUp()
		}
		if s.steps > maxSteps/2 {
			s.ending = true
		}
	}
	if s.steps >= maxSteps {
		s.fail("the schedule does not end")
	}
}

// step does one thing that can be done, or reports that there is none.
func (s *sim) step() bool {
	n := len(s.wires) + len(s.actors)
	at := s.rng.IntN(n)
	for i := range n {
		k := (at + i) % n
		if k < len(s.wires) {
			if w := s.wires[k]; w.pending() {
				w.pump(s.piece(1 << 16))
				return true
			}
			continue
		}
		if a := s.actors[k-len(s.wires)]; a.ready() {
			s.do(a.act)
			return true
		}
	}
	for _, w := range s.works { // in order: maps are not
		p := s.peers[dialOf(w)]
		if p != nil && len(p.waiting) > 0 {
			if s.breaks && s.chance(15) {
				p.dialed(errors.New("dial: refused"))
			} else {
				p.max = 1 + s.rng.IntN(8)
				p.dialed(nil)
			}
			return true
		}
	}
	return false
}

// calm ends something in good order, rarely: nobody may notice.
func (s *sim) calm() {
	switch s.rng.IntN(1500) {
	case 0: // a workload's node proxy
		for _, w := range s.works {
			if p := s.peers[dialOf(w)]; p != nil && len(p.conns) > 0 {
				s.logf("a node proxy drains")
				s.do(p.conns[s.rng.IntN(len(p.conns))].to.conn.Drain)
				return
			}
		}
	case 1: // an application
		for _, a := range s.actors[s.rng.IntN(len(s.actors)):] {
			if e, ok := a.(*workload); ok && e.inner != nil && !e.over {
				s.logf("an application drains")
				s.do(e.inner.conn.Drain)
				return
			}
		}
	case 2: // the waypoint, inside the tunnels
		for _, h := range s.p.allH2Servers() {
			s.logf("an HTTP/2 server of the waypoint drains")
			s.do(h.drain)
			return
		}
	case 3:
		s.do(func(t *loop.Turn) {
			for _, d := range s.p.destinations {
				d.closeIdle(t, t.Now.Add(time.Hour))
			}
		})
	}
}

// disturb breaks something, rarely.
func (s *sim) disturb() {
	switch s.rng.IntN(1500) {
	case 0, 1, 2:
		w := s.wires[s.rng.IntN(len(s.wires))]
		s.logf("a connection breaks")
		w.Abort()
	case 3, 4, 5:
		w := s.wires[s.rng.IntN(len(s.wires))]
		if !w.closed {
			s.logf("a connection drains")
			s.do(w.conn.Drain)
		}
	case 6:
		s.logf("the waypoint drains")
		s.p.draining.Store(true)
	case 7, 8:
		s.now = s.now.Add(3 * time.Second)
		s.do(s.p.timers.sweep)
	case 9, 10:
		s.p.closeIdle()
	case 14: // a workload's HTTP/2 goes mad
		for _, a := range s.actors {
			if e, ok := a.(*workload); ok && e.inner != nil && !e.over {
				s.logf("a workload sends garbage")
				s.do(func(t *loop.Turn) { e.st.Write(t, make([]byte, 100), false) })
				return
			}
		}
	case 15: // a client's
		for _, a := range s.actors {
			if c, ok := a.(*h2Cli); ok && c.inner != nil && !c.over {
				s.logf("a client sends garbage")
				s.do(func(t *loop.Turn) { c.st.Write(t, make([]byte, 100), false) })
				return
			}
		}
	case 11, 12, 13: // an endpoint comes or goes
		s.parts.Workloads = s.works[s.rng.IntN(2):]
		s.publish()
	}
}

// giveUp is the clients' answer to everything that hangs.
func (s *sim) giveUp() {
	for _, c := range s.calls {
		if c.sent && !c.over() && c.fault != faultHang && !s.breaks {
			s.fail("call %d is stuck: %+v", c.id, *c)
		}
	}
	if s.verbose {
		s.logf("waiting: %d bytes", s.budget.Used())
		for _, a := range s.actors {
			switch a := a.(type) {
			case *h1Cli:
				s.logf("client: %d to write, %d owed, %d in flight, open %v ended %v congested %v", len(a.out), a.owed, len(a.flight), a.st != nil, a.ended, a.st != nil && a.st.Congested())
			case *workload:
				s.logf("workload: over %v, %d to write, %d owed, call %v done %v got %d started %v congested %v", a.over, len(a.out), a.owed, a.x, a.reqDone, a.got, a.started, a.st.Congested())
			}
		}
	}
	for _, c := range s.tcps {
		if !c.over && !s.breaks {
			s.fail("%d of %d bytes are stuck: %+v", c.n-c.got, c.n, *c)
		}
	}
	for range 80 { // deadlines pass
		s.now = s.now.Add(500 * time.Millisecond)
		s.do(s.p.timers.sweep)
		for s.step() {
			if s.steps++; s.steps > maxSteps {
				return
			}
		}
	}
	for _, c := range s.calls {
		if c.sent && !c.over() && c.fault == noFault && !s.hanging() {
			s.fail("call %d is stuck for ever: %+v", c.id, *c)
		}
	}
	for _, w := range s.hbone {
		w.Abort()
	}
}

// hanging reports whether a workload leaves a call without an answer: others
// may wait behind it.
func (s *sim) hanging() bool {
	for _, c := range s.calls {
		if c.fault == faultHang && c.seen > 0 {
			return true
		}
	}
	return false
}

// end checks what must hold when all is over.
func (s *sim) end() {
	if len(s.errs) > 0 {
		return
	}
	lines := s.lines()
	for _, l := range lines {
		s.logf("%s", l)
	}
	count := map[string]int{}
	for _, l := range lines {
		if f := strings.Split(l, `"`); len(f) > 9 {
			for _, x := range f {
				if strings.HasPrefix(x, "call-") {
					count[x]++
				}
			}
		}
	}
	for _, c := range s.calls {
		n := count[fmt.Sprintf("call-%d", c.id)]
		switch {
		case n > 1:
			s.fail("call %d has %d records", c.id, n)
		case n == 0 && c.sniffed && s.breaks: // time passed, and it was taken for something else
		case n == 0 && (c.seen > 0 || c.done && c.local != 431 && c.local != 400):
			s.fail("call %d has no record: %+v", c.id, *c)
		}
		if !s.breaks {
			if !c.done || c.local != 0 && c.want == 0 || !c.head {
				s.fail("call %d did not get its response: %+v", c.id, *c)
			}
		}
	}
	for _, w := range s.works {
		if p := s.peers[dialOf(w)]; p != nil {
			for _, c := range p.conns {
				c.Abort()
			}
		}
	}
	s.settle()
	if n := s.budget.Used(); n != 0 {
		s.fail("%d bytes are still counted as waiting", n)
	}
	if n := s.p.tunnels.Load(); n != 0 {
		s.fail("%d tunnels are still counted", n)
	}
	for cl := range s.p.runtime.Load().allClusters() {
		for _, ep := range cl.c.Endpoints() {
			if ep.Active() != 0 {
				s.fail("endpoint %s still has %d requests", ep.Authority(), ep.Active())
			}
		}
	}
	if len(s.p.h2Servers) != 0 {
		s.fail("%d HTTP/2 servers are left", len(s.p.h2Servers))
	}
}

// newTunnel plans a tunnel of requests.
func (s *sim) newTunnel(w *wire) {
	svc := s.rng.IntN(len(s.svcs))
	var todo []*call
	for range 1 + s.rng.IntN(6) {
		todo = append(todo, s.newCall())
	}
	if s.chance(45) {
		for _, c := range todo {
			c.upgrade, c.http10, c.expect, c.final, c.bad = false, false, c.expect && s.chance(20), false, false
			if c.lie != 0 {
				c.declared, c.trailer = true, false
				c.lie = max(c.lie, -c.reqLen)
			}
		}
		s.actors = append(s.actors, &h2Cli{s: s, w: w, to: vip(s.svcs[svc]), todo: todo, most: 1 + s.rng.IntN(4)})
		return
	}
	for i, c := range todo {
		c.lie, c.grpc, c.sniffed = 0, false, svc == 2
		c.bad = c.bad && c.reqLen > 0 && !c.declared && !c.http10
		if svc == 1 {
			c.upgrade = false // its endpoints speak HTTP/2
		}
		if c.upgrade {
			todo = todo[:i+1]
			for _, x := range s.calls[c.id:] {
				x.broken, x.sent = true, false
			}
			s.calls = s.calls[:c.id]
			break
		}
	}
	s.actors = append(s.actors, &h1Cli{s: s, w: w, to: vip(s.svcs[svc]), todo: todo, depth: 1 + s.rng.IntN(3)})
}

// judge takes a response head and says whether it is a workload's.
func (s *sim) judge(c *call, resp *mesh.Response) {
	c.head = true
	id, ok := resp.Fields.Get("x-id")
	if ok != (!s.denies || c.want == 0) && !s.breaks {
		s.fail("call %d got %d from %q, want %d of the waypoint: %v", c.id, resp.Status, id, c.want, c.want != 0)
	}
	if !ok {
		c.local = resp.Status
		if !s.breaks && c.local != c.want && !(c.grpc && c.local == 200) {
			s.fail("call %d got %d from the waypoint", c.id, resp.Status)
		}
		return
	}
	if id != fmt.Sprint(c.id) {
		s.fail("call %d got the response of %s", c.id, id)
	}
	want := c.status
	if c.upgrade {
		want = 101
	}
	if resp.Status != want {
		s.fail("call %d got status %d, want %d", c.id, resp.Status, want)
	}
	if pad, _ := resp.Fields.Get("x-pad"); len(pad) != c.rpad || strings.Trim(pad, "p") != "" {
		s.fail("call %d got a padding of %d bytes, want %d", c.id, len(pad), c.rpad)
	}
}

// took takes content of a response.
func (s *sim) took(c *call, b []byte) {
	if c.local != 0 {
		c.got += len(b)
		return
	}
	if err := checkPattern(b, c.id, c.got); err != nil {
		s.fail("response: %w", err)
	}
	c.got += len(b)
}

// finished ends a call whose response is complete.
func (s *sim) finished(c *call, trailers mesh.Fields) {
	s.logf("call %d is complete: local %d, %d bytes", c.id, c.local, c.got)
	if c.done {
		s.fail("call %d is complete twice", c.id)
	}
	c.done = true
	if c.local != 0 {
		return
	}
	want := c.respLen
	if c.noContent() {
		want = 0
	}
	if c.upgrade {
		return
	}
	if c.respMode == 2 && c.fault == faultEnd {
		return // nobody can tell
	}
	if c.got != want {
		s.fail("call %d is complete after %d bytes, want %d: %+v", c.id, c.got, want, *c)
	}
	if v, ok := trailers.Get("x-sum"); ok && v != fmt.Sprint("sum-", c.id) {
		s.fail("call %d has trailer %q", c.id, v)
	} else if ok {
		c.trailerOK = true
	}
}

func (s *sim) broke(c *call, why string) {
	if !c.over() {
		s.logf("call %d is broken: %s", c.id, why)
		c.broken = true
		if !s.breaks {
			s.fail("call %d was broken: %s: %+v", c.id, why, *c)
		}
	}
}
