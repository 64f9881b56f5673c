package upstream

import (
	"math/rand/v2"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// healthMonitor is what health checks know of an endpoint. It is guarded by the
// state's lock.
type healthMonitor struct {
	good, bad uint32 // answers in a row
	detail    string // of the last bad one
	next      time.Time
	asked     bool // and has not answered
}

// DueChecks returns the endpoints to be checked now, at most so many, and when to ask again. Each of
// them is next due after the interval (0: 5 s), more or less a tenth of it, once Checked was called for it. An endpoint
// that is new is due at once. It is safe for concurrent use.
func (c *Cluster) DueChecks(now time.Time, interval time.Duration, most int) (due []*Endpoint, next time.Time) {
	interval = span(interval, 5*time.Second)
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	next = now.Add(interval)
	for _, e := range c.endpoints {
		h := &e.monitor.health
		if h.asked {
			continue
		}
		if now.Before(h.next) && h.next.Before(now.Add(2*interval)) { // and not of a policy of before
			if h.next.Before(next) {
				next = h.next
			}
			continue
		}
		if len(due) >= most {
			return due, now.Add(20 * time.Millisecond)
		}
		h.asked, h.next = true, now.Add(interval-interval/10+rand.N(interval/5+1))
		if h.next.Before(next) {
			next = h.next
		}
		due = append(due, e)
	}
	return due, next
}

// Checked notes the answer to a health check of e, an endpoint of the cluster: detail says
// what was wrong, "" that nothing was. An endpoint is used until it is found unhealthy: as many bad
// answers in a row as the policy says make it so, and as many good ones
// healthy again. It reports whether that changed it: the cluster is to be refreshed then. It
// is safe for concurrent use.
func (c *Cluster) Checked(e *Endpoint, p *mesh.HealthCheck, detail string) (changed bool) {
	need := func(n, otherwise uint32) uint32 {
		if n == 0 {
			return otherwise
		}
		return n
	}
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	m := e.monitor
	h := &m.health
	h.asked = false
	if h.detail = detail; detail == "" {
		h.good, h.bad = h.good+1, 0
		if h.good >= need(p.Healthy, 1) && c.state.set(m, unhealthy, false) {
			c.state.tell(Event{Endpoint: e, What: "healthy"})
			return true
		}
		return false
	}
	h.good, h.bad = 0, h.bad+1
	if h.bad >= need(p.Unhealthy, 3) && c.state.set(m, unhealthy, true) {
		c.state.tell(Event{Endpoint: e, What: "unhealthy", Reason: detail})
		return true
	}
	return false
}

// Unchecked makes endpoints healthy again: the policy asks for no checks any more.
func (c *Cluster) Unchecked() { c.clear(unhealthy) }

// Unhealthy returns how many endpoints health checks have found so.
func (c *Cluster) Unhealthy() (n int) {
	for _, e := range c.endpoints {
		if e.monitor != nil && e.monitor.flags.Load()&unhealthy != 0 {
			n++
		}
	}
	return n
}
