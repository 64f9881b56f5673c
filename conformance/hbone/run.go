package hbone

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is how long answers may be late after the end of a window.
const drainTime = 10 * time.Second

// Closed runs every tunnel in a closed loop: the next request leaves when the
// answer is there. It warms up, calls mark, measures for d, calls mark again
// and lets the last answers come in.
func (l *Load) Closed(ctx context.Context, warm, d time.Duration, mark func()) Result {
	l.each(func(lc *loadConn) {
		lc.closed = true
		now := time.Now()
		for _, t := range lc.tunnels {
			lc.start(t, now)
		}
	})
	return l.measure(ctx, warm, d, mark)
}

// Open sends rate requests per second, evenly spaced, whatever the answers
// do: each on the next tunnel in turn. A request that has to wait for its
// tunnel counts from the time it was due, so a stall of the proxy shows in
// every request it delayed (no coordinated omission).
func (l *Load) Open(ctx context.Context, rate int, warm, d time.Duration, mark func()) (Result, error) {
	if l.opts.GRPC {
		return Result{}, errors.New("gRPC calls have no fixed rate")
	}
	if rate <= 0 {
		return Result{}, fmt.Errorf("a rate of %d requests per second", rate)
	}
	period := time.Second / time.Duration(rate)
	ticks, err := newTicker(period)
	if err != nil {
		return Result{}, err
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		l.pace(ticks, period)
	}()
	r := l.measureUntil(ctx, warm, d, mark, func() {
		ticks.Close()
		<-stopped
	})
	return r, nil
}

// pace sends the requests that are due until the ticker is closed.
func (l *Load) pace(ticks *os.File, period time.Duration) {
	due := time.Now()
	var b [8]byte
	n, turn := 0, make([]int, len(l.conns))
	for {
		if _, err := ticks.Read(b[:]); err != nil {
			return
		}
		for range binary.NativeEndian.Uint64(b[:]) {
			due = due.Add(period)
			conn := n % len(l.conns)
			n++
			l.conns[conn].due(&turn[conn], due)
		}
	}
}

// due sends a request on the connection's next tunnel, or queues it there.
func (lc *loadConn) due(turn *int, when time.Time) {
	lc.conn.mu.Lock()
	defer lc.conn.mu.Unlock()
	t := lc.tunnels[*turn%len(lc.tunnels)]
	*turn++
	switch {
	case t.broken:
		lc.failed++
	case t.busy:
		lc.inFlight++
		t.queue = append(t.queue, when)
	default:
		if lc.load.opts.ProxyTime {
			when = time.Now()
		}
		lc.send(t, when)
		if err := lc.conn.flush(); err != nil {
			lc.fail(t, err)
		}
	}
}

// newTicker returns a timer descriptor that fires every period. The kernel's
// timer keeps time to some microseconds and wakes the runtime through its
// poller, whose own timers are rounded to a millisecond when it sleeps.
func newTicker(period time.Duration) (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a timer: %w", err)
	}
	spec := unix.NsecToTimespec(period.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: spec, Value: spec}, nil); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("setting a timer: %w", err)
	}
	return os.NewFile(uintptr(fd), "timerfd"), nil
}

// Bulk starts the downloads of the bulk tunnels, each following the last, or
// lets them come to their end. It returns how many there were since the start.
func (l *Load) Bulk(on bool) uint64 {
	var n uint64
	l.each(func(lc *loadConn) {
		n += lc.bulkDone
		lc.bulking = on
		if !on {
			return
		}
		lc.bulkDone = 0
		now := time.Now()
		for _, t := range lc.bulk {
			if !t.broken && !t.busy {
				lc.send(t, now)
			}
		}
	})
	return n
}

// Once sends one request on every tunnel and waits for the answers.
func (l *Load) Once() Result {
	r := Result{Latency: &Histogram{}}
	begin := time.Now()
	l.each(func(lc *loadConn) {
		lc.done, *lc.latencies = 0, Histogram{}
		for _, t := range lc.tunnels {
			lc.start(t, begin)
		}
	})
	l.finish(&r)
	r.Elapsed = time.Since(begin)
	l.each(func(lc *loadConn) { lc.collect(&r) })
	return r
}

func (l *Load) measure(ctx context.Context, warm, d time.Duration, mark func()) Result {
	return l.measureUntil(ctx, warm, d, mark, func() {
		l.each(func(lc *loadConn) { lc.closed = false })
	})
}

// measureUntil is the common course of a run; stop ends the sending.
func (l *Load) measureUntil(ctx context.Context, warm, d time.Duration, mark, stop func()) Result {
	var r Result
	wait(ctx, warm)
	l.each(func(lc *loadConn) { lc.done, *lc.latencies = 0, Histogram{} })
	mark()
	begin := time.Now()
	wait(ctx, d)
	r.Latency = &Histogram{}
	l.each(func(lc *loadConn) { lc.collect(&r) })
	mark()
	r.Elapsed = time.Since(begin)
	stop()
	l.finish(&r)
	return r
}

// collect adds what the connection counted. The caller holds conn.mu.
func (lc *loadConn) collect(r *Result) {
	r.Requests += lc.done
	r.Latency.Merge(lc.latencies)
}

// finish waits for the last answers and adds the failures.
func (l *Load) finish(r *Result) {
	if err := l.drain(); err != nil {
		l.note(err)
		r.Failures++
	}
	l.each(func(lc *loadConn) { r.Failures += lc.failed })
	if r.Failures > 0 {
		r.Err = l.firstFailure()
	}
}

// drain waits until every request sent has its answer; a run that was
// cancelled still gets the answers to what it asked.
func (l *Load) drain() error {
	deadline := time.Now().Add(drainTime)
	for {
		left := 0
		l.each(func(lc *loadConn) { left += lc.inFlight })
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d requests were never answered", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// each calls f for every connection with its lock held, and flushes it.
func (l *Load) each(f func(*loadConn)) {
	for _, lc := range l.conns {
		lc.conn.mu.Lock()
		f(lc)
		if err := lc.conn.flush(); err != nil && !lc.dead {
			l.note(err)
		}
		lc.conn.mu.Unlock()
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
