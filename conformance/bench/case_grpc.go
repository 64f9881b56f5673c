package main

import (
	"context"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
)

// The metrics of streamed messages.
var (
	messageCost = metric{name: "messages/CPU-s", format: "%.0f", better: more}
	messageRate = metric{name: "messages per second", format: "%.0f"}
)

// unaryCase is gRPC with small messages.
func unaryCase(long span) benchCase {
	return benchCase{
		name: "grpc-unary", title: "gRPC unary, 128 B each way, 4 connections × 4 tunnels × 4 calls at a time",
		shape:   shape{grpc: true},
		metrics: []metric{cost.atLeast(3), perRequest, rate, p50, p99, busy, loadBusy, waited, loadWaited},
		run: closedLoop(4, 4, 0, func(o *hbone.Options) {
			o.GRPC, o.Calls, o.Upload, o.Size = true, 4, 128, 128
		}, long),
	}
}

// streamingCase is gRPC with a stream of answers.
func streamingCase(long span) benchCase {
	const messages = 100
	return benchCase{
		name: "grpc-stream", title: "gRPC server streaming, 100 messages of 1 KiB, 4 connections × 4 tunnels × 1 call at a time",
		shape:   shape{grpc: true},
		metrics: []metric{messageCost, messageRate, p50, p99, busy, loadBusy, waited, loadWaited},
		run: func(ctx context.Context, t *trial) error {
			o := t.options(4, 4)
			o.GRPC, o.Upload, o.Size, o.Messages = true, 128, 1024, messages
			load, err := hbone.Dial(ctx, o)
			if err != nil {
				return err
			}
			defer load.Close()
			w := window{trial: t}
			if err := w.judge(load.Closed(ctx, long(time.Second, 500*time.Millisecond), long(4*time.Second, 2*time.Second), w.mark)); err != nil {
				return err
			}
			t.values[messageCost.name] = messages * t.values[cost.name]
			t.values[messageRate.name] = messages * t.values[rate.name]
			return nil
		},
	}
}
