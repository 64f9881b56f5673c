package waypoint

import (
	"fmt"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

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
		if !c.sent || c.over() {
			continue
		}
		switch {
		case c.halfEnd && c.reqLen < 60_000: // else the end waits behind what nobody takes
			s.fail("call %d goes on though its client is gone: %+v", c.id, *c)
		case s.limits > 0 && c.fault == faultHang && c.seen > 0:
			s.fail("call %d has no end though its route has timeouts: %+v", c.id, *c)
		case c.fault == noFault && !s.hanging():
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

// bound checks what waits in the waypoint: for each call a window's worth in
// both directions, and what a stream holds before it counts as congested.
func (s *sim) bound() {
	if s.own == 0 {
		return // windows grow to a megabyte: little is larger
	}
	const each = 128<<10 + 64<<10 + 32<<10
	n := int64(1 + 2*len(s.tcps)) // one for what is on its way out; both directions
	for _, c := range s.calls {
		if c.sent && !c.done {
			n++
			if c.inner {
				n += 4 // windows inside HTTP/2 are as in production
			}
		}
	}
	if used := s.budget.Used(); used > n*each {
		s.fail("%d bytes wait for %d calls", used, n)
	}
}

// atRest checks what must hold when nothing is left to do and nothing broke.
func (s *sim) atRest() {
	for _, w := range s.waiting {
		if w.ready() {
			s.fail("a filter waits though nothing is left to do")
		}
	}
	if s.breaks {
		return
	}
	for _, w := range s.wires {
		if n := w.unreturned(); w.ledger.grow == 0 && n >= w.ledger.window/2 {
			s.fail("%d bytes of a stream's window were not given back", n)
		}
	}
	for i := range s.p.timers.shards {
		for d, l := range s.p.timers.shards[i].lists {
			if (d == s.limits || d == s.limits/2) && l.head != nil {
				s.fail("a timeout of %v is set for a request that is over", d)
			}
		}
	}
	for _, w := range s.drained {
		if w.conn.Streams() == 0 && !w.closed && !w.to.closed && !w.abort && !w.to.abort {
			s.fail("a connection without streams goes on though it was drained")
		}
	}
}

// end checks what must hold when all is over.
func (s *sim) end() {
	lines := s.lines()
	for _, l := range lines {
		s.logf("%s", l)
	}
	if len(s.errs) > 0 {
		return
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
		if s.pol == (simPolicy{waits: s.pol.waits}) && !c.triedRightly() {
			s.fail("call %d was tried again: %s", c.id, c.story())
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
		if cl.adm != nil {
			if b := cl.adm.bounds(); b.Connections.Active != 0 || b.Pending.Active != 0 || b.Requests.Active != 0 || b.Retries.Active != 0 {
				s.fail("cluster %s still counts %+v", cl.name, b)
			}
		}
	}
	s.endPolicies()
	if len(s.p.h2Servers) != 0 {
		s.fail("%d HTTP/2 servers are left", len(s.p.h2Servers))
	}
}

// judge takes a response head and says whether it is a workload's.
func (s *sim) judge(c *call, resp *mesh.Response) {
	if c.head {
		s.fail("call %d got two responses", c.id)
	}
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
	if c.busy = resp.Fields.Has("x-busy"); c.busy {
		if want = 503; !s.mayPass(c) {
			s.fail("call %d got 503 of a busy workload: %s", c.id, c.story())
		}
		if resp.Status == want {
			return
		}
	}
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
	if c.local != 0 || c.busy {
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
	if c.local != 0 || c.busy {
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
	if c.hints != c.interim && !c.http10 && s.pol == (simPolicy{waits: s.pol.waits}) {
		s.fail("call %d got %d of %d interim responses", c.id, c.hints, c.interim)
	}
	if c.got != want {
		s.fail("call %d is complete after %d bytes, want %d: %+v", c.id, c.got, want, *c)
	}
	if v, ok := trailers.Get("x-sum"); ok && v != fmt.Sprint("sum-", c.id) {
		s.fail("call %d has trailer %q", c.id, v)
	} else if !ok && c.rtrailer && !c.http10 && !c.noContent() {
		s.fail("call %d lacks its trailer", c.id)
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
