package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sink is a writer that keeps what it gets, and can block or fail.
type sink struct {
	mu     sync.Mutex
	text   []byte
	blocks int
	err    error
	gate   chan struct{} // nil is open
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks++
	if s.err != nil {
		return 0, s.err
	}
	s.text = append(s.text, p...)
	return len(p), nil
}

func (s *sink) state() (lines, blocks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.text, []byte("\n")), s.blocks
}

// run starts w and returns what stops it and waits.
func run(t *testing.T, w *Writer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func TestWriterInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		w := NewWriter(s, WriterOptions{})
		stop := run(t, w)
		defer stop()
		for range 10 {
			w.Line([]byte("x\n"))
			time.Sleep(9 * time.Millisecond)
		}
		if lines, _ := s.state(); lines != 0 {
			t.Errorf("%d lines before the interval", lines)
		}
		time.Sleep(11 * time.Millisecond)
		synctest.Wait()
		if lines, blocks := s.state(); lines != 10 || blocks != 1 {
			t.Errorf("%d lines in %d blocks; want 10 in 1", lines, blocks)
		}
		time.Sleep(time.Hour)
		if _, blocks := s.state(); blocks != 1 {
			t.Errorf("%d blocks after an idle hour", blocks)
		}
		w.Line([]byte("y\n"))
		time.Sleep(101 * time.Millisecond)
		synctest.Wait()
		if lines, blocks := s.state(); lines != 11 || blocks != 2 {
			t.Errorf("%d lines in %d blocks; want 11 in 2", lines, blocks)
		}
	})
}

func TestWriterFullBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sink)
		w := NewWriter(s, WriterOptions{BlockSize: 1000})
		stop := run(t, w)
		defer stop()
		line := []byte(strings.Repeat("x", 99) + "\n")
		for range 10 {
			w.Line(line)
		}
		synctest.Wait() // no time passes
		if lines, _ := s.state(); lines != 10 {
			t.Errorf("%d lines; want 10 at once", lines)
		}
		w.Line(bytes.Repeat(line, 30))
		synctest.Wait()
		if lines, _ := s.state(); lines != 40 {
			t.Errorf("%d lines; want 40 at once", lines)
		}
	})
}

// TestWriterSlowSink: a sink that blocks costs lines, not memory and not time.
func TestWriterSlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{})}
		var log bytes.Buffer
		w := NewWriter(s, WriterOptions{BlockSize: 100, MaxBuffered: 1000, Log: textLogger(&log)})
		stop := run(t, w)
		w.Line([]byte("first 10 B\n"))
		time.Sleep(time.Second) // the block is stuck now
		for range 1000 {
			w.Line([]byte("123456789\n"))
		}
		if st := w.Stats(); st.Lines != 101 || st.Dropped != 900 {
			t.Errorf("%+v; want 101 lines, 900 dropped", st)
		}
		s.mu.Lock()
		close(s.gate)
		s.gate = nil
		s.mu.Unlock()
		time.Sleep(time.Second)
		w.Line([]byte("again\n"))
		stop()
		if lines, _ := s.state(); lines != 102 {
			t.Errorf("%d lines; want 102", lines)
		}
		if n := strings.Count(log.String(), "too slow"); n != 1 {
			t.Errorf("warned %d times:\n%s", n, log.String())
		}
	})
}

func TestWriterFailingSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{err: errors.New("disk full")}
		var log bytes.Buffer
		w := NewWriter(s, WriterOptions{Log: textLogger(&log)})
		stop := run(t, w)
		for range 5 {
			w.Line([]byte("x\n"))
			time.Sleep(time.Second)
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		w.Line([]byte("y\n"))
		stop()
		if lines, _ := s.state(); lines != 1 || w.Stats().Failed != 5 {
			t.Errorf("%d lines, %+v", lines, w.Stats())
		}
		if n := strings.Count(log.String(), "disk full"); n != 1 {
			t.Errorf("warned %d times:\n%s", n, log.String())
		}
	})
}

func TestWriterClose(t *testing.T) {
	s := new(sink)
	w := NewWriter(s, WriterOptions{})
	for i := range 1000 {
		w.Line(fmt.Appendf(nil, "%d\n", i))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.Line([]byte("late\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if lines, _ := s.state(); lines != 1000 || w.Stats().Dropped != 1 || !bytes.HasPrefix(s.text, []byte("0\n1\n2\n")) {
		t.Errorf("%d lines, %+v", lines, w.Stats())
	}
}

// TestWriterConcurrent: every line arrives once and whole, each caller's in order.
func TestWriterConcurrent(t *testing.T) {
	for _, json := range []bool{false, true} {
		t.Run(fmt.Sprint("json-", json), func(t *testing.T) {
			s := new(sink)
			w := NewWriter(s, WriterOptions{JSON: json, BlockSize: 4096, MaxBuffered: 1 << 30})
			stop := run(t, w)
			const workers, each = 4, 500
			var wg sync.WaitGroup
			for g := range workers {
				wg.Go(func() {
					r := exampleRecord()
					for i := range each {
						r.UserAgent = fmt.Sprintf("agent-%d-%d", g, i)
						w.HTTP(&r)
						if i%10 == 0 {
							c := exampleConn()
							w.Conn(&c)
						}
					}
				})
			}
			wg.Wait()
			stop()
			last := make([]int, workers)
			n := 0
			for _, line := range strings.SplitAfter(strings.TrimSuffix(string(s.text), "\n"), "\n") {
				_, agent, ok := strings.Cut(line, "agent-")
				if !ok {
					continue
				}
				var g, i int
				if _, err := fmt.Sscanf(agent, "%d-%d", &g, &i); err != nil {
					t.Fatal(err)
				}
				if i != last[g] {
					t.Fatalf("caller %d: line %d after %d", g, i, last[g]-1)
				}
				last[g]++
				n++
			}
			if n != workers*each {
				t.Errorf("%d lines; want %d", n, workers*each)
			}
		})
	}
}

func TestWriterExpose(t *testing.T) {
	m := NewMetrics("proxy", "dev", MetricsOptions{NoRuntime: true})
	w := NewWriter(io.Discard, WriterOptions{MaxBuffered: 5})
	w.Expose(m)
	w.Line([]byte("a\n"))
	w.Line([]byte("too long\n"))
	text, _ := scrape(t, m, "")
	for _, want := range []string{"cairn_access_log_lines_total 1\n", "cairn_access_log_dropped_total 1\n", "cairn_access_log_write_errors_total 0\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestWriterAllocatesNothing(t *testing.T) {
	w := NewWriter(io.Discard, WriterOptions{MaxBuffered: 1 << 20})
	w.buf = make([]byte, 0, 1<<20)
	r := exampleRecord()
	if n := testing.AllocsPerRun(100, func() { w.HTTP(&r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkWriter(b *testing.B) {
	w := NewWriter(io.Discard, WriterOptions{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := exampleRecord()
		for pb.Next() {
			w.HTTP(&r)
		}
	})
	b.ReportMetric(float64(w.Stats().Dropped)/float64(b.N), "dropped/op")
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}
