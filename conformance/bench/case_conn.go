package main

import (
	"context"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
)

// perConnection is the work of one connection.
var (
	connCost      = metric{name: "connections/CPU-s", format: "%.0f"}
	perConnection = metric{name: "CPU per connection", unit: "µs", format: "%.0f"}
)

// connectCase opens a CONNECT stream for each request.
func connectCase(long span) benchCase {
	return benchCase{
		name: "connect", title: "a CONNECT stream per request, closed loop, 4 connections × 16 at a time",
		metrics: []metric{cost.atLeast(4), perRequest, rate, p50, p99, busy, loadBusy, waited, loadWaited},
		run:     closedLoop(4, 16, 0, func(o *hbone.Options) { o.Fresh = true }, long),
	}
}

// handshakeCase makes a connection for each request.
func handshakeCase(long span) benchCase {
	return benchCase{
		name: "handshake", title: "TCP, mutual TLS and CONNECT per request, 8 at a time",
		metrics: []metric{connCost.atLeast(1), perConnection, rate, p50, p99, busy, loadBusy, waited, loadWaited},
		run: func(ctx context.Context, t *trial) error {
			w := window{trial: t}
			r := hbone.Churn(ctx, t.options(8, 1), long(time.Second, 500*time.Millisecond), long(4*time.Second, 2*time.Second), w.mark)
			if err := w.judge(r); err != nil {
				return err
			}
			t.values[connCost.name], t.values[perConnection.name] = t.values[cost.name], t.values[perRequest.name]
			return nil
		},
	}
}
