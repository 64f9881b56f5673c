package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/tcpload"
)

// afterClose is how long the proxies get to give memory back.
const afterClose = 8 * time.Second

// ends are the proxies of a pair, in the order of its group.
var ends = []string{"client", "server"}

func nodeMemoryCase() benchCase {
	c := benchCase{name: "node-memory", title: "node proxies: resident memory of each, 1,000 and 10,000 idle connections", group: "node", shape: shape{apart: true}, run: nodeMemory}
	for _, end := range ends {
		c.metrics = append(c.metrics,
			metric{name: end + " at start", unit: "MB", format: "%.1f"}.below(15),
			metric{name: end + " per connection of 1,000", unit: "KB", format: "%.1f"}.below(5),
			metric{name: end + " per connection of 10,000", unit: "KB", format: "%.1f"}.below(5),
			metric{name: end + " with 10,000", unit: "MB", format: "%.1f"},
			metric{name: end + " after they closed", unit: "MB", format: "%.1f"},
		)
	}
	c.metrics = append(c.metrics,
		metric{name: "idle CPU with 10,000", unit: "ms per second", format: "%.1f"},
		metric{name: "CPU per round trip beside 10,000", unit: "µs", format: "%.1f"},
		metric{name: "p99 beside 10,000", unit: "µs", format: "%.0f"})
	return c
}

// nodeMemory opens connections that do nothing. Each has carried a byte both
// ways before, and does so again at the end.
func nodeMemory(ctx context.Context, t *trial) error {
	m := nodeMemoryRun{t: t, load: t.run.pair.load}
	defer m.close()
	if err := m.each(ctx, settle, func(end string, rss float64) { t.values[end+" at start"] = rss / 1e6 }); err != nil {
		return err
	}
	// One used connection first: what a proxy sets up once does not count as
	// the connections'.
	if err := m.open(ctx, 1); err != nil {
		return err
	}
	for range 1000 { // and the pages of its code
		if err := tcpload.Exchange(m.conns[0]); err != nil {
			return &rejected{fmt.Sprintf("a connection is broken: %v", err)}
		}
	}
	before := map[string]float64{}
	if err := m.each(ctx, settle, func(end string, rss float64) { before[end] = rss }); err != nil {
		return err
	}
	for _, n := range []int{1000, 10000} {
		if err := m.open(ctx, n+1-len(m.conns)); err != nil {
			return err
		}
		name := map[int]string{1000: " per connection of 1,000", 10000: " per connection of 10,000"}[n]
		err := m.each(ctx, settle, func(end string, rss float64) {
			t.values[end+name] = (rss - before[end]) / 1e3 / float64(n)
			t.values[end+" with 10,000"] = rss / 1e6
		})
		if err != nil {
			return err
		}
	}
	if err := m.beside(ctx); err != nil {
		return err
	}
	for _, c := range m.conns {
		if err := tcpload.Exchange(c); err != nil {
			return &rejected{fmt.Sprintf("an idle connection is broken: %v", err)}
		}
	}
	m.close()
	return m.each(ctx, afterClose, func(end string, rss float64) { t.values[end+" after they closed"] = rss / 1e6 })
}

type nodeMemoryRun struct {
	t     *trial
	load  *tcpload.Load
	conns []*tcpload.Conn
}

func (m *nodeMemoryRun) open(ctx context.Context, n int) error {
	conns, err := m.load.Idle(ctx, n)
	m.conns = append(m.conns, conns...)
	if err != nil {
		return &rejected{err.Error()}
	}
	return nil
}

func (m *nodeMemoryRun) close() {
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// each lets the proxies come to rest and reads the resident memory of both.
func (m *nodeMemoryRun) each(ctx context.Context, d time.Duration, f func(end string, rss float64)) error {
	if err := sleep(ctx, d); err != nil {
		return err
	}
	for i, p := range m.t.proc {
		rss, err := p.RSS()
		if err != nil {
			return err
		}
		f(ends[i], float64(rss))
	}
	return nil
}

// beside measures what the idle connections cost, alone and for one that is not.
func (m *nodeMemoryRun) beside(ctx context.Context) error {
	idle := newNodeWindow(m.t)
	idle.mark()
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	idle.mark()
	if idle.err != nil {
		return idle.err
	}
	c := idle.proxy[1].Since(idle.proxy[0])
	m.t.values["idle CPU with 10,000"] = c.CPU.Seconds() / c.Wall.Seconds() * 1e3
	w := newNodeWindow(m.t)
	r := m.load.PingPong(ctx, 1, 1024, tcpload.Window{Warm: time.Second, D: 3 * time.Second, Mark: w.mark})
	cpu, err := w.judge(r)
	m.t.values["CPU per round trip beside 10,000"] = cpu.Seconds() / float64(r.Done) * 1e6
	m.t.values["p99 beside 10,000"] = m.t.values[p99.name]
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
