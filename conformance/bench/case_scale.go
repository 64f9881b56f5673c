package main

import (
	"context"
	"fmt"
	"time"
)

// loadMetrics are what every closed loop of small requests says, with the
// goal on its cost.
func loadMetrics(c metric) []metric {
	return []metric{c, perRequest, rate, allocations, busy, loadBusy, waited, loadWaited}
}

// routesCase has a service with that many routes, of which the requests meet
// the one that a scan comes to last.
func routesCase(n int, long span) benchCase {
	c := benchCase{
		name: fmt.Sprintf("routes-%d", n), title: fmt.Sprintf("%d routes, requests meet the last; small GET, 4 connections × 16 streams", n),
		metrics: loadMetrics(cost),
		shape:   shape{routes: n},
		run:     closedLoop(4, 16, 0, nil, long),
	}
	if n == 1000 {
		c.metrics = loadMetrics(cost.atLeastOf("routes-10", 0.95))
	}
	return c
}

// servicesCase has that many services behind the waypoint, of which one is
// used: what the others cost is memory.
func servicesCase(n int, long span) benchCase {
	c := benchCase{
		name: fmt.Sprintf("services-%d", n), title: fmt.Sprintf("%d services with a pod each, one is used; small GET, 4 connections × 16 streams", n),
		metrics: append([]metric{atStart}, loadMetrics(cost)...),
		shape:   shape{services: n},
		lasts:   long(10*time.Second, 4*time.Second) + time.Duration(n)*time.Millisecond/2,
		run: func(ctx context.Context, t *trial) error {
			start, err := t.memory(ctx)
			if err != nil {
				return err
			}
			t.values[atStart.name] = start / 1e6
			return closedLoop(4, 16, 0, nil, long)(ctx, t)
		},
	}
	if n > 1 {
		c.metrics = append([]metric{perService.below(10)}, c.metrics...)
		c.from = "services-1"
		c.derive = func(values, from map[string]float64) {
			values[perService.name] = (values[atStart.name] - from[atStart.name]) * 1e3 / float64(n)
		}
	}
	return c
}

// largeHeapCase has a mesh of so many workloads that some 500 MB are live.
// With collect there is a collection of garbage amid the measured time: by
// itself a proxy that hardly allocates collects once in two minutes and after large
// changes, so that is the worst ten seconds and not the usual ones.
func largeHeapCase(name string, collect bool, long span) benchCase {
	const perSecond = 2500
	warm, d := long(time.Second, 500*time.Millisecond), long(10*time.Second, 5*time.Second)
	amid, latency := "", p99.atMostOf("rate-2500", 1.5)
	if collect {
		amid, latency = ", a garbage collection amid the run", p99
	}
	return benchCase{
		name: name, title: "280,000 workloads" + amid + "; small GET, fixed 2500 requests per second, 4 connections × 25 streams",
		on:      []string{"cairn"},
		metrics: []metric{latency, p50, p999, liveHeap, atStart, cost, busy, loadBusy, waited, loadWaited},
		shape:   shape{services: 1001, pods: 280},
		lasts:   45 * time.Second,
		run: func(ctx context.Context, t *trial) error {
			start, err := t.memory(ctx)
			if err != nil {
				return err
			}
			t.values[atStart.name] = start / 1e6
			if t.values[liveHeap.name], err = t.run.liveHeap(ctx); err != nil {
				return err
			}
			load, err := t.dial(ctx, 4, 25)
			if err != nil {
				return err
			}
			defer load.Close()
			collected := make(chan error, 1)
			go func() {
				if !collect {
					collected <- nil
					return
				}
				collected <- t.run.collectAfter(ctx, warm+d/3)
			}()
			w := window{trial: t, paced: true}
			r, err := load.Open(ctx, perSecond, warm, d, w.mark)
			if gcErr := <-collected; err == nil {
				err = gcErr
			}
			if err != nil {
				return err
			}
			return w.judge(r)
		},
	}
}
