package main

import (
	"context"
	"fmt"
	"time"
)

// settle is how long a proxy gets to come to rest before its memory is read.
const settle = time.Second

// memoryCases read the resident memory.
func memoryCases() []benchCase {
	return []benchCase{{
		name: "memory", title: "resident memory: at start; per tunnel of 1,000 on 10 connections",
		metrics: []metric{
			metric{name: "at start", unit: "MB", format: "%.1f"}.with("less than 25 MB", func(own, _ float64) bool { return own < 25 }),
			metric{name: "per idle tunnel", unit: "KiB", format: "%.1f"}.with("less than 20 KiB", func(own, _ float64) bool { return own < 20 }),
			{name: "per tunnel after one request", unit: "KiB", format: "%.1f"},
		},
		run: idleTunnels(10, 100),
	}}
}

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
