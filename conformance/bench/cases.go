package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/proc"
)

// benchCase is one kind of work. run fills the trial's values under the names
// that metrics list; a *rejected error says that the run does not count.
type benchCase struct {
	name    string
	title   string
	metrics []metric
	run     func(context.Context, *trial) error
}

// metric is one figure of a case.
type metric struct {
	name   string
	unit   string
	format string // of fmt
	goal   *goal
}

// goal is what the figure must reach: against the reference's median (ratio)
// or as it stands.
type goal struct {
	text string
	met  func(own, reference float64) bool
}

// The metrics that every case of load has beside its own.
var (
	cost       = metric{name: "req/CPU-s", unit: "", format: "%.0f"}
	perRequest = metric{name: "CPU per request", unit: "µs", format: "%.1f"}
	rate       = metric{name: "requests per second", unit: "", format: "%.0f"}
	p50        = metric{name: "p50", unit: "µs", format: "%.0f"}
	p99        = metric{name: "p99", unit: "µs", format: "%.0f"}
	p999       = metric{name: "p99.9", unit: "µs", format: "%.0f"}
	busy       = metric{name: "proxy's core busy", unit: "%", format: "%.0f"}
	loadBusy   = metric{name: "load's core busy", unit: "%", format: "%.0f"}
	// What others on the machine did to a run: latency means little where
	// these are not near zero.
	waited     = metric{name: "proxy waited for its core", unit: "%", format: "%.1f"}
	loadWaited = metric{name: "load waited for its core", unit: "%", format: "%.1f"}
)

func (m metric) with(text string, met func(own, reference float64) bool) metric {
	m.goal = &goal{text, met}
	return m
}

// selectCases returns the cases that are named, all by default, in order.
func selectCases(names string, quick bool) ([]benchCase, error) {
	long := func(d, q time.Duration) time.Duration {
		if quick {
			return q
		}
		return d
	}
	all := []benchCase{
		{
			name: "small-4x16", title: "small GET, closed loop, 4 connections × 16 streams",
			metrics: []metric{
				cost.with("at least 4 × the reference", func(own, ref float64) bool { return own >= 4*ref }),
				perRequest, rate, p50, p99, busy, loadBusy, waited, loadWaited,
			},
			run: closedLoop(4, 16, long(time.Second, 500*time.Millisecond), long(4*time.Second, 2*time.Second)),
		},
		{
			name: "rate-1000", title: "fixed 1,000 requests per second, 4 connections × 25 streams",
			metrics: []metric{
				p50,
				p99.with("not above the reference", func(own, ref float64) bool { return own <= ref }),
				p999, cost, perRequest, busy, loadBusy, waited, loadWaited,
			},
			run: fixedRate(4, 25, 1000, long(time.Second, 500*time.Millisecond), long(10*time.Second, 5*time.Second)),
		},
		{
			name: "memory", title: "resident memory: at start; per tunnel of 1,000 on 10 connections",
			metrics: []metric{
				metric{name: "at start", unit: "MB", format: "%.1f"}.with("less than 25 MB", func(own, _ float64) bool { return own < 25 }),
				metric{name: "per idle tunnel", unit: "KiB", format: "%.1f"}.with("less than 20 KiB", func(own, _ float64) bool { return own < 20 }),
				{name: "per tunnel after one request", unit: "KiB", format: "%.1f"},
			},
			run: idleTunnels(10, 100),
		},
	}
	var chosen []benchCase
	for _, c := range all {
		if names == "" || listed(names, c.name) {
			chosen = append(chosen, c)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no case is named %q", names)
	}
	return chosen, nil
}

func closedLoop(conns, streams int, warm, d time.Duration) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		load, err := t.dial(ctx, conns, streams)
		if err != nil {
			return err
		}
		defer load.Close()
		w := window{trial: t}
		return w.judge(load.Closed(ctx, warm, d, w.mark))
	}
}

func fixedRate(conns, streams, perSecond int, warm, d time.Duration) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		load, err := t.dial(ctx, conns, streams)
		if err != nil {
			return err
		}
		defer load.Close()
		w := window{trial: t}
		r, err := load.Open(ctx, perSecond, warm, d, w.mark)
		if err != nil {
			return err
		}
		return w.judge(r)
	}
}

// settle is how long a proxy gets to come to rest before its memory is read.
const settle = time.Second

func idleTunnels(conns, streams int) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		if err := t.rest(ctx); err != nil {
			return err
		}
		start, err := t.proc.RSS()
		if err != nil {
			return err
		}
		t.values["at start"] = float64(start) / 1e6
		// One used connection first: what a proxy sets up once does not count
		// as the tunnels'.
		first, err := t.dial(ctx, 1, 10)
		if err != nil {
			return err
		}
		defer first.Close()
		if r := first.Once(); r.Failures > 0 {
			return &rejected{fmt.Sprintf("%d requests failed: %v", r.Failures, r.Err)}
		}
		if err := t.rest(ctx); err != nil {
			return err
		}
		before, err := t.proc.RSS()
		if err != nil {
			return err
		}
		load, err := t.dial(ctx, conns, streams)
		if err != nil {
			return err
		}
		defer load.Close()
		perTunnel := func(name string) error {
			if err := t.rest(ctx); err != nil {
				return err
			}
			now, err := t.proc.RSS()
			t.values[name] = float64(now-before) / 1024 / float64(conns*streams)
			return err
		}
		if err := perTunnel("per idle tunnel"); err != nil {
			return err
		}
		if r := load.Once(); r.Failures > 0 {
			return &rejected{fmt.Sprintf("%d requests failed: %v", r.Failures, r.Err)}
		}
		return perTunnel("per tunnel after one request")
	}
}

// rest waits for the proxy to settle.
func (t *trial) rest(ctx context.Context) error {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// window measures what proxy and load cost between two marks.
type window struct {
	trial      *trial
	marks      int
	err        error
	proxy, own [2]proc.Usage
}

// mark reads the costs; it is called at the beginning and at the end.
func (w *window) mark() {
	i := min(w.marks, 1)
	w.marks++
	var err error
	if w.proxy[i], err = w.trial.proc.Usage(); err != nil {
		w.err = err
	}
	if w.own[i], err = proc.UsageOf(0); err != nil {
		w.err = err
	}
}

// judge turns the run into values, or rejects it.
func (w *window) judge(r hbone.Result) error {
	if r.Failures > 0 {
		return &rejected{fmt.Sprintf("%d requests failed: %v", r.Failures, r.Err)}
	}
	if w.err != nil || w.marks != 2 {
		return fmt.Errorf("measuring the proxy: %d marks, %w", w.marks, w.err)
	}
	proxy, own := w.proxy[1].Since(w.proxy[0]), w.own[1].Since(w.own[0])
	wall, cpu := proxy.Wall.Seconds(), proxy.CPU.Seconds()
	share := proxy.Waited.Seconds() / wall
	if share > maxWaited {
		return &rejected{fmt.Sprintf("the proxy waited for its core %.0f%% of the time", 100*share)}
	}
	loadShare := own.Waited.Seconds() / wall
	if loadShare > maxWaited {
		return &rejected{fmt.Sprintf("the load waited for its core %.0f%% of the time", 100*loadShare)}
	}
	v := w.trial.values
	v["requests"] = float64(r.Requests)
	v[waited.name] = 100 * share
	v[loadWaited.name] = 100 * loadShare
	v[cost.name] = float64(r.Requests) / cpu
	v[perRequest.name] = cpu / float64(r.Requests) * 1e6
	v[rate.name] = float64(r.Requests) / wall
	v[busy.name] = 100 * cpu / wall
	v[loadBusy.name] = 100 * own.CPU.Seconds() / wall
	for name, q := range map[string]float64{p50.name: 0.5, p99.name: 0.99, p999.name: 0.999} {
		v[name] = float64(r.Latency.Quantile(q).Nanoseconds()) / 1e3
	}
	return nil
}
