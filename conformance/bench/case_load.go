package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/proc"
)

// smallCases ask for small answers as fast as they come.
func smallCases(quick bool) []benchCase {
	return []benchCase{{
		name: "small-4x16", title: "small GET, closed loop, 4 connections × 16 streams",
		metrics: []metric{
			cost.with("at least 4 × the reference", func(own, ref float64) bool { return own >= 4*ref }),
			perRequest, rate, p50, p99, busy, loadBusy, waited, loadWaited,
		},
		run: closedLoop(4, 16, either(quick, time.Second, 500*time.Millisecond), either(quick, 4*time.Second, 2*time.Second)),
	}}
}

// rateCases ask at a fixed rate, whatever the answers do.
func rateCases(quick bool) []benchCase {
	return []benchCase{{
		name: "rate-1000", title: "fixed 1,000 requests per second, 4 connections × 25 streams",
		metrics: []metric{
			p50,
			p99.with("not above the reference", func(own, ref float64) bool { return own <= ref }),
			p999, cost, perRequest, busy, loadBusy, waited, loadWaited,
		},
		run: fixedRate(4, 25, 1000, either(quick, time.Second, 500*time.Millisecond), either(quick, 10*time.Second, 5*time.Second)),
	}}
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
		w := window{trial: t, paced: true}
		r, err := load.Open(ctx, perSecond, warm, d, w.mark)
		if err != nil {
			return err
		}
		return w.judge(r)
	}
}

// window measures what proxy and load cost between two marks.
type window struct {
	trial      *trial
	paced      bool // the load keeps to a rate, and its latencies count
	marks      int
	err        error
	proxy, own [2]proc.Usage
	// held, if set, tells for how long others held the proxy up, where the run
	// delay of its threads would not tell it apart.
	held func() time.Duration
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
	if w.held != nil {
		proxy.Waited = w.held()
	}
	share := proxy.Waited.Seconds() / wall
	if share > maxWaited {
		return &rejected{fmt.Sprintf("the proxy waited for its core %.0f%% of the time", 100*share)}
	}
	// A closed loop's latencies are not compared, and what its proxy costs does
	// not depend on how the load fares.
	loadShare := own.Waited.Seconds() / wall
	if w.paced && loadShare > maxWaited {
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
