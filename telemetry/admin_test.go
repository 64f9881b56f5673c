package telemetry

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// serve runs s on a free port and returns its URL.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return "http://" + s.Addr().String()
}

// ask makes one request; edit may change it.
func ask(t *testing.T, method, url string, edit func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(req)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func TestAdmin(t *testing.T) {
	var level slog.LevelVar
	var quits atomic.Int32
	var ready Readiness
	s, err := NewAdmin(AdminOptions{
		Addr:    "127.0.0.1:0",
		Config:  func() any { return map[string]any{"b": 1, "a": []string{"x"}} },
		Level:   &level,
		Quit:    func() { quits.Add(1) },
		Ready:   &ready,
		Metrics: NewMetrics("proxy", "dev"),
		Pages: []Page{{"/certs", "certificates", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			write(w, "none\n")
		})}},
	})
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, s)
	tests := []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/", 200, "/config_dump"},
		{"GET", "/nothing", 404, ""},
		{"POST", "/", 405, "use GET or HEAD"},
		{"GET", "/config_dump", 200, "{\n  \"a\": [\n    \"x\"\n  ],\n  \"b\": 1\n}\n"},
		{"GET", "/logging", 405, "use POST"},
		{"POST", "/logging", 200, "current log level is info\n"},
		{"POST", "/logging?level=debug", 200, "current log level is debug\n"},
		{"POST", "/logging?level=trace", 200, "current log level is trace\n"},
		{"POST", "/logging?level=loud", 400, "Invalid level provided: \"loud\"\nusage"},
		{"POST", "/logging?level=", 400, "Invalid level"},
		{"POST", "/logging", 200, "current log level is trace\n"},
		{"POST", "/logging?reset", 200, "current log level is info\n"},
		{"GET", "/quitquitquit", 405, ""},
		{"POST", "/quitquitquit", 200, "shutdown now\n"},
		{"GET", "/healthz/ready", 200, "ready\n"},
		{"GET", "/stats/prometheus", 200, "istio_build{"},
		{"GET", "/certs", 200, "none\n"},
		{"GET", "/debug/pprof/", 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
		{"GET", "/debug/pprof/profile?seconds=1", 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.method+strings.ReplaceAll(tt.path, "/", "-"), func(t *testing.T) {
			status, body, _ := ask(t, tt.method, url+tt.path, nil)
			if status != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("%d %.300q; want %d with %q", status, body, tt.status, tt.want)
			}
		})
	}
	if quits.Load() != 1 {
		t.Errorf("quit %d times", quits.Load())
	}
}

// TestAdminGuards: web pages in a browser here cannot use it.
func TestAdminGuards(t *testing.T) {
	quit := func() { t.Error("a stranger stopped the proxy") }
	s, err := NewAdmin(AdminOptions{Addr: "127.0.0.1:0", Quit: quit, Config: func() any { return 1 }})
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, s)
	for name, edit := range map[string]func(*http.Request){
		"cross-site":  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"origin":      func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"rebound":     func(r *http.Request) { r.Host = "evil.example" },
		"rebound-all": func(r *http.Request) { r.Host = "127.0.0.1.evil.example:15000" },
	} {
		t.Run(name, func(t *testing.T) {
			if status, body, _ := ask(t, "POST", url+"/quitquitquit", edit); status != 403 {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	for _, host := range []string{"localhost", "localhost:15000", "10.1.2.3:15000", "[::1]:15000", "[::1]"} {
		if status, body, _ := ask(t, "GET", url+"/config_dump", func(r *http.Request) { r.Host = host }); status != 200 {
			t.Errorf("host %s: %d %s", host, status, body)
		}
	}
}

func TestAdminAddress(t *testing.T) {
	for addr, ok := range map[string]bool{
		"": true, "127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true,
		":15000": false, "0.0.0.0:15000": false, "10.0.0.1:1": false, "[::]:1": false, "example.com:1": false, "127.0.0.1": false,
	} {
		if _, err := NewAdmin(AdminOptions{Addr: addr}); (err == nil) != ok {
			t.Errorf("NewAdmin(%q) = %v; want ok %v", addr, err, ok)
		}
	}
}

func TestConfigThatCannotBeWritten(t *testing.T) {
	s, err := NewAdmin(AdminOptions{Addr: "127.0.0.1:0", Config: func() any { return func() {} }})
	if err != nil {
		t.Fatal(err)
	}
	if status, body, _ := ask(t, "GET", serve(t, s)+"/config_dump", nil); status != 500 || !strings.Contains(body, "unsupported type") {
		t.Errorf("%d %q", status, body)
	}
}

func TestMetricsServer(t *testing.T) {
	m := NewMetrics("ztunnel", "dev")
	url := serve(t, NewMetricsServer("127.0.0.1:0", "--metrics", m, nil, nil))
	for _, path := range []string{"/metrics", "/stats/prometheus"} {
		status, body, h := ask(t, "GET", url+path, func(r *http.Request) { r.Header.Set("Accept", "application/openmetrics-text") })
		if status != 200 || !strings.HasSuffix(body, "# EOF\n") || !strings.HasPrefix(h.Get("Content-Type"), "application/openmetrics-text") {
			t.Errorf("%s: %d %s", path, status, h)
		}
	}
	if status, _, _ := ask(t, "GET", url+"/", nil); status != 404 {
		t.Errorf("/: %d", status)
	}
	if status, body, _ := ask(t, "GET", url+"/healthz/ready", nil); status != 200 || body != "ready\n" {
		t.Errorf("/healthz/ready: %d %q", status, body)
	}
}

func TestReadyServer(t *testing.T) {
	var ready Readiness
	proxy, state1, state2 := ready.Pending("proxy"), ready.Pending("state manager"), ready.Pending("state manager")
	url := serve(t, NewReadyServer("127.0.0.1:0", "", &ready, nil)) + "/healthz/ready"
	check := func(status int, want string) {
		t.Helper()
		if s, body, _ := ask(t, "GET", url, nil); s != status || body != want {
			t.Errorf("%d %q; want %d %q", s, body, status, want)
		}
	}
	check(500, "not ready, pending: proxy, state manager\n")
	state1()
	state1()
	check(500, "not ready, pending: proxy, state manager\n")
	state2()
	check(500, "not ready, pending: proxy\n")
	proxy()
	check(200, "ready\n")
	back := ready.Pending("draining")
	check(500, "not ready, pending: draining\n")
	back()
	check(200, "ready\n")
	if s, _, h := ask(t, "POST", url, nil); s != 405 || h.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", s, h)
	}
	if s, _, _ := ask(t, "GET", url+"/x", nil); s != 404 {
		t.Errorf("another path: %d", s)
	}
}

func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	err = NewReadyServer(addr, "--ready", new(Readiness), nil).Run(t.Context())
	want := fmt.Sprintf("readiness server: port %s is already in use; choose another address with --ready", addr)
	if err == nil || err.Error() != want {
		t.Errorf("Run = %v; want %s", err, want)
	}
}

// TestServerLimits: slow and large headers end, and shutdown waits for nobody
// for long.
func TestServerLimits(t *testing.T) {
	s := NewReadyServer("127.0.0.1:0", "", new(Readiness), nil)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	dial := func(first string) net.Conn {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	slow := dial("GET /healthz/ready HTTP/1.1\r\n")
	defer slow.Close()
	large := dial("GET /healthz/ready HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n")
	defer large.Close()
	if line, err := bufio.NewReader(large).ReadString('\n'); err != nil || !strings.Contains(line, "431") {
		t.Errorf("large header: %q, %v", line, err)
	}
	// net/http hangs up on a slow header, with or without a 408.
	if text, err := io.ReadAll(slow); err != nil || strings.Contains(string(text), "200") {
		t.Errorf("slow header: %q, %v", text, err)
	}
	idle := dial("")
	defer idle.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestLevelsRoundTrip(t *testing.T) {
	for _, name := range []string{"trace", "debug", "info", "warn", "error"} {
		l, err := parseLevel(strings.ToUpper(name))
		if err != nil || levelName(l) != name {
			t.Errorf("%s became %v, %v", name, l, err)
		}
	}
}
