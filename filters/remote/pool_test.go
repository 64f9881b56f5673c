package remote

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

var auth = mesh.ServiceKey{Namespace: "ns", Hostname: "auth.ns.svc"}

// dialer counts what it is asked for, and leads to one address; "" leads nowhere.
type dialer struct {
	addr string
	alpn chan string
}

func (d dialer) DialService(ctx context.Context, _ mesh.ServiceKey, _ uint16, alpn string) (net.Conn, error) {
	if d.alpn != nil {
		d.alpn <- alpn
	}
	if d.addr == "" {
		return nil, errors.New("there is no endpoint")
	}
	var nd net.Dialer
	return nd.DialContext(ctx, "tcp", d.addr)
}

// TestAway: a service that does not answer is asked now and then, and one that is
// overloaded is not asked.
func TestAway(t *testing.T) {
	p := NewPool(dialer{})
	defer p.Close()
	s, err := p.GRPC(auth, 80)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Hour
	for range MaxFailures {
		if err := s.Admit(now); err != nil {
			t.Fatal(err)
		}
		s.Done(t.Context(), errors.New("no answer"))
	}
	probe, others := s.Admit(now), s.Admit(now+ProbeEvery/2)
	if probe != nil || !errors.Is(others, ErrAway) {
		t.Errorf("the probe: %v, others: %v", probe, others)
	}
	s.Done(t.Context(), nil)
	if err := s.Admit(now); err != nil {
		t.Errorf("after an answer: %v", err)
	}
	s.Done(t.Context(), nil)
	s.asking.Store(MaxAsking)
	if err := s.Admit(now); !errors.Is(err, ErrBusy) {
		t.Errorf("with %d under way: %v", MaxAsking, err)
	}
	s.asking.Store(0)
}

// A client that goes away says nothing of the service.
func TestCut(t *testing.T) {
	p := NewPool(dialer{})
	defer p.Close()
	s, err := p.HTTP(auth, 80)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 * MaxFailures {
		if err := s.Admit(0); err != nil {
			t.Fatal(err)
		}
		s.Done(ctx, context.Canceled)
	}
}

func TestShared(t *testing.T) {
	p := NewPool(dialer{})
	defer p.Close()
	a, _ := p.GRPC(auth, 80)
	b, _ := p.GRPC(auth, 80)
	other, _ := p.GRPC(auth, 81)
	byHTTP, _ := p.HTTP(auth, 80)
	if a != b || a == other || a == byHTTP {
		t.Error("a service is not shared by those that ask it, or by others")
	}
	runtime.KeepAlive(a)
	held := func() (n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.services {
			if s.Value() != nil {
				n++
			}
		}
		return n
	}
	a, b, other, byHTTP = nil, nil, nil, nil //nolint:ineffassign // the collector is to see it
	for range 100 {
		if runtime.GC(); held() == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d services are kept that nobody uses", held())
}

func TestClosed(t *testing.T) {
	p := NewPool(dialer{})
	s, err := p.GRPC(auth, 80)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if err := s.Admit(0); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := NewPool(nil).HTTP(auth, 80); err == nil {
		t.Error("a proxy without a dialer has found a service")
	}
}

// TestHTTP: what is asked by HTTP goes through the dialer, and redirects are not followed.
func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			w.Header().Set("X-Big", strings.Repeat("a", 2*MaxAnswer))
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}))
	defer srv.Close()
	d := dialer{addr: strings.TrimPrefix(srv.URL, "http://"), alpn: make(chan string, 10)}
	p := NewPool(d)
	defer p.Close()
	s, err := p.HTTP(auth, 80)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		ok   bool
	}{{"/a", true}, {"/big", false}} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://h"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.RoundTrip(r)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.path, err)
		}
		if err != nil {
			continue
		}
		if _, err := io.Copy(io.Discard, bufio.NewReader(resp.Body)); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusFound {
			t.Errorf("%s: %s", tt.path, resp.Status)
		}
	}
	if got := <-d.alpn; got != "http/1.1" {
		t.Errorf("ALPN %q", got)
	}
}
