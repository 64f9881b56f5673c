package waypoint

import (
	"strings"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// What policies a schedule's services have: retries on codes and much else, after
// pauses; hedges, for which there are two workloads; filters that wait.
type simPolicy struct {
	retries bool
	hedges  bool
	waits   bool
}

const simRetries, simHedges = 3, 2

// plan draws the policies of a schedule.
func (s *sim) plan() {
	if s.chance(40) {
		return
	}
	s.pol = simPolicy{retries: s.chance(70), hedges: s.chance(40), waits: s.chance(50)}
}

// policy is what a service's port says.
func (s *sim) policy() *mesh.RequestPolicy {
	p := &mesh.RequestPolicy{}
	if s.pol.retries {
		p.Retry = &mesh.Retry{
			Attempts: simRetries, Codes: []int{503}, GRPCStatuses: []int{14},
			On: mesh.RetryConnectFailure | mesh.RetryRefusedStream | mesh.RetryReset | mesh.RetryResetBeforeRequest | mesh.RetryPerTryTimeout,
		}
	}
	if s.pol.hedges {
		p.Hedging = &mesh.Hedging{Delay: 30 * time.Millisecond, Max: simHedges}
	}
	if p.Retry == nil && p.Hedging == nil {
		return nil
	}
	return p
}

// backendPolicy has a budget that is never in the way, where nothing may break, and else is at times.
func (s *sim) backendPolicy() *mesh.BackendPolicy {
	if !s.pol.retries && !s.pol.hedges {
		return nil
	}
	b := &mesh.RetryBudget{Percent: 100, MinConcurrency: 1000}
	if s.breaks {
		b = &mesh.RetryBudget{Percent: 50, MinConcurrency: 1}
	}
	return &mesh.BackendPolicy{Budget: b, Balancer: &mesh.Balancer{Kind: mesh.BalanceRendezvous}}
}

// instrument gives the configuration in force the filters of the schedule.
func (s *sim) instrument() {
	for _, sp := range s.p.runtime.Load().services.All() {
		if sp.protocol == mesh.ProtocolTCP || s.instrumented[sp] {
			continue
		}
		s.instrumented[sp] = true
		sp.chain = append(sp.chain, filters.Step{OnRequest: stepFunc(func(x *filters.Exchange) filters.Result {
			// Which of two workloads is chosen must repeat itself.
			x.Host.(*exchange).hint.SetKey(uint64(s.rng.IntN(1 << 20)))
			return filters.Continue
		})})
		if s.pol.waits {
			sp.chain = append(sp.chain, filters.Step{OnRequest: stepFunc(s.wait)})
		}
	}
}

// simWait is a filter that waits for its turn in the schedule.
type simWait struct {
	s        *sim
	p        *parking
	canceled int
	done     bool
}

// wait parks some exchanges, until an actor acts or for a while.
func (s *sim) wait(x *filters.Exchange) filters.Result {
	switch n := s.rng.IntN(10); {
	case n < 4:
		return filters.Continue
	case n < 6:
		return x.After(time.Duration(s.rng.IntN(150))*time.Millisecond, s.andWait)
	}
	w := &simWait{s: s}
	x.Await(func() { w.canceled++ })
	w.p = x.Host.(*exchange).parked
	s.actors = append(s.actors, w)
	s.waiting = append(s.waiting, w)
	return filters.Park
}

// andWait is what a filter says after a pause: at times it waits once more.
func (s *sim) andWait(x *filters.Exchange) filters.Result {
	if s.chance(20) {
		return s.wait(x)
	}
	return filters.Continue
}

func (w *simWait) ready() bool { return !w.done && w.canceled == 0 }

func (w *simWait) act(t *loop.Turn) {
	w.done = true
	w.p.x.mu.Lock()
	defer w.p.x.mu.Unlock()
	w.p.goOn(t, w.s.andWait)
}

// pauses reports whether anything waits for time to pass, and not for long.
func (s *sim) pauses() bool {
	for _, shards := range [][]timerShard{s.p.timers.quick[:], s.p.timers.shards[:]} {
		for i := range shards {
			for d, l := range shards[i].lists {
				if d <= 300*time.Millisecond && l.head != nil {
					return true
				}
			}
		}
	}
	return false
}

// pass lets a little time pass.
func (s *sim) pass() {
	s.now = s.now.Add(20 * time.Millisecond)
	s.do(s.p.timers.sweep)
}

// busyAt reports whether a workload answers try n with 503.
func (x *call) busyAt(n int) bool { return n < x.flaky }

// mostTries is how often a call may come: a dead connection that had been idle
// does not count as a try.
func (s *sim) mostTries() int {
	n := 1 + maxAttempts
	if s.pol.retries {
		n = 2 + simRetries
	}
	if s.pol.hedges {
		n += simHedges
	}
	return n
}

// mayPass reports whether a 503 of a busy workload may come to the client: nothing
// hides it where there are no retries, where the request cannot be sent again, or where other
// tries were used up.
func (s *sim) mayPass(x *call) bool {
	return !s.pol.retries || s.breaks || x.fault == faultRefuse || x.reqLen >= 2000 || x.trailer
}

// endPolicies checks that nothing is left of policies in the end.
func (s *sim) endPolicies() {
	for _, w := range s.waiting {
		switch {
		case w.canceled > 1 || w.canceled == 1 && w.done:
			s.fail("a filter that waited was told %d times that it is over, and went on: %v", w.canceled, w.done)
		case w.canceled == 0 && !w.done:
			s.fail("a filter still waits")
		}
	}
	for cl := range s.p.runtime.Load().allClusters() {
		st := cl.c.State()
		if st == nil {
			continue
		}
		if a, r := st.Budget.Active(), st.Budget.Retries(); a != 0 || r != 0 {
			s.fail("the budget of %s still counts %d tries and %d retries", cl.name, a, r)
		}
	}
}

// String says what a schedule has, for its log.
func (p simPolicy) String() string {
	var out []string
	for name, on := range map[string]bool{"retries": p.retries, "hedges": p.hedges, "waits": p.waits} {
		if on {
			out = append(out, name)
		}
	}
	return strings.Join(out, ",")
}
