package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// startSample runs a sample on a port of its own and returns its address, and
// how to end it, which returns the exit code.
func startSample(t *testing.T, args ...string) (addr string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"sample", "--listen", "127.0.0.1:0"}, args...), io.Discard, w)
		w.Close()
	}()
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the sample ended with %d", <-code)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	m := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no address in %q", line)
	}
	return m[1], func() int { cancel(); return <-code }
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSampleEcho starts a sample that learns about itself from the environment
// and from a flag, which wins, and ends in order.
func TestSampleEcho(t *testing.T) {
	t.Setenv("CAIRN_POD_NAME", "from-env")
	t.Setenv("CAIRN_NAMESPACE", "from-env")
	addr, stop := startSample(t, "echo", "--pod-name", "from-flag")
	var got struct{ Pod, Namespace string }
	if err := json.Unmarshal([]byte(fetch(t, "http://"+addr)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Pod != "from-flag" || got.Namespace != "from-env" {
		t.Errorf("the sample says it is %+v", got)
	}
	if code := stop(); code != exitGood {
		t.Errorf("exit code %d after the context ended, want %d", code, exitGood)
	}
}

func TestSamples(t *testing.T) {
	tests := []struct {
		args       string
		path, want string
	}{
		{"httpbin", "/headers", `"Host": [`},
		{"httpbin --flat-headers", "/headers", `"Host": "`},
		{"bookinfo details --version v1", "/details/0", "Shakespeare"},
		{"bookinfo ratings", "/ratings/0", "Reviewer1"},
		{"bookinfo reviews --pod-name r-1", "/reviews/0", `"podname":"r-1"`},
		{"bookinfo productpage --timeout 1s", "/health", "healthy"},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.args, " ", "_"), func(t *testing.T) {
			addr, stop := startSample(t, strings.Fields(tt.args)...)
			if got := fetch(t, "http://"+addr+tt.path); !strings.Contains(got, tt.want) {
				t.Errorf("%s answered %q, want %q in it", tt.path, got, tt.want)
			}
			if code := stop(); code != exitGood {
				t.Errorf("exit code %d, want %d", code, exitGood)
			}
		})
	}
}

func TestSampleMistakes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name, args string
		code       int
		stderr     string
	}{
		{"service-missing", "bookinfo", exitUsage, "accepts 1 arg"},
		{"service-unknown", "bookinfo mongodb", exitUsage, "mongodb"},
		{"version-unknown", "bookinfo reviews --version v9", exitUsage, "v1, v2 and v3"},
		{"address", "echo --pod-ip nowhere", exitUsage, "nowhere"},
		{"ports", "echo --ports 127.0.0.1=80,x", exitGood, ""}, // a path: a file that may come later
		{"port-taken", "echo --listen " + taken.Addr().String(), exitFailed, "listening on"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if tt.code == exitGood {
				cancel()
			}
			defer cancel()
			var stderr bytes.Buffer
			args := append([]string{"sample", "--listen", "127.0.0.1:0"}, strings.Fields(tt.args)...)
			if code := run(ctx, args, io.Discard, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit code %d, stderr %q; want %d and %q", code, &stderr, tt.code, tt.stderr)
			}
		})
	}
}
