package echo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	xws "golang.org/x/net/websocket"

	"cairnproxy.dev/cairn/sample/pod"
)

func newPod(t *testing.T) *pod.Pod {
	t.Helper()
	p, err := pod.New(pod.Options{Name: "echo-1", Namespace: "shop", Version: "v9"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start serves an echo server and returns its address and how to end it; the
// test ends it otherwise.
func start(t *testing.T) (addr string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	p := newPod(t)
	go func() {
		ended <- p.Serve(ctx, pod.ServeOptions{
			Listen:  "127.0.0.1:0",
			Handler: New(p),
			Ready:   func(a []net.Addr) { ready <- a[0].String() },
		})
	}()
	var once bool
	stop = func() {
		if once {
			return
		}
		once = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	}
	t.Cleanup(stop)
	return <-ready, stop
}

// clients are the two protocols that a server must answer alike.
func clients(t *testing.T) map[string]*http.Client {
	t.Helper()
	h1, h2 := &http.Transport{}, &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(func() { h1.CloseIdleConnections(); h2.CloseIdleConnections() })
	return map[string]*http.Client{"HTTP/1.1": {Transport: h1}, "HTTP/2.0": {Transport: h2}}
}

// response is a response that has been read.
type response struct {
	status          int
	header, trailer http.Header
	length          int64 // as announced
	body            []byte
}

// do sends a request and reads the response.
func do(t *testing.T, c *http.Client, req *http.Request) response {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header, resp.Trailer, resp.ContentLength, b}
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestReport(t *testing.T) {
	addr, _ := start(t)
	for proto, c := range clients(t) {
		t.Run(proto, func(t *testing.T) {
			for _, method := range []string{"GET", "POST", "DELETE", "PATCH", "OPTIONS", "QUERY"} {
				req := request(t, method, "http://"+addr+"/some//odd/../path?a=1&a=2", strings.NewReader("0123456789"))
				req.Host = "shop.test"
				req.Header = http.Header{"X-Twice": {"a", "b"}, "User-Agent": {"test"}, "Accept-Encoding": {"identity"}}
				resp := do(t, c, req)
				var got Report
				if err := json.Unmarshal(resp.body, &got); err != nil {
					t.Fatalf("%s answered %q: %v", method, resp.body, err)
				}
				if !strings.HasPrefix(got.Remote, "127.0.0.1:") {
					t.Errorf("remote %q", got.Remote)
				}
				got.Remote = ""
				want := Report{
					Pod: "echo-1", Namespace: "shop", Version: "v9", Method: method, Path: "/some//odd/../path?a=1&a=2", Host: "shop.test",
					Proto: proto, BodyBytes: 10,
					Headers: map[string][]string{"X-Twice": {"a", "b"}, "User-Agent": {"test"}, "Accept-Encoding": {"identity"}, "Content-Length": {"10"}},
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", method, diff)
				}
				if resp.status != http.StatusOK || resp.header.Get("Content-Type") != "application/json" || resp.length != int64(len(resp.body)) {
					t.Errorf("%s answered %d, %v", method, resp.status, resp.header)
				}
			}
		})
	}
}

// zeros is a body of n bytes that nobody holds in memory.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.n)
	z.n -= n
	return int(n), nil
}

// TestLargeBody counts a body that comes without a length, with trailers behind it.
func TestLargeBody(t *testing.T) {
	addr, _ := start(t)
	const size = 64 << 20
	for proto, c := range clients(t) {
		t.Run(proto, func(t *testing.T) {
			req := request(t, "POST", "http://"+addr+"/", io.MultiReader(&zeros{size}))
			req.Trailer = http.Header{"X-Sum": {"none"}}
			var got Report
			if err := json.Unmarshal(do(t, c, req).body, &got); err != nil {
				t.Fatal(err)
			}
			if got.BodyBytes != size || cmp.Diff(got.Trailers, map[string][]string{"X-Sum": {"none"}}) != "" {
				t.Errorf("%d bytes and trailers %v were seen, want %d", got.BodyBytes, got.Trailers, size)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	addr, _ := start(t)
	tests := []struct {
		name, method, path string
		status             int
		contains           string
	}{
		{"status", "GET", "/status/503", 503, `"path": "/status/503"`},
		{"status-404", "POST", "/status/404", 404, `"method": "POST"`},
		{"status-204", "GET", "/status/204", 204, ""},
		{"status-304", "GET", "/status/304", 304, ""},
		{"status-low", "GET", "/status/199", 400, "not a status"},
		{"status-high", "GET", "/status/600", 400, "not a status"},
		{"status-word", "GET", "/status/x", 400, "not a status"},
		{"status-more", "GET", "/status/500/x", 200, `"pod"`},
		{"delay", "GET", "/delay/1ms", 200, `"pod"`},
		{"delay-seconds", "GET", "/delay/0.001", 200, `"pod"`},
		{"delay-negative", "GET", "/delay/-1s", 400, "not a duration"},
		{"delay-long", "GET", "/delay/24h", 400, "not a duration"},
		{"bytes", "GET", "/bytes/10", 200, "0123456789"},
		{"bytes-none", "GET", "/bytes/0", 200, ""},
		{"bytes-head", "HEAD", "/bytes/1000000000", 200, ""},
		{"bytes-negative", "GET", "/bytes/-1", 400, "not a number"},
		{"stream", "GET", "/stream/2/0", 200, `{"id":1,"of":2,"pod":"echo-1","namespace":"shop"}`},
		{"stream-none", "GET", "/stream/0/1s", 200, ""},
		{"stream-count", "GET", "/stream/x/1s", 400, "not a number"},
		{"stream-interval", "GET", "/stream/1/x", 400, "not a duration"},
		{"flaky-zero", "GET", "/flaky/0/0/500", 400, "/flaky/FAILURES/OF/CODE"},
		{"flaky-more", "GET", "/flaky/3/2/500", 400, "/flaky/FAILURES/OF/CODE"},
		{"flaky-code", "GET", "/flaky/1/2/1000", 400, "/flaky/FAILURES/OF/CODE"},
		{"ws-plain", "GET", "/ws", 426, "WebSocket"},
		{"options", "OPTIONS", "/", 200, `"method": "OPTIONS"`},
		{"not-grpc", "POST", "/cairn.sample.v1.Echo/Unary", 200, `"pod"`},
	}
	for proto, c := range clients(t) {
		t.Run(proto, func(t *testing.T) {
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					resp := do(t, c, request(t, tt.method, "http://"+addr+tt.path, nil))
					if resp.status != tt.status || !strings.Contains(string(resp.body), tt.contains) || (tt.contains == "" && len(resp.body) > 0) {
						t.Errorf("answered %d %q, want %d with %q", resp.status, resp.body, tt.status, tt.contains)
					}
				})
			}
		})
	}
}

func TestBytes(t *testing.T) {
	addr, _ := start(t)
	const n = 1<<20 + 17
	for proto, c := range clients(t) {
		t.Run(proto, func(t *testing.T) {
			resp := do(t, c, request(t, "GET", fmt.Sprintf("http://%s/bytes/%d", addr, n), nil))
			if len(resp.body) != n || resp.length != n {
				t.Errorf("%d bytes of %d announced, want %d", len(resp.body), resp.length, n)
			}
		})
	}
}

// TestTrailers asks every kind of answer for trailers.
func TestTrailers(t *testing.T) {
	addr, _ := start(t)
	for proto, c := range clients(t) {
		t.Run(proto, func(t *testing.T) {
			for _, path := range []string{"/", "/bytes/100", "/stream/2/0", "/status/500"} {
				resp := do(t, c, request(t, "POST", "http://"+addr+path+"?trailers=1", strings.NewReader("12345")))
				want := http.Header{"X-Body-Bytes": {"5"}, "X-Pod": {"echo-1"}}
				if diff := cmp.Diff(want, resp.trailer); diff != "" {
					t.Errorf("%s: trailers (-want +got):\n%s", path, diff)
				}
			}
		})
	}
}

// TestStreamFlushes reads each line before the next can have been sent.
func TestStreamFlushes(t *testing.T) {
	addr, _ := start(t)
	for proto, c := range clients(t) {
		t.Run(proto, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req := request(t, "GET", "http://"+addr+"/stream/2/10m", nil).WithContext(ctx)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if l, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.HasPrefix(l, `{"id":0,`) {
				t.Errorf("first line %q, %v", l, err)
			}
		})
	}
}

func TestFlaky(t *testing.T) {
	addr, _ := start(t)
	c := clients(t)["HTTP/1.1"]
	get := func(path string) int {
		return do(t, c, request(t, "GET", "http://"+addr+path, nil)).status
	}
	var got []int
	for range 7 {
		got = append(got, get("/flaky/2/3/503"))
	}
	if diff := cmp.Diff([]int{503, 503, 200, 503, 503, 200, 503}, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if got := get("/flaky/2/3/503?key=other"); got != 503 {
		t.Errorf("another key answered %d, want a sequence of its own, from 503", got)
	}
}

// TestFlakyBounded stops counting new paths, and goes on with the known.
func TestFlakyBounded(t *testing.T) {
	var f flaky
	for i := range maxFlaky {
		if _, ok := f.next(fmt.Sprint(i), 2); !ok {
			t.Fatalf("path %d is not counted", i)
		}
	}
	if _, ok := f.next("one more", 2); ok {
		t.Error("paths are counted without bound")
	}
	if n, ok := f.next("0", 2); n != 1 || !ok {
		t.Errorf("a known path counts %d, %v; want 1, true", n, ok)
	}
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if err := pause(t.Context(), 250*time.Millisecond); err != nil || time.Since(begin) != 250*time.Millisecond {
			t.Errorf("pause took %s, %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := pause(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("pause returned %v beyond the deadline", err)
		}
	})
}

// TestWebSocket echoes, and is told when the server goes away.
func TestWebSocket(t *testing.T) {
	addr, stop := start(t)
	c, err := xws.Dial("ws://"+addr+"/ws", "", "http://origin.test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got string
	if err := xws.Message.Send(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := xws.Message.Receive(c, &got); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	if err := xws.Message.Receive(c, &got); !errors.Is(err, io.EOF) {
		t.Errorf("when the server ends: %v, want EOF", err)
	}
	c.Close()
	<-stopped
}

// TestAbortedBody makes sure that a request which breaks off is not answered as if it were whole.
func TestAbortedBody(t *testing.T) {
	addr, _ := start(t)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusBadRequest || !bytes.Contains(b, []byte("reading the request's body")) {
		t.Errorf("answered %d %q, want 400", resp.StatusCode, b)
	}
}

// TestFail: an outage holds for its time, on every path but the one that ends it.
func TestFail(t *testing.T) {
	srv := httptest.NewServer(New(newPod(t)))
	defer srv.Close()
	get := func(path string) int {
		t.Helper()
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, tt := range []struct {
		path string
		want int
	}{
		{"/x", 200},
		{"/fail/503/5m", 200},
		{"/x", 503},
		{"/status/204", 503},
		{"/fail/503/0s", 200},
		{"/x", 200},
		{"/fail/99/1s", 400},
		{"/fail/503/-1s", 400},
		{"/x", 200},
	} {
		if got := get(tt.path); got != tt.want {
			t.Errorf("%s answers %d, want %d", tt.path, got, tt.want)
		}
	}
	resp, err := http.Get(srv.URL + "/count")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "5\n" || err != nil {
		t.Errorf("/count answers %q, %v; want the 5 requests beside /fail", b, err)
	}
}
