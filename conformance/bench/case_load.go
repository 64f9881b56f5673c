package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/proc"
)

// window measures what proxy and load cost between two marks.
type window struct {
	trial      *trial
	paced      bool  // the load keeps to a rate, and its latencies count
	bytes      int64 // of the bodies of one request, where megabytes count
	marks      int
	err        error
	proxy, own [2]proc.Usage
	mallocs    [2]float64
	// held, if set, tells for how long others held the proxy up, where the run
	// delay of its threads would not tell it apart.
	held func() time.Duration
}

// mark reads the costs; it is called at the beginning and at the end. What
// the reading of allocations costs the proxy stays outside.
func (w *window) mark() {
	i := min(w.marks, 1)
	w.marks++
	if i == 0 {
		w.count(i)
	}
	var err error
	if w.proxy[i], err = w.trial.proc.Usage(); err != nil {
		w.err = err
	}
	if w.own[i], err = proc.UsageOf(0); err != nil {
		w.err = err
	}
	if i == 1 {
		w.count(i)
	}
}

// count reads how often the proxy has allocated, where it is asked and tells.
func (w *window) count(i int) {
	if !w.trial.countsAllocations() {
		return
	}
	var err error
	if w.mallocs[i], err = w.trial.run.goMetric(context.Background(), mallocsTotal); err != nil {
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
	if w.held != nil {
		share = w.held().Seconds() / wall
	}
	if share > maxWaited {
		return &rejected{fmt.Sprintf("the proxy waited for its core %.0f%% of the time", 100*share)}
	}
	// A closed loop's latencies are not compared, and what its proxy costs does
	// not depend on how the load fares.
	loadShare := own.Waited.Seconds() / wall
	if w.paced && loadShare > maxLoadWaited {
		return &rejected{fmt.Sprintf("the load waited for its core %.0f%% of the time", 100*loadShare)}
	}
	v := w.trial.values
	v["requests"] = float64(r.Requests)
	v[waited.name] = 100 * share
	v[loadWaited.name] = 100 * loadShare
	v[cost.name] = float64(r.Requests) / cpu
	v[perRequest.name] = cpu / float64(r.Requests) * 1e6
	v[rate.name] = float64(r.Requests) / wall
	if w.bytes > 0 {
		megabytes := float64(r.Requests) * float64(w.bytes) / 1e6
		v[volumeCost.name], v[volume.name] = megabytes/cpu, megabytes/wall
	}
	v[busy.name] = 100 * cpu / wall
	v[loadBusy.name] = 100 * own.CPU.Seconds() / wall
	if w.trial.countsAllocations() {
		v[allocations.name] = max(0, w.mallocs[1]-w.mallocs[0]-w.trial.run.scrape) / float64(r.Requests)
	}
	for name, q := range map[string]float64{p50.name: 0.5, p99.name: 0.99, p999.name: 0.999} {
		v[name] = float64(r.Latency.Quantile(q).Nanoseconds()) / 1e3
	}
	return nil
}
