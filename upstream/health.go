package upstream

import "cairnproxy.dev/cairn/mesh"

// healthMonitor is what health checks know of an endpoint. It is guarded by the
// state's lock.
type healthMonitor struct {
	good, bad uint32 // answers in a row
	detail    string // of the last bad one
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
