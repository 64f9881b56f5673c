// Package filterstest runs filters in tests, without a proxy around them.
//
//	x := filterstest.Exchange(&mesh.Request{Method: "GET", Path: "/"})
//	got := filterstest.Run(x, chain)
//
// Run goes on after a park as the proxy would, and returns when the chain has continued to its end or
// replied. Under testing/synctest pauses take no time.
package filterstest

import (
	"sync"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Host is a filters.Host for one exchange.
type Host struct {
	mu     sync.Mutex // the exchange's
	x      *filters.Exchange
	parked *parked
	// RequestBody is what Exchange.Body gives; Cut says that more would follow it.
	RequestBody []byte
	Cut         bool
}

type parked struct {
	h      *Host
	cancel func()
	timer  *time.Timer
	done   chan filters.Result
}

// Exchange returns an exchange for r with a Host of its own, at the present time.
func Exchange(r *mesh.Request) *filters.Exchange {
	x := &filters.Exchange{Req: r, Now: time.Now()}
	x.Host = &Host{x: x}
	return x
}

// Await implements filters.Host.
func (h *Host) Await(cancel func()) filters.Resume {
	p := &parked{h: h, cancel: cancel, done: make(chan filters.Result, 1)}
	h.parked = p
	return p.resume
}

// Body implements filters.Host.
func (h *Host) Body(_ int, then filters.BodyStep) filters.Result {
	return then(h.x, h.RequestBody, !h.Cut)
}

// After implements filters.Host.
func (h *Host) After(d time.Duration, then func(*filters.Exchange) filters.Result) {
	p := &parked{h: h, done: make(chan filters.Result, 1)}
	h.parked = p
	p.timer = time.AfterFunc(d, func() { p.resume(then) })
}

func (p *parked) resume(then func(*filters.Exchange) filters.Result) {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if p.h.parked != p {
		return
	}
	p.h.parked = nil
	p.h.x.Now = time.Now()
	res := filters.Continue
	if then != nil {
		res = then(p.h.x)
	}
	p.done <- res
}

// Start runs a chain until it ends or parks. It returns filters.Park in that case: Wait or Cancel follow.
func Start(x *filters.Exchange, c filters.Chain) filters.Result {
	h := x.Host.(*Host)
	h.mu.Lock()
	defer h.mu.Unlock()
	res, _ := c.Request(x, 0)
	return res
}

// Run runs a chain of steps of which at most the last parks, and waits for its end.
func Run(x *filters.Exchange, c filters.Chain) filters.Result {
	h := x.Host.(*Host)
	h.mu.Lock()
	res, at := c.Request(x, 0)
	p := h.parked
	h.mu.Unlock()
	for res == filters.Park {
		res = <-p.done
		h.mu.Lock()
		if res == filters.Continue {
			res, at = c.Request(x, at)
		}
		p = h.parked // which a step may do once more
		h.mu.Unlock()
	}
	return res
}

// Cancel ends a parked exchange, as a client does that goes away. It reports
// whether the exchange was parked.
func Cancel(x *filters.Exchange) bool {
	h := x.Host.(*Host)
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.parked
	h.parked = nil
	if p == nil {
		return false
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.cancel != nil {
		p.cancel()
	}
	return true
}

// Local gives x a response of our own with the status of its reply and its fields, runs the chain's
// steps for that, and returns it.
func Local(x *filters.Exchange, c filters.Chain) *mesh.Response {
	x.Resp = &mesh.Response{Status: x.Reply.Status, Fields: append(mesh.Fields(nil), x.Reply.Fields...)}
	c.Local(x)
	return x.Resp
}

// Response gives x an endpoint's response with status 200 and these fields, runs the
// chain's response steps, and returns it.
func Response(x *filters.Exchange, c filters.Chain, fields ...mesh.Field) *mesh.Response {
	x.Resp = &mesh.Response{Status: 200, Fields: fields}
	c.Response(x, 0)
	return x.Resp
}
