package waypoint

import (
	"fmt"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// workloadH2 is a workload's HTTP/2 server.
type workloadH2 struct {
	s *sim
	e *workload
}

func (h *workloadH2) Closed(*loop.Turn, error) { h.e.over = true }

func (h *workloadH2) Open(t *loop.Turn, st *h2.Stream, head *h2.Head) {
	y := &try{wire: h.e.wire, stream: h.e.st.ID}
	r := &workloadCall{s: h.s, st: st, y: y}
	var f h1.Framing
	if _, err := requestFromH2(head, nil, nil, &r.req, &f); err != nil {
		h.s.fail("workload: request head: %v", err)
		return
	}
	if r.x = h.s.arrived(&r.req, y); r.x == nil {
		return
	}
	if r.x.fault == faultRefuse && (h.s.breaks || r.x.seen == 1) {
		y.refused = true
		h.s.logf("workload refuses call %d", r.x.id)
		st.Reset(t, h2.RefusedStream)
		return
	}
	st.Handle(r)
	h.s.actors = append(h.s.actors, r)
	if head.End {
		r.done = true
		h.s.whole(r.x, 0, nil)
	}
}

// workloadCall is one request at a workload over HTTP/2.
type workloadCall struct {
	s       *sim
	st      *h2.Stream
	x       *call
	y       *try
	req     mesh.Request
	got     int
	owed    int
	done    bool
	started bool
	sent    int
	ended   bool
	over    bool
}

func (r *workloadCall) ready() bool {
	if r.over || r.x.fault == faultHang {
		return false
	}
	return r.owed > 0 || !r.ended && (r.done || r.x.early) && !r.st.Congested()
}

func (r *workloadCall) act(t *loop.Turn) {
	s, x := r.s, r.x
	if r.owed > 0 && (r.ended || !r.done && !x.early || s.chance(50)) {
		n := s.piece(r.owed)
		r.owed -= n
		r.st.Consumed(t, n)
		return
	}
	if r.ended {
		return
	}
	if x.fault == faultReset && r.sent >= x.faultAt || x.fault == faultGarbage {
		r.over = true
		r.st.Reset(t, h2.InternalError)
		return
	}
	if r.y.busy {
		r.busy(t)
		return
	}
	if !r.started {
		r.started = true
		for range x.interim {
			r.st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "103"}, {Name: "link", Value: "a"}}, false)
		}
		f := []hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(x.status)}, {Name: "x-id", Value: strconv.Itoa(x.id)}}
		if x.rpad > 0 {
			f = append(f, hpack.HeaderField{Name: "x-pad", Value: strings.Repeat("p", x.rpad)})
		}
		if x.respMode == 0 && x.status != 204 && x.status != 304 {
			n := x.respLen
			if x.fault == faultEnd {
				n++
			}
			f = append(f, hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(n)})
		}
		if x.rtrailer {
			f = append(f, hpack.HeaderField{Name: "trailer", Value: "x-sum"})
		}
		if x.noContent() || x.respLen == 0 && !x.rtrailer {
			r.ended = true
		}
		r.st.WriteHeaders(t, f, r.ended)
		return
	}
	n := s.piece(x.respLen - r.sent)
	b := appendPattern(nil, x.id, r.sent, n)
	r.sent += n
	r.ended = r.sent == x.respLen
	r.st.Write(t, b, r.ended && !x.rtrailer)
	if r.ended && x.rtrailer {
		r.st.WriteTrailers(t, []hpack.HeaderField{{Name: "x-sum", Value: fmt.Sprint("sum-", x.id)}})
	}
}

// busy answers with 503, in a head alone or with some content.
func (r *workloadCall) busy(t *loop.Turn) {
	if !r.started {
		r.started = true
		r.ended = r.x.method == "HEAD" || r.s.chance(50)
		r.st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "503"}, {Name: "x-id", Value: strconv.Itoa(r.x.id)}, {Name: "x-busy", Value: "1"}}, r.ended)
		return
	}
	r.st.Write(t, make([]byte, r.s.rng.IntN(3000)), true)
	r.ended = true
}

func (r *workloadCall) Headers(_ *loop.Turn, _ *h2.Stream, h *h2.Head) {
	tr, err := trailersFromH2(h, nil)
	if err != nil {
		r.s.fail("workload: call %d: trailers: %v", r.x.id, err)
	}
	r.done = true
	r.s.whole(r.x, r.got, tr)
}

func (r *workloadCall) Data(_ *loop.Turn, _ *h2.Stream, b []byte, end bool) {
	if err := checkPattern(b, -r.x.id, r.got); err != nil && !r.x.bad {
		r.s.fail("workload: %w", err)
	}
	r.got += len(b)
	r.owed += len(b)
	if end {
		r.done = true
		r.s.whole(r.x, r.got, nil)
	}
}

func (r *workloadCall) Reset(*loop.Turn, *h2.Stream, error) { r.over = true }
func (r *workloadCall) Writable(*loop.Turn, *h2.Stream)     {}
