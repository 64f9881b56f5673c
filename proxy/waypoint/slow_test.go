package waypoint

import (
	"fmt"
	"runtime"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// sink is an end of a stream that keeps nothing of what comes, and takes it off the
// window while it reads.
type sink struct {
	st   *h2.Stream
	n    int
	owed int
	read bool
	more func(t *loop.Turn) // when there is room to write
}

func (p *sink) Headers(*loop.Turn, *h2.Stream, *h2.Head) {}
func (p *sink) Data(t *loop.Turn, _ *h2.Stream, b []byte, _ bool) {
	p.n += len(b)
	if p.owed += len(b); p.read {
		p.st.Consumed(t, p.owed)
		p.owed = 0
	}
}
func (p *sink) Reset(*loop.Turn, *h2.Stream, error) {}
func (p *sink) Writable(t *loop.Turn, _ *h2.Stream) {
	if p.more != nil {
		p.more(t)
	}
}

// flood writes for as long as there is room, at most limit bytes.
func (p *sink) flood(t *loop.Turn, left *int) {
	for *left > 0 && !p.st.Congested() {
		n := min(*left, len(junk))
		*left -= n
		p.st.Write(t, junk[:n], false)
	}
}

var junk = make([]byte, 32<<10)

// slow is a script of many streams between sinks.
type slow struct {
	*script
	clients, works []*sink
}

// newSlow opens n exchanges with a content without end in both directions.
func newSlow(t *testing.T, clientH2, workH2 bool, n int) *slow {
	proto := mesh.ProtocolHTTP
	if workH2 {
		proto = mesh.ProtocolHTTP2
	}
	parts, v := oneService(proto)
	s := &slow{script: newScript(t, parts)}
	s.p.o.AccessLog = nil
	const length = "1000000000000"
	add := func(st *h2.Stream) *sink {
		p := &sink{st: st, read: true}
		st.Handle(p)
		s.works = append(s.works, p)
		return p
	}
	if workH2 {
		s.h2workload(func(t *loop.Turn, st *h2.Stream, h *h2.Head) {
			add(st)
			st.WriteHeaders(t, fieldsOf(":status", "200", "content-length", length), false)
		})
	} else {
		s.lab.serve = func(t *loop.Turn, _ string, st *h2.Stream, _ *h2.Head) {
			add(st)
			st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
			st.Write(t, []byte("HTTP/1.1 200 OK\r\nContent-Length: "+length+"\r\n\r\n"), false)
		}
	}
	if clientH2 {
		p := s.h2tunnel(vip(v))
		for range n {
			r := &sink{read: true}
			s.do(func(t *loop.Turn) {
				r.st = p.inner.conn.Open(t, r, fieldsOf(":method", "POST", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", length), false)
			})
			s.clients = append(s.clients, r)
			s.flow()
		}
		return s
	}
	for range n {
		r := &sink{read: true}
		s.do(func(t *loop.Turn) { r.st = s.w.connect(t, vip(v), r) })
		s.do(func(t *loop.Turn) {
			r.st.Write(t, []byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: "+length+"\r\n\r\n"), false)
		})
		s.clients = append(s.clients, r)
		s.flow()
	}
	return s
}

// Whoever does not read holds up at most 1 MiB per stream, whatever the sizes of the
// contents, in either direction and version; and all of it comes in the end.
func TestMemoryUnderSlowReaders(t *testing.T) {
	if raceDetector {
		t.Skip("memory is another under the race detector")
	}
	const n, most = 4, 1 << 20
	for _, clientH2 := range []bool{false, true} {
		for _, workH2 := range []bool{false, true} {
			for _, down := range []bool{true, false} {
				t.Run(fmt.Sprintf("client-h2=%v-endpoint-h2=%v-response=%v", clientH2, workH2, down), func(t *testing.T) {
					s := newSlow(t, clientH2, workH2, n)
					if len(s.works) != n {
						t.Fatalf("%d of %d streams reached the endpoint", len(s.works), n)
					}
					from, to := s.works, s.clients
					if !down {
						from, to = to, from
					}
					// Windows grow while all goes well.
					sent := make([]int, n)
					send := func(bytes int) {
						for i, p := range from {
							sent[i] += bytes
							left := bytes
							p.more = func(t *loop.Turn) { p.flood(t, &left) }
							s.do(p.more)
						}
						s.flow()
					}
					idle := liveHeap()
					send(8 << 20)
					for i, p := range to {
						if p.n < sent[i] {
							t.Fatalf("stream %d: %d of %d bytes came while all was well", i, p.n, sent[i])
						}
						p.read = false
					}
					send(8 << 20)
					used := s.budget.Used()
					grown := int64(liveHeap()) - int64(idle)
					t.Logf("per stream: %d KiB counted, heap grown by %d KiB", used>>10/n, grown>>10/n)
					if used > n*most {
						t.Errorf("%d KiB per stream wait, more than 1 MiB", used>>10/n)
					}
					// The heap has what the test's own ends hold, too: 64 KiB and more of each.
					if grown > n*(most+128<<10) {
						t.Errorf("the heap has grown by %d KiB per stream", grown>>10/n)
					}
					for _, p := range to {
						p.read = true
						s.do(func(t *loop.Turn) { p.st.Consumed(t, p.owed); p.owed = 0 })
					}
					s.flow()
					for i, p := range to {
						if p.n < sent[i] {
							t.Errorf("stream %d: %d of %d bytes came in the end", i, p.n, sent[i])
						}
					}
					if used := s.budget.Used(); used != 0 {
						t.Errorf("%d bytes still counted", used)
					}
					runtime.KeepAlive(s)
				})
			}
		}
	}
}
