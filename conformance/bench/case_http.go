package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
)

// The metrics of cases that move bodies; a megabyte is a million bytes.
var (
	volumeCost = metric{name: "MB/CPU-s", format: "%.0f"}
	volume     = metric{name: "MB per second", format: "%.0f"}
)

// large is the size of a body in the cases that move bodies.
const large = 1 << 20

// smallCase is a closed loop of small GETs.
func smallCase(name string, conns, streams int, long span) benchCase {
	c := benchCase{
		name: name, title: fmt.Sprintf("small GET, closed loop, %d connections × %d streams", conns, streams),
		on:      []string{"cairn", "envoy", "goproxy"},
		metrics: []metric{cost.atLeast(8), perRequest, rate, allocations.below(2), p50, p99, busy, loadBusy, waited, loadWaited},
		run:     closedLoop(conns, streams, 0, nil, long),
	}
	switch {
	case conns*streams == 1:
		// One request at a time leaves nothing to batch: what counts is the wait.
		c.title = "small GET, one at a time"
		c.metrics = []metric{cost.atLeast(2), perRequest, rate, p50.atMost(0.5), p99, busy, loadBusy, waited, loadWaited}
	case streams == 1:
		c.metrics[0] = cost // the issue sets no goal
		c.title = fmt.Sprintf("small GET, closed loop, %d connections with one stream each", conns)
	}
	return c
}

// rateCase sends small GETs at a fixed rate over 100 tunnels.
func rateCase(name string, perSecond int, long span) benchCase {
	return benchCase{
		name: name, title: fmt.Sprintf("small GET, fixed %d requests per second, 4 connections × 25 streams", perSecond),
		metrics: []metric{cost.atLeast(2.5), perRequest, p50, p99.atMost(1), p999, busy, loadBusy, waited, loadWaited},
		on:      []string{"cairn", "envoy", "goproxy"},
		lasts:   long(12*time.Second, 6*time.Second),
		run:     fixedRate(4, 25, perSecond, long),
	}
}

func downCase(long span) benchCase {
	return benchCase{
		name: "down-1mb", title: "GET of 1 MB, closed loop, 2 connections × 2 streams",
		metrics: volumeMetrics(),
		run:     closedLoop(2, 2, large, func(o *hbone.Options) { o.Size = large }, long),
	}
}

func upCase(long span) benchCase {
	return benchCase{
		name: "up-1mb", title: "POST of 1 MB, closed loop, 2 connections × 2 streams",
		metrics: volumeMetrics(),
		run:     closedLoop(2, 2, large, func(o *hbone.Options) { o.Upload, o.Size = large, 0 }, long),
	}
}

func volumeMetrics() []metric {
	return []metric{volumeCost.atLeast(1.5), volume, p50, p99, busy, loadBusy, waited, loadWaited}
}

// closedLoop runs the load that change makes of the usual one. bytes are
// those of one request's bodies, where megabytes count.
func closedLoop(conns, streams int, bytes int64, change func(*hbone.Options), long span) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		o := t.options(conns, streams)
		if change != nil {
			change(&o)
		}
		load, err := hbone.Dial(ctx, o)
		if err != nil {
			return err
		}
		defer load.Close()
		w := window{trial: t, bytes: bytes}
		return w.judge(load.Closed(ctx, long(time.Second, 500*time.Millisecond), long(4*time.Second, 2*time.Second), w.mark))
	}
}

func fixedRate(conns, streams, perSecond int, long span) func(context.Context, *trial) error {
	return func(ctx context.Context, t *trial) error {
		load, err := t.dial(ctx, conns, streams)
		if err != nil {
			return err
		}
		defer load.Close()
		w := window{trial: t, paced: true}
		r, err := load.Open(ctx, perSecond, long(time.Second, 500*time.Millisecond), long(10*time.Second, 5*time.Second), w.mark)
		if err != nil {
			return err
		}
		return w.judge(r)
	}
}
