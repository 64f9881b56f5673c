package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// newShell returns a shell on free loopback ports, and what asks them.
func newShell(t *testing.T, log io.Writer) (sh *Shell, get func(port int, path string) (int, string)) {
	t.Helper()
	addrs := make([]string, 3)
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = ln.Addr().String()
		ln.Close()
	}
	sh = New(Options{Component: "proxy", Version: "v0", Admin: addrs[0], Metrics: addrs[1], Ready: addrs[2], AccessLog: log, AdminFlag: "--admin"})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return sh, func(port int, path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + addrs[port] + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
}

func TestRun(t *testing.T) {
	var log bytes.Buffer
	sh, get := newShell(t, &log)
	sh.Config = func() any { return map[string]string{"a": "b"} }
	ctx, cancel := context.WithCancel(t.Context())
	started, mayEnd := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var order []string
	note := func(s string) { mu.Lock(); order = append(order, s); mu.Unlock() }
	done := make(chan error)
	go func() {
		done <- sh.Run(ctx, func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			<-mayEnd
			sh.AccessLog.Line([]byte("last line\n"))
			note("proxy")
			return nil
		}, func(ctx context.Context) error {
			<-ctx.Done()
			note("support")
			return nil
		})
	}()
	<-started
	if code, _ := get(2, "/healthz/ready"); code != http.StatusInternalServerError {
		t.Errorf("readiness before Serving: %d, want 500", code)
	}
	sh.Serving()
	if code, _ := get(2, "/healthz/ready"); code != http.StatusOK {
		t.Errorf("readiness after Serving: %d, want 200", code)
	}
	if _, body := get(0, "/config_dump"); !strings.Contains(body, `"a": "b"`) {
		t.Errorf("config dump %q", body)
	}
	if _, body := get(1, "/stats/prometheus"); !strings.Contains(body, `tag="v0"`) {
		t.Errorf("metrics lack the version: %.200s", body)
	}
	cancel()
	for {
		if code, body := get(2, "/healthz/ready"); code != http.StatusOK {
			if !strings.Contains(body, "draining") {
				t.Errorf("while draining: %q", body)
			}
			break
		}
	}
	close(mayEnd)
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if got := fmt.Sprint(order); got != "[proxy support]" {
		t.Errorf("ended in order %s, want the proxy first", got)
	}
	if got := log.String(); got != "last line\n" {
		t.Errorf("access log %q", got)
	}
}

func TestRunFails(t *testing.T) {
	bad := errors.New("bad")
	until := func(ctx context.Context) error { <-ctx.Done(); return nil }
	tests := []struct {
		name           string
		proxy, support task
		want           string
	}{
		{"proxy", func(context.Context) error { return bad }, until, "bad"},
		{"support", until, func(context.Context) error { return bad }, "bad"},
		{"proxy ends", func(context.Context) error { return nil }, until, "by itself"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sh, _ := newShell(t, nil)
			if err := sh.Run(t.Context(), tt.proxy, tt.support); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestQuit(t *testing.T) {
	sh, _ := newShell(t, nil)
	started := make(chan struct{})
	done := make(chan error)
	go func() {
		done <- sh.Run(t.Context(), func(ctx context.Context) error { close(started); <-ctx.Done(); return nil })
	}()
	<-started
	resp, err := http.Post("http://"+sh.o.Admin+"/quitquitquit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestPortInUse(t *testing.T) {
	sh, _ := newShell(t, nil)
	ln, err := net.Listen("tcp", sh.o.Admin)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	err = sh.Run(t.Context(), func(context.Context) error { t.Error("the proxy was run"); return nil })
	if err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("Run = %v, want an error that names --admin", err)
	}
}
