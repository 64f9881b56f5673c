package pod

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// serve runs o in p and returns its addresses, how to stop it, and what Serve returns.
func serve(t *testing.T, p *Pod, o ServeOptions) (addrs []net.Addr, stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	ready, done := make(chan []net.Addr, 1), make(chan error, 1)
	o.Ready = func(a []net.Addr) { ready <- a }
	go func() { done <- p.Serve(ctx, o) }()
	select {
	case addrs = <-ready:
	case err := <-done:
		t.Fatalf("serving: %v", err)
	}
	return addrs, cancel, done
}

// client returns an HTTP client of p that speaks HTTP/1.1, or HTTP/2 with prior
// knowledge.
func client(p *Pod, h2 bool) *http.Client {
	tr := p.Transport()
	if h2 {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: tr}
}

// TestServe answers both protocols on each of two ports.
func TestServe(t *testing.T) {
	p := newPod(t, Options{IP: "127.77.1.1"})
	addrs, stop, ended := serve(t, p, ServeOptions{
		Listen:  ":0, 127.77.1.2:0",
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }),
	})
	for _, a := range addrs {
		for h2, want := range map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"} {
			resp, err := client(p, h2).Get("http://" + a.String())
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(b) != want || err != nil {
				t.Errorf("%s answered %q, %v; want %q", a, b, err, want)
			}
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v after it was stopped", err)
	}
	if len(addrs) != 2 {
		t.Errorf("%d addresses, want 2", len(addrs))
	}
}

// TestServeGraceful lets a request that runs when the end comes finish, while
// new connections are refused.
func TestServeGraceful(t *testing.T) {
	p := newPod(t, Options{})
	began, finish := make(chan struct{}), make(chan struct{})
	addrs, stop, ended := serve(t, p, ServeOptions{
		Listen: "127.77.1.3:0",
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-finish
			_, _ = io.WriteString(w, "whole")
		}),
	})
	type result struct {
		body string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		resp, err := client(p, false).Get("http://" + addrs[0].String())
		if err != nil {
			got <- result{err: err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		got <- result{string(b), err}
	}()
	<-began
	stop()
	for { // the listener closes a moment after stop
		c, err := net.Dial("tcp", addrs[0].String())
		if err != nil {
			break
		}
		c.Close()
	}
	close(finish)
	if r := <-got; r.body != "whole" || r.err != nil {
		t.Errorf("the running request got %q, %v", r.body, r.err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// stubborn is a handler that does not end by itself.
type stubborn struct {
	began   chan struct{}
	drained chan struct{}
}

func (s *stubborn) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	close(s.began)
	<-r.Context().Done()
}

func (s *stubborn) Drain(context.Context) { close(s.drained) }

// TestServeGrace cuts what does not end in time.
func TestServeGrace(t *testing.T) {
	p := newPod(t, Options{})
	h := &stubborn{make(chan struct{}), make(chan struct{})}
	addrs, stop, ended := serve(t, p, ServeOptions{Listen: "127.77.1.4:0", Handler: h, Grace: time.Millisecond})
	failed := make(chan error, 1)
	go func() {
		resp, err := client(p, false).Get("http://" + addrs[0].String())
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	<-h.began
	stop()
	if err := <-failed; err == nil {
		t.Error("a request that would not end was answered")
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	<-h.drained
}

// TestServeListen opens all listeners or none.
func TestServeListen(t *testing.T) {
	p := newPod(t, Options{})
	taken, err := p.Listen(t.Context(), "127.77.1.5:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = p.Serve(t.Context(), ServeOptions{Listen: "127.77.1.6:0," + taken.Addr().String(), Handler: http.NotFoundHandler()})
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("Serve on a port in use returned %v", err)
	}
}
