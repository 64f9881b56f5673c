package main

import (
	"context"
	"fmt"
	"time"
)

// settle is how long a proxy gets to come to rest before its memory is read, or
// its latency after a large start: what it does once, such as giving back what
// the start left behind, is done then.
const settle = 4 * time.Second

// The metrics of memory.
var (
	atStart    = metric{name: "resident at start", unit: "MB", format: "%.1f", better: less}
	perTunnel  = metric{name: "per idle tunnel", unit: "KiB", format: "%.1f", better: less}
	afterOne   = metric{name: "per tunnel after one request", unit: "KiB", format: "%.1f", better: less}
	perService = metric{name: "per service", unit: "KB", format: "%.1f", better: less}
	liveHeap   = metric{name: "live heap", unit: "MB", format: "%.0f"}
)

// idleCase opens tunnels that do nothing, lets each do one request, and then
// has others work beside them.
func idleCase(name string, conns int, long span) benchCase {
	const streams = 100
	return benchCase{
		name: name, title: fmt.Sprintf("%d idle tunnels on %d connections; then small GETs beside them, 4 connections × 16 streams", conns*streams, conns),
		metrics: []metric{atStart.below(25), perTunnel.below(4), afterOne, cost, perRequest, busy, loadBusy, waited, loadWaited},
		lasts:   long(22*time.Second, 7*time.Second),
		run: func(ctx context.Context, t *trial) error {
			before, err := t.warmMemory(ctx)
			if err != nil {
				return err
			}
			load, err := t.dial(ctx, conns, streams)
			if err != nil {
				return err
			}
			defer load.Close()
			each := func(name string) error {
				now, err := t.memory(ctx)
				t.values[name] = (now - before) / 1024 / float64(conns*streams)
				return err
			}
			if err := each(perTunnel.name); err != nil {
				return err
			}
			if r := load.Once(); r.Failures > 0 {
				return &rejected{fmt.Sprintf("%d requests failed: %v", r.Failures, r.Err)}
			}
			if err := each(afterOne.name); err != nil {
				return err
			}
			return closedLoop(4, 16, 0, nil, long)(ctx, t)
		},
	}
}

// warmMemory notes what the proxy has at its start, and returns what it has
// when one connection was used for a while: what it sets up once, and the pages of
// its code, do not count as the tunnels'.
func (t *trial) warmMemory(ctx context.Context) (float64, error) {
	start, err := t.memory(ctx)
	if err != nil {
		return 0, err
	}
	t.values[atStart.name] = start / 1e6
	first, err := t.dial(ctx, 1, 10)
	if err != nil {
		return 0, err
	}
	defer first.Close()
	if r := first.Closed(ctx, 0, 300*time.Millisecond, func() {}); r.Failures > 0 {
		return 0, &rejected{fmt.Sprintf("%d requests failed: %v", r.Failures, r.Err)}
	}
	return t.memory(ctx)
}

// memory is what the proxy has resident when it has come to rest, in bytes.
func (t *trial) memory(ctx context.Context) (float64, error) {
	if err := t.rest(ctx); err != nil {
		return 0, err
	}
	n, err := t.proc.RSS()
	return float64(n), err
}

// rest waits for the proxy to settle, in a quick run for a quarter of the time:
// its meshes are small.
func (t *trial) rest(ctx context.Context) error {
	timer := time.NewTimer(either(t.lab.opts.quick, settle, settle/4))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
