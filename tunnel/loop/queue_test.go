package loop

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// sink is a Flusher that takes everything at once.
type sink struct {
	name  string
	q     Queue
	log   *[]string
	got   []byte
	after func(t *Turn)
}

func newSink(name string, log *[]string) *sink {
	s := &sink{name: name, log: log}
	s.q.Init(s)
	return s
}

func (s *sink) Flush(t *Turn) {
	s.q.Lock()
	s.q.Flushed()
	n := 0
	for b := s.q.Take(); b != nil; b = s.q.Take() {
		n += len(b)
		s.got = append(s.got, b...)
		s.q.Release(b)
	}
	s.q.Unlock()
	*s.log = append(*s.log, fmt.Sprintf("%s %d", s.name, n))
	if s.after != nil {
		f := s.after
		s.after = nil
		f(t)
	}
}

func (s *sink) write(t *Turn, n int) {
	s.q.Lock()
	s.q.Append(t, make([]byte, n))
	s.q.Unlock()
}

func TestTurnOrder(t *testing.T) {
	var log []string
	a, b := newSink("a", &log), newSink("b", &log)
	Run(func(t *Turn) {
		a.write(t, 1)
		t.Defer(func(t *Turn) {
			log = append(log, "deferred")
			t.Defer(func(*Turn) { log = append(log, "deferred by deferred") })
			b.write(t, 2)
		})
		b.write(t, 1)
		a.write(t, 1)
		log = append(log, "body")
		// What flushing leads to is part of the turn.
		b.after = func(t *Turn) {
			a.write(t, 10)
			t.Defer(func(t *Turn) {
				log = append(log, "deferred by flush")
				b.write(t, 5)
			})
		}
	})
	want := []string{"body", "deferred", "deferred by deferred", "a 2", "b 3", "a 10", "deferred by flush", "b 5"}
	if !slices.Equal(log, want) {
		t.Errorf("got  %q\nwant %q", log, want)
	}
	if Run(func(t *Turn) {
		if t.Now.IsZero() || len(t.dirty)+len(t.after) > 0 {
			log = append(log, "dirty turn")
		}
	}); slices.Contains(log, "dirty turn") {
		t.Error("a turn begins without a time or with another's work")
	}
}

func TestQueue(t *testing.T) {
	var log []string
	s := newSink("s", &log)
	q := &s.q
	rng := rand.New(rand.NewPCG(1, 2))
	var want bytes.Buffer
	var got []byte
	turn := &Turn{}
	for range 1000 {
		switch rng.IntN(3) {
		case 0:
			b := make([]byte, rng.IntN(3*ChunkSize))
			for i := range min(len(b), 64) {
				b[i] = byte(rng.Uint32())
			}
			want.Write(b)
			q.Append(turn, b)
		case 1:
			n := 1 + rng.IntN(ChunkSize)
			p := q.Reserve(turn, n)
			if cap(*p)-len(*p) < n {
				t.Fatalf("Reserve(%d) left room for %d", n, cap(*p)-len(*p))
			}
			b := bytes.Repeat([]byte{byte(n)}, rng.IntN(n+1))
			want.Write(b)
			*p = append(*p, b...)
		case 2:
			for range rng.IntN(4) {
				if b := q.Take(); b != nil {
					got = append(got, b...)
					q.Release(b)
				}
			}
		}
		if q.Size() != want.Len()-len(got) {
			t.Fatalf("Size %d, want %d", q.Size(), want.Len()-len(got))
		}
	}
	for b := q.Take(); b != nil; b = q.Take() {
		got = append(got, b...)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("the bytes do not come out as they went in")
	}
	q.Append(turn, make([]byte, 200<<10))
	q.Drop()
	if q.Size() != 0 || q.Take() != nil {
		t.Errorf("%d bytes after Drop", q.Size())
	}
	if len(turn.dirty) != 1 {
		t.Errorf("the queue was marked %d times in one turn", len(turn.dirty))
	}
	q.End(turn)
	if !q.Ended() {
		t.Error("End is not remembered")
	}
}
