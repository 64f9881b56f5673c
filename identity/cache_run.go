package identity

import (
	"context"
	"sync"
	"time"
)

// maxSleep bounds how long Run sleeps: timers stop while a machine is
// suspended, dates do not.
const maxSleep = time.Minute

// Run renews certificates until ctx ends, and returns nil when all that it
// started has ended.
func (c *Cache) Run(ctx context.Context) error {
	var renewals sync.WaitGroup
	defer renewals.Wait()
	if crl := c.opts.CRL; crl != nil {
		renewals.Go(func() { crl.follow(ctx, c.anchors, c.revokedChanged) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
		}
		timer.Reset(c.sweep(ctx, &renewals, time.Now()))
	}
}

// sweep starts what is due and returns how long nothing else will be.
func (c *Cache) sweep(ctx context.Context, renewals *sync.WaitGroup, now time.Time) time.Duration {
	next := now.Add(maxSleep)
	if c.watch != nil {
		next = now.Add(c.opts.PollInterval)
	}
	for _, e := range c.list() {
		h := e.held.Load()
		e.mu.Lock()
		busy := e.call != nil
		at := c.dueLocked(e, h != nil)
		if c.watch != nil && h != nil && now.Sub(e.asked) >= c.opts.PollInterval {
			e.asked = now
			e.due = e.due || c.watch.Changed(e.id)
			at = c.dueLocked(e, true)
		}
		e.mu.Unlock()
		switch {
		case busy || at.IsZero():
		case at.After(now):
			if at.Before(next) {
				next = at
			}
		default:
			renewals.Go(func() { c.renew(ctx, e, h) })
		}
	}
	return next.Sub(now)
}

// dueLocked is when e is to be fetched or renewed next; zero is never.
func (c *Cache) dueLocked(e *entry, held bool) time.Time {
	var at time.Time
	switch {
	case e.due:
		return time.Unix(0, 0)
	case held && c.watch != nil && e.failures == 0:
		return time.Time{} // the files' owner renews
	case held:
		at = e.renewAt
	case e.wanted:
		at = time.Unix(0, 0)
	default:
		return time.Time{}
	}
	if e.retryAt.After(at) {
		at = e.retryAt
	}
	return at
}

// renew fetches e anew; its outcome, good or bad, wakes Run to plan the next.
func (c *Cache) renew(ctx context.Context, e *entry, old *held) {
	defer c.poke()
	_, _ = c.refresh(ctx, e, old, true) // issue has logged it, Status tells it
}
