package waypoint

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func (r *rig) conn(v *mesh.Service) net.Conn {
	r.t.Helper()
	c, err := r.dial(r.t.Context(), netip.AddrPortFrom(v.VIPs[0], v.Ports[0].Port).String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func one(t *testing.T, proto mesh.AppProtocol, h http.HandlerFunc) (*rig, *mesh.Service) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("web", h, true)
		v = r.service("web", 80, proto, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	return r, v
}

func TestUpgradeCarriesBytesBothWays(t *testing.T) {
	r, v := one(t, mesh.ProtocolHTTP, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(400)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
		io.Copy(c, rw)
	})
	c := r.conn(v)
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("answer %v, %v", resp, err)
	}
	data := bytes.Repeat([]byte("ping"), 50_000)
	go func() {
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(br)
	if err != nil || string(got) != "hello"+string(data) {
		t.Errorf("got %d bytes back, %v; want %d", len(got), err, 5+len(data))
	}
	r.stop()
	if !strings.Contains(r.log.String(), " 101 ") {
		t.Errorf("access log has no 101: %s", r.log)
	}
}

func TestUnaskedUpgradeIsABadGateway(t *testing.T) {
	r, v := one(t, mesh.ProtocolHTTP, func(w http.ResponseWriter, req *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	})
	if got := r.raw(v, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("got %q", got)
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s-h2=%v", proto, h2), func(t *testing.T) {
				r, v := one(t, proto, func(w http.ResponseWriter, req *http.Request) {
					io.Copy(io.Discard, req.Body)
					w.Header().Set("Trailer", "x-sum")
					io.WriteString(w, "body")
					w.Header().Set("x-sum", "got-"+req.Trailer.Get("x-req"))
				})
				req, _ := http.NewRequest("POST", "http://web/", struct{ io.Reader }{strings.NewReader("data")})
				req.Trailer = http.Header{"X-Req": {"1"}}
				resp, err := r.client(v, h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				if err != nil || string(b) != "body" || resp.Trailer.Get("x-sum") != "got-1" {
					t.Errorf("body %q trailer %v, %v", b, resp.Trailer, err)
				}
			})
		}
	}
}

func TestStreamingIsNotBuffered(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		step := make(chan struct{})
		r, v := one(t, mesh.ProtocolSniff, func(w http.ResponseWriter, req *http.Request) {
			for i := range 3 {
				fmt.Fprintf(w, "%d\n", i)
				http.NewResponseController(w).Flush()
				<-step
			}
		})
		resp, err := r.client(v, h2).Get("http://web/")
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := br.ReadString('\n')
			if err != nil || line != fmt.Sprintf("%d\n", i) {
				t.Fatalf("h2=%v line %d: %q, %v", h2, i, line, err)
			}
			step <- struct{}{}
		}
	}
}

func TestExpectContinue(t *testing.T) {
	r, v := one(t, mesh.ProtocolHTTP, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%d", len(b))
	})
	c := r.conn(v)
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	br := bufio.NewReader(c)
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q, %v; want 100 Continue", line, err)
	}
	br.ReadString('\n')
	fmt.Fprint(c, "data")
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
}

func TestClientThatLeavesCancelsTheEndpoint(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		gone := make(chan struct{})
		came := make(chan struct{})
		r, v := one(t, mesh.ProtocolSniff, func(w http.ResponseWriter, req *http.Request) {
			close(came)
			<-req.Context().Done()
			close(gone)
		})
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
		done := make(chan struct{})
		go func() {
			r.client(v, h2).Do(req)
			close(done)
		}()
		<-came
		cancel()
		<-done
		select {
		case <-gone:
		case <-t.Context().Done():
			t.Fatalf("h2=%v: the endpoint was not told", h2)
		}
		r.stop()
		if !strings.Contains(r.log.String(), " DC ") {
			t.Errorf("h2=%v: access log has no DC: %q", h2, r.log)
		}
	}
}

func TestAbortedResponseIsSeenAsSuch(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		r, v := one(t, mesh.ProtocolSniff, func(w http.ResponseWriter, req *http.Request) {
			io.WriteString(w, "part")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := r.client(v, h2).Get("http://web/")
		if err != nil {
			t.Fatalf("h2=%v: %v", h2, err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("h2=%v: a broken response looked complete: %q", h2, b)
		}
	}
}

func TestUnreachableEndpointIsSkipped(t *testing.T) {
	var v, dead *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		good := r.endpoint("good", named("good"), false)
		bad := *good
		bad.UID, bad.Name, bad.Addresses = "Kubernetes//Pod/app/bad", "bad", []netip.Addr{r.address()}
		bad.Services = map[mesh.ServiceKey]map[uint16]uint16{}
		refusing := r.node("refusing", "127.0.0.1:1")
		v = r.service("web", 80, mesh.ProtocolHTTP, good, &bad, refusing)
		dead = r.service("dead", 80, mesh.ProtocolHTTP, &bad, refusing)
		return mesh.Parts{Workloads: []*mesh.Workload{good, &bad, refusing}, Services: []*mesh.Service{v, dead}}
	})
	c := r.client(v, false)
	for i := range 50 {
		resp, err := c.Post("http://web/", "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || !strings.HasSuffix(string(b), " 4") {
			t.Fatalf("request %d: %d %q", i, resp.StatusCode, b)
		}
	}
	status, body, _ := get(t, r.client(dead, true), "http://dead/")
	if status != 503 || !strings.Contains(body, "connection failure") {
		t.Errorf("without a working endpoint: %d %q", status, body)
	}
	r.stop()
	if !strings.Contains(r.log.String(), " UF,URX ") {
		t.Error("access log has no UF,URX")
	}
}

// A client that does not read must stop the endpoint, not fill our memory.
func TestSlowReaderStopsTheEndpoint(t *testing.T) {
	size := 64 << 20
	if raceDetector {
		size = 8 << 20
	}
	for _, h2 := range []bool{false, true} {
		r, v := one(t, mesh.ProtocolSniff, func(w http.ResponseWriter, req *http.Request) {
			chunk := make([]byte, 64<<10)
			for range size / len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})
		var before, after runtime.MemStats
		collect()
		runtime.ReadMemStats(&before)
		var bodies []*http.Response
		for range 8 {
			resp, err := r.client(v, h2).Get("http://web/")
			if err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, resp)
		}
		settle(t, func() uint64 { return uint64(r.proxy.o.Budget.Used()) })
		collect()
		runtime.ReadMemStats(&after)
		// Client, waypoint and endpoint are all in this process, and net/http's
		// HTTP/2 client alone takes 4 MiB per stream.
		limit := int64(8 * 4 << 20)
		if h2 {
			limit += 8 * 4 << 20
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > limit {
			t.Errorf("h2=%v: heap grew by %d MiB for 8 responses that nobody reads", h2, grown>>20)
		}
		for _, resp := range bodies {
			n, err := io.Copy(io.Discard, resp.Body)
			if err != nil || n != int64(size) {
				t.Errorf("h2=%v: reading on gave %d bytes, %v", h2, n, err)
			}
			resp.Body.Close()
		}
		if used := r.proxy.o.Budget.Used(); used != 0 {
			t.Errorf("h2=%v: %d bytes still counted as waiting", h2, used)
		}
	}
}

// collect frees what nobody uses. Pools let go of theirs at the second time.
func collect() {
	runtime.GC()
	runtime.GC()
}

// settle waits until f stops changing.
func settle(t *testing.T, f func() uint64) {
	t.Helper()
	last, same := f(), 0
	for range 200 {
		timer := time.NewTimer(20 * time.Millisecond)
		<-timer.C
		if v := f(); v == last {
			if same++; same == 10 {
				return
			}
		} else {
			last, same = v, 0
		}
	}
}

func TestHostileHTTP2InsideTheTunnel(t *testing.T) {
	r, v := one(t, mesh.ProtocolHTTP2, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, "ok") })
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, in := range map[string]string{
		"garbage":           preface + strings.Repeat("\xff", 64<<10),
		"data-on-idle":      preface + "\x00\x00\x01\x00\x01\x00\x00\x00\x01x",
		"bad-hpack":         preface + "\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff",
		"endless-header":    preface + "\x00\x40\x00\x01\x00\x00\x00\x00\x01" + strings.Repeat("\x00", 16384) + strings.Repeat("\x00\x40\x00\x09\x00\x00\x00\x00\x01"+strings.Repeat("\x00", 16384), 20),
		"ping-flood":        preface + strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh", 5000),
		"window-of-nothing": preface + "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		c := r.conn(v)
		go io.WriteString(c, in)
		b, err := io.ReadAll(c)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Contains(b, []byte{0, 0, 0, 0}) || len(b) < 20 {
			t.Errorf("%s: no GOAWAY in %d bytes", name, len(b))
		}
	}
	if status, _, _ := get(t, r.client(v, true), "http://web/"); status != 200 {
		t.Errorf("after the hostile ones: %d", status)
	}
}

func TestDrainFinishesWhatIsUnderWay(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		came, release := make(chan struct{}), make(chan struct{})
		r, v := one(t, mesh.ProtocolSniff, func(w http.ResponseWriter, req *http.Request) {
			close(came)
			<-release
			io.WriteString(w, "done")
		})
		got := make(chan string, 1)
		go func() {
			_, body, _ := get(t, r.client(v, h2), "http://web/")
			got <- body
		}()
		<-came
		stopped := make(chan struct{})
		go func() { r.stop(); close(stopped) }()
		for !r.proxy.draining.Load() {
			runtime.Gosched()
		}
		close(release)
		if body := <-got; body != "done" {
			t.Errorf("h2=%v: got %q while draining", h2, body)
		}
		<-stopped
	}
}

func TestDrainDoesNotWaitForIdleClients(t *testing.T) {
	r, v := one(t, mesh.ProtocolHTTP, func(w http.ResponseWriter, req *http.Request) { io.WriteString(w, "ok") })
	c := r.conn(v)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	silent := r.conn(v)
	r.proxy.o.DrainTimeout = time.Minute
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	if b, err := br.ReadByte(); err != io.EOF {
		t.Errorf("read %v, %v from an idle connection that drains; want its end", b, err)
	}
	if n, err := silent.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from a connection that was never used", n)
	}
	c.Close()
	silent.Close()
	<-stopped
}
