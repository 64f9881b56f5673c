package main

import (
	"context"
	"fmt"
	"time"

	"cairnproxy.dev/cairn/conformance/hbone"
)

const (
	slowConns   = 4
	slowStreams = 50
	slowStep    = 64 << 10 // what a slow reader reads each second
)

// slowGrowth is what a proxy keeps for a reader that does not keep up.
var slowGrowth = metric{name: "memory per slow tunnel", unit: "KiB", format: "%.0f", better: less}

// slowCase has readers that take 64 KiB of 1 MB each second, and measures the
// requests of others beside them.
func slowCase(long span) benchCase {
	return benchCase{
		name: "slow-readers", title: "1,000 requests per second on 8 tunnels beside 200 tunnels that download 1 MB at 64 KiB per second",
		metrics: []metric{slowGrowth, p50, p99, p999, cost, busy, loadBusy, waited, loadWaited},
		lasts:   long(14*time.Second, 10*time.Second),
		run:     func(ctx context.Context, t *trial) error { return t.slowReaders(ctx, long) },
	}
}

func (t *trial) slowReaders(ctx context.Context, long span) error {
	others, err := t.dial(ctx, 2, 4)
	if err != nil {
		return err
	}
	defer others.Close()
	o := t.options(slowConns, slowStreams)
	o.Size, o.Window, o.Slow = large, slowStep, true
	slow, err := hbone.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer slow.Close()
	if r := others.Once(); r.Failures > 0 {
		return &rejected{fmt.Sprintf("%d requests failed: %v", r.Failures, r.Err)}
	}
	if err := t.rest(ctx); err != nil {
		return err
	}
	before, err := t.proc.RSS()
	if err != nil {
		return err
	}
	slow.Begin()
	readers := startReaders(t, slow)
	w := window{trial: t, paced: true}
	r, err := others.Open(ctx, 1000, time.Second, long(9*time.Second, 5*time.Second), w.mark)
	most, steps, rssErr := readers.stop()
	if err != nil {
		return err
	}
	if rssErr != nil {
		return rssErr
	}
	if err := slowly(slow.Progress(), steps); err != nil {
		return err
	}
	t.values[slowGrowth.name] = float64(most-before) / 1024 / (slowConns * slowStreams)
	return w.judge(r)
}

// slowly checks that the slow readers got what they read and no more.
func slowly(p hbone.Progress, steps int) error {
	granted := uint64(slowConns*slowStreams) * slowStep * uint64(steps+1)
	switch {
	case p.Failures > 0:
		return &rejected{fmt.Sprintf("%d slow downloads failed: %v", p.Failures, p.Err)}
	case p.Done > 0 || p.Received > granted || p.Received < granted/2:
		return &rejected{fmt.Sprintf("the slow readers got %d bytes of %d, and %d of them all", p.Received, granted, p.Done)}
	}
	return nil
}

// readers are the goroutine that reads for all slow readers, once a second,
// and looks at the proxy's memory.
type readers struct {
	quit, done chan struct{}
	most       int64
	steps      int
	err        error
}

func startReaders(t *trial, slow *hbone.Load) *readers {
	r := &readers{quit: make(chan struct{}), done: make(chan struct{})}
	go r.read(t, slow)
	return r
}

func (r *readers) read(t *trial, slow *hbone.Load) {
	defer close(r.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.quit:
			return
		}
		rss, err := t.proc.RSS()
		if err != nil {
			r.err = err
			return
		}
		r.most = max(r.most, rss)
		slow.Grant(slowStep)
		r.steps++
	}
}

// stop ends the reading. It returns the most memory that was seen and how
// often everybody read.
func (r *readers) stop() (most int64, steps int, err error) {
	close(r.quit)
	<-r.done
	return r.most, r.steps, r.err
}
