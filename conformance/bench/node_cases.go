package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/tcpload"
)

// The metrics of pairs of node proxies: all costs are those of both proxies
// together, memory is each one's.
var (
	mbPerCPU  = metric{name: "MB/CPU-s", unit: "", format: "%.0f"}
	throughMB = metric{name: "MB per second", unit: "", format: "%.0f"}
	floorMB   = metric{name: "the machine's floor, MB/CPU-s", unit: "", format: "%.0f"}
	ofFloor   = metric{name: "of the floor", unit: "%", format: "%.0f"}
	perTrip   = metric{name: "CPU per round trip", unit: "µs", format: "%.1f"}
	perConn   = metric{name: "CPU per connection", unit: "ms", format: "%.3f"}
	tripRate  = metric{name: "round trips per second", unit: "", format: "%.0f"}
	connRate  = metric{name: "connections per second", unit: "", format: "%.0f"}
)

// limit is a goal for so many at once.
type limit struct {
	n    int
	goal float64
}

// nodeCases are those of the group "node".
func nodeCases(quick bool) []benchCase {
	warm, d := either(quick, time.Second, 500*time.Millisecond), either(quick, 4*time.Second, 2*time.Second)
	var cases []benchCase
	add := func(name, title string, run func(context.Context, *trial) error, metrics ...metric) {
		cases = append(cases, benchCase{name: name, title: title, group: "node", metrics: metrics, run: run})
	}
	for _, n := range []int{1, 8} {
		add(fmt.Sprintf("node-bulk-%d", n), fmt.Sprintf("node proxies: bulk, %d at once, client to server", n), nodeBulk(n, warm, d),
			mbPerCPU.above(450), throughMB, floorMB, ofFloor, busy, loadBusy, waited, loadWaited)
	}
	for _, x := range []limit{{1, 80}, {16, 55}} {
		add(fmt.Sprintf("node-ping-%d", x.n), fmt.Sprintf("node proxies: 1 KiB there and back, %d at once", x.n), nodePing(x.n, warm, d),
			perTrip.below(x.goal), tripRate, p50, p99, busy, loadBusy, waited, loadWaited)
	}
	for _, x := range []limit{{1, 0.4}, {16, 0.22}} {
		add(fmt.Sprintf("node-conn-%d", x.n), fmt.Sprintf("node proxies: new connection over a warm pool, one byte there and back, %d at once", x.n), nodeConnect(x.n, warm, d),
			perConn.below(x.goal), connRate, p50, p99, busy, loadBusy, waited, loadWaited)
	}
	return append(cases, nodeMemoryCase())
}

func nodeBulk(n int, warm, d time.Duration) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		f, err := measureFloor()
		if err != nil {
			return err
		}
		w := newNodeWindow(t)
		r := t.run.pair.load.Bulk(ctx, n, tcpload.Window{Warm: warm, D: d, Mark: w.mark})
		cpu, err := w.judge(r)
		if err != nil {
			return err
		}
		mb := float64(r.Bytes) / 1e6
		t.values[mbPerCPU.name] = mb / cpu.Seconds()
		t.values[throughMB.name] = mb / w.wall.Seconds()
		t.values[floorMB.name] = f.mbPerCPU()
		t.values[ofFloor.name] = 100 * t.values[mbPerCPU.name] / f.mbPerCPU()
		return nil
	}
}

func nodePing(n int, warm, d time.Duration) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		w := newNodeWindow(t)
		r := t.run.pair.load.PingPong(ctx, n, 1024, tcpload.Window{Warm: warm, D: d, Mark: w.mark})
		cpu, err := w.judge(r)
		t.values[perTrip.name] = cpu.Seconds() / float64(r.Done) * 1e6
		t.values[tripRate.name] = t.values[rate.name]
		return err
	}
}

func nodeConnect(n int, warm, d time.Duration) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		w := newNodeWindow(t)
		r := t.run.pair.load.Connect(ctx, n, tcpload.Window{Warm: warm, D: d, Mark: w.mark})
		cpu, err := w.judge(r)
		t.values[perConn.name] = cpu.Seconds() / float64(r.Done) * 1e3
		t.values[connRate.name] = t.values[rate.name]
		t.values["requests"] = float64(r.Done) // each has a line in the access log
		return err
	}
}

// nodeWindow is a window that knows what a pair waited for.
type nodeWindow struct {
	window
	stalled [2]stall
	wall    time.Duration
}

func newNodeWindow(t *trial) *nodeWindow {
	w := &nodeWindow{window: window{trial: t}}
	if t.run.pair.pressure != nil {
		w.held = func() time.Duration { return w.stalled[1].byOthers(w.stalled[0]) }
	}
	return w
}

func (w *nodeWindow) mark() {
	w.window.mark()
	var err error
	if w.stalled[w.marks-1], err = w.trial.run.pair.pressure.read(); err != nil {
		w.err = err
	}
}

// judge turns the run into values, or rejects it. It returns the pair's CPU time.
func (w *nodeWindow) judge(r tcpload.Result) (time.Duration, error) {
	if r.Failures == 0 && r.Done == 0 {
		return 0, &rejected{"nothing came through in time"}
	}
	err := w.window.judge(hbone.Result{Requests: r.Done, Failures: r.Failures, Err: r.Err, Latency: r.Latency})
	w.trial.values["requests"] = 0 // what is counted has no lines in the access log
	if err != nil {
		return 0, err
	}
	c := w.proxy[1].Since(w.proxy[0])
	w.wall = c.Wall
	return c.CPU, nil
}
