package h2

import (
	"strconv"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// link is a carrier whose output goes straight into the other end.
type link struct {
	q  loop.Queue
	to *Conn
}

func (l *link) Queue() *loop.Queue { return &l.q }

func (l *link) Abort() {}

func (l *link) Flush(t *loop.Turn) {
	for {
		l.q.Lock()
		l.q.Flushed()
		b := l.q.Take()
		l.q.Unlock()
		if b == nil {
			return
		}
		if _, err := l.to.Data(t, b); err != nil {
			panic(err)
		}
		l.q.Release(b)
	}
}

// eater consumes what comes, and answers requests.
type eater struct{ fields []hpack.HeaderField }

func (e *eater) Open(t *loop.Turn, s *Stream, h *Head) {
	s.Handle(e)
	if h.End {
		s.WriteHeaders(t, e.fields, true)
	}
}
func (*eater) Closed(*loop.Turn, error)                       {}
func (*eater) Headers(*loop.Turn, *Stream, *Head)             {}
func (*eater) Data(t *loop.Turn, s *Stream, b []byte, _ bool) { s.Consumed(t, len(b)) }
func (*eater) Reset(*loop.Turn, *Stream, error)               {}
func (*eater) Writable(*loop.Turn, *Stream)                   {}

func linked(b testing.TB) (client *Conn, turn *loop.Turn) {
	b.Helper()
	var cl, sl link
	cl.q.Init(&cl)
	sl.q.Init(&sl)
	turn = &loop.Turn{Now: time.Unix(1, 0)}
	e := &eater{fields: status200}
	cl.to = New(turn, &sl, e, Options{})
	sl.to = New(turn, &cl, e, Options{Client: true})
	turn.End()
	return sl.to, turn
}

// streamWrite is one write of n bytes that the other end gets and consumes.
func streamWrite(b testing.TB, n int) func() {
	b.Helper()
	c, turn := linked(b)
	st := c.Open(turn, &eater{}, []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}}, false)
	turn.End()
	buf := make([]byte, n)
	return func() {
		st.Write(turn, buf, false)
		turn.End()
	}
}

func TestStreamWriteAllocates(t *testing.T) {
	f := streamWrite(t, 10000)
	for range 1000 {
		f()
	}
	if n := testing.AllocsPerRun(1000, f); n > 0 {
		t.Errorf("%v allocations per write that arrives, want none", n)
	}
}

func BenchmarkStreamWrite(b *testing.B) {
	for _, n := range []int{100, 1000, 16000, 64000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			f := streamWrite(b, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

// BenchmarkRequest is a request without content and its response, both ends.
func BenchmarkRequest(b *testing.B) {
	c, turn := linked(b)
	e := &eater{}
	fields := []hpack.HeaderField{
		{Name: ":method", Value: "GET"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/a"},
		{Name: ":authority", Value: "reviews:9080"},
		{Name: "user-agent", Value: "bench"},
		{Name: "x-request-id", Value: "0af76519-16cd-43dd-8448-eb211c80319c"},
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Open(turn, e, fields, true)
		turn.End()
	}
}
