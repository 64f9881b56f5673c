package extauthz

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"unsafe"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
)

// TestHTTPKeepsNothing: a question outlives the exchange, whose memory is used again: no string of it is a view of that.
func TestHTTPKeepsNothing(t *testing.T) {
	r := NewRegistry(nowhere{}, own, nil)
	defer r.Close()
	p := r.provider(ext(false, func(m *mesh.ExtAuthz) { m.RequestHeaders, m.Body = []string{"*"}, 10 }))
	arena := []byte("1name value /path?query host POST body")
	view := func(from, to int) string { return unsafe.String(&arena[from], to-from) }
	x := filterstest.Exchange(&mesh.Request{
		Method: view(29, 33), Authority: view(24, 28), Host: view(24, 28), Path: view(12, 17), Query: view(18, 23), HasQuery: true,
		Fields: mesh.Fields{{Name: view(0, 5), Value: view(6, 11)}},
	})
	q, err := p.httpRequest(t.Context(), x, arena[34:38], true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range arena {
		arena[i] = '#'
	}
	body := make([]byte, 10)
	n, _ := q.Body.Read(body)
	got := []string{q.Method, q.Host, q.URL.Opaque, q.URL.RawQuery, string(body[:n])}
	for _, s := range append(got, q.Header["1name"]...) {
		if s == "" || s[0] == '#' {
			t.Errorf("%q is the exchange's memory: %q", s, got)
		}
	}
	if len(q.Header["1name"]) != 1 {
		t.Errorf("header %v", q.Header)
	}
}

// closing is a service that answers one question on each connection and closes it when the next one comes.
type closing struct{ dials atomic.Int64 }

func (c *closing) DialService(context.Context, mesh.ServiceKey, uint16, string) (net.Conn, error) {
	c.dials.Add(1)
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		in := bufio.NewReader(far)
		for i := range 2 {
			q, err := http.ReadRequest(in)
			if err != nil || i == 1 {
				return
			}
			if _, ok := q.Header["X-Idempotency-Key"]; ok {
				return // it is not to be sent
			}
			body := make([]byte, q.ContentLength)
			_, _ = q.Body.Read(body)
			if _, err := far.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
				return
			}
		}
	}()
	return near, nil
}

// TestHTTPStale: a connection that the service has given up meanwhile is no refusal.
func TestHTTPStale(t *testing.T) {
	d := &closing{}
	r := NewRegistry(d, own, nil)
	t.Cleanup(r.Close)
	c := routeChain(t, r, ext(false, func(m *mesh.ExtAuthz) { m.Body = 10 }))
	for i := range 3 {
		x := filterstest.Exchange(request())
		x.Host.(*filterstest.Host).RequestBody = []byte("hello")
		if got := filterstest.Run(x, c); got != filters.Continue {
			t.Fatalf("request %d: %v", i, x.Reply)
		}
	}
	if n := d.dials.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}
