package waypoint

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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
	denies  bool          // a policy refuses PATCH
	named   bool          // requests carry the number of the configuration that routed them
	limits  time.Duration // the timeouts of routes; 0: none
	drained []*wire       // they were told to drain
	ending  bool          // no more faults; everything is read
	errs    []error
	steps   int
	conf    uint64 // the configuration in force
	pol     simPolicy
	waiting []*simWait
	refused bool // a dial was
	// instrumented are the ports that have the schedule's filters.
	instrumented map[*servicePort]bool
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
	case n < 97:
		return []int{65535, 65536, 16384, 16375, 1 << 18, 65535 * 2}[s.rng.IntN(6)]
	}
	if s.chance(20) {
		return 1 << 20
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
	s.breaks, s.instrumented = s.chance(50), map[*servicePort]bool{}
	s.plan()
	for i := range 3 {
		s.works = append(s.works, labWorkload(i+1))
	}
	if s.pol.hedges {
		s.works = append(s.works, labWorkload(4), labWorkload(5))
	}
	for i, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolSniff} {
		// One workload each: which of several is chosen is drawn elsewhere, and
		// a schedule must repeat itself.
		works := []*mesh.Workload{s.works[i]}
		if s.pol.hedges && i < 2 { // see simPolicy
			works = append(works, s.works[3+i])
		}
		v := labService(i+1, proto, works...)
		v.Ports[0].Requests, v.Ports[0].Backend = s.policy(), s.backendPolicy()
		s.svcs = append(s.svcs, v)
	}
	s.bind()
	tcp := labService(4, mesh.ProtocolTCP, s.works[0])
	parts := mesh.Parts{Services: append([]*mesh.Service{tcp}, s.svcs...), Workloads: s.works}
	if s.chance(50) {
		parts.Policies = []*mesh.AuthorizationPolicy{{
			Name: mesh.Name{Namespace: "app", Name: "p"}, Action: mesh.ActionDeny, TargetRefs: []mesh.TargetRef{{Kind: "Gateway", Group: "gateway.networking.k8s.io", Name: wpName.Name}},
			Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"PATCH"}}}}},
		}}
		s.denies = true
	}
	s.named = s.chance(50)
	if s.chance(50) {
		s.limits = 5 * time.Second
		if !s.breaks {
			s.limits = time.Hour // nobody may notice
		}
	}
	s.attach(&parts)
	s.lab = newLab(t, parts)
	s.p.below = func(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d))) }
	s.instrument()
	if s.chance(60) {
		s.own = 128 << 10 // the least in which the largest head fits beside half a window that is not due yet
	}
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
	s.logf("breaks=%v timeouts=%v policies=%v", s.breaks, s.limits, s.pol)
	s.run()
	s.end()
	for _, err := range s.errs {
		t.Errorf("seed %d: %v", seed, err)
	}
}

// bind gives services circuit breakers in some schedules. Where nothing breaks, requests
// have to wait for few connections, and all get theirs.
func (s *sim) bind() {
	rng := rand.New(rand.NewPCG(s.seed, 11))
	if rng.IntN(100) < 60 {
		return
	}
	for _, v := range s.svcs[:2] {
		b := &mesh.CircuitBreaker{MaxConnections: uint32(1 + rng.IntN(2))}
		if s.breaks {
			b.MaxPending, b.MaxRequests = uint32(rng.IntN(4)), uint32(rng.IntN(4))
		}
		v.Ports[0].Backend = &mesh.BackendPolicy{Breaker: b, Outlier: &mesh.OutlierDetection{}}
	}
}

// attach gives each service a route with what this schedule's routes have.
func (s *sim) attach(parts *mesh.Parts) {
	parts.Attachments = nil
	if !s.named && s.limits == 0 {
		return
	}
	for i, v := range s.svcs {
		r := mesh.Route{Backends: []mesh.Backend{to(v, 1)}}
		if s.limits > 0 { // either alone must be enough
			r.Requests = &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{}}
			if i != 1 {
				r.Requests.Timeouts.Request = s.limits
			}
			if i != 0 {
				r.Requests.Timeouts.PerTry = s.limits / 2
			}
		}
		if s.named {
			r.Filters.RequestHeaders = &mesh.HeaderEdits{Set: []mesh.Field{{Name: "x-conf", Value: fmt.Sprint(s.conf + 1)}}}
		}
		parts.Attachments = append(parts.Attachments, route(fmt.Sprint("r", i), i, v, r))
	}
	s.conf++
}

// publish puts a new configuration in force.
func (s *sim) publish() {
	s.attach(&s.parts)
	s.lab.publish()
	s.instrument()
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
		s.bound()
		if !s.step() {
			if s.pauses() {
				s.pass()
				continue
			}
			if s.ending {
				return
			}
			s.atRest()
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
	if s.chance(10) && s.dial() {
		return true
	}
	return s.move(false) || s.dial() || s.move(true)
}

// connection returns w, or another in its place when w takes no new tunnels.
func (s *sim) connection(w *wire) *wire {
	if s.breaks || !w.closed && w.conn.Usable() {
		return w
	}
	for _, h := range s.hbone {
		if !h.closed && h.conn.Usable() {
			return h
		}
	}
	s.hbone = append(s.hbone, s.client())
	return s.hbone[len(s.hbone)-1]
}

// mayBreak lets an actor whose fault is due in some steps take one of them while
// it only waits: things break then, too.
func (s *sim) mayBreak(faultIn int) bool { return faultIn > 0 && !s.ending && s.chance(5) }

// move delivers something or lets an actor act. Those who take their time do
// little before nobody else has anything to do.
func (s *sim) move(all bool) bool {
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
		a := s.actors[k-len(s.wires)]
		if l, ok := a.(interface{ isLazy() bool }); ok && l.isLazy() && !all && !s.chance(4) {
			continue
		}
		if a.ready() {
			s.do(a.act)
			return true
		}
	}
	return false
}

// dial ends one dial that is under way.
func (s *sim) dial() bool {
	for _, w := range s.works { // in order: maps are not
		p := s.peers[dialOf(w)]
		if p == nil || len(p.waiting) == 0 {
			continue
		}
		if s.breaks && s.chance(15) || s.mayRefuse(p) {
			s.logf("a dial fails for %d", len(p.waiting))
			p.dialed(errors.New("dial: refused"))
		} else {
			p.max = 1 + s.rng.IntN(8)
			p.dialed(nil)
		}
		return true
	}
	return false
}

// mayRefuse reports whether a dial may fail where nothing may break: once, and
// only for requests. They have two more tries, of which a workload may refuse one.
func (s *sim) mayRefuse(p *labPeer) bool {
	if s.breaks || p.refused || s.refused && s.pol.hedges || len(s.tcps) > 0 || !s.chance(20) {
		return false // with hedges a service has two workloads
	}
	p.refused, s.refused = true, true
	return true
}

func (s *sim) drain(w *wire) {
	s.drained = append(s.drained, w)
	s.do(w.conn.Drain)
}

// calm ends something in good order, rarely: nobody may notice.
func (s *sim) calm() {
	switch s.rng.IntN(1500) {
	case 0: // a workload's node proxy
		for _, w := range s.works {
			if p := s.peers[dialOf(w)]; p != nil && len(p.conns) > 0 {
				s.logf("a node proxy drains")
				s.drain(p.conns[s.rng.IntN(len(p.conns))].to)
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
	case 3: // a connection of clients: new tunnels go on another
		h := s.hbone[s.rng.IntN(len(s.hbone))]
		if !h.closed && !h.to.closed {
			s.logf("the waypoint drains a connection of clients")
			s.drain(h.to)
		}
	case 4:
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
			s.drain(w)
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
			c.inner = true
			if c.lie != 0 {
				c.declared, c.trailer = true, false
				c.lie = max(c.lie, -c.reqLen)
			}
		}
		s.actors = append(s.actors, &h2Cli{s: s, w: w, to: vip(s.svcs[svc]), todo: todo, most: 1 + s.rng.IntN(4)})
		return
	}
	for i, c := range todo {
		c.lie, c.grpc, c.sniffed, c.inner = 0, false, svc == 2, svc == 1
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
