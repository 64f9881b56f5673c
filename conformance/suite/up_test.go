package suite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/peers"

	_ "embed"
)

//go:embed testdata/up.yaml
var upManifests string

// TestUp sends other programs' traffic through a mesh that `cairn up` runs:
//
//	client ─► node proxy ══► waypoint ══► node proxy ─► cairn sample echo
func TestUp(t *testing.T) {
	dir := t.TempDir()
	folder, err := cairn.WriteManifests(dir, upManifests)
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := cairn.Up(t.Context(), dir, folder, "--range", loopback.Wide().String())
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, "cairn up", mesh.Process)
	host, port, err := mesh.URL("demo", "echo", "http")
	if err != nil {
		t.Fatal(err)
	}
	_, grpcPort, err := mesh.URL("demo", "echo", "grpc")
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	client := ""
	for _, p := range mesh.Pods {
		if p.Name == "client" {
			client = p.Address
		}
	}
	if client == "" {
		t.Fatalf("the ready event names no pod client: %+v", mesh.Pods)
	}
	t.Run("curl", func(t *testing.T) { testCurl(t, dir, addr, client) })
	t.Run("nghttp", func(t *testing.T) {
		out := program(t, "nghttp", "--null-out", "--verbose", "--no-dep", "--multiply=20", "http://"+addr+"/nghttp")
		if n := strings.Count(out, ":status: 200"); n != 20 {
			t.Errorf("%d answers of 20:\n%s", n, out)
		}
	})
	t.Run("grpc", func(t *testing.T) { testGRPC(t, net.JoinHostPort(host, strconv.Itoa(int(grpcPort)))) })
	t.Run("bulk", func(t *testing.T) { testBulk(t, addr) })
	t.Run("h2load", func(t *testing.T) { testH2load(t, addr) })
	t.Run("h2spec", func(t *testing.T) { testH2spec(t, host, port, "/h2spec") })
	if err := mesh.Process.Err(); err != nil {
		t.Error(err)
	}
}

// program runs a client that must succeed, and returns what it printed.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := peers.Program(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// echoed is what cairn sample echo says of a request.
type echoed struct {
	Pod       string              `json:"pod"`
	Namespace string              `json:"namespace"`
	Method    string              `json:"method"`
	Path      string              `json:"path"`
	Host      string              `json:"host"`
	Proto     string              `json:"proto"`
	Headers   map[string][]string `json:"headers"`
	Body      int64               `json:"body_bytes"`
}

func testCurl(t *testing.T, dir, addr, client string) {
	file := filepath.Join(dir, "upload")
	const size = 8 << 20
	if err := os.WriteFile(file, patternBytes(size), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		args []string
		body int64
	}{
		{"get", nil, 0},
		{"post", []string{"--data", "hello"}, 5},
		{"upload", []string{"--data-binary", "@" + file}, size},
		{"put", []string{"--upload-file", file}, size},
		{"chunked", []string{"--data-binary", "@" + file, "--header", "Transfer-Encoding: chunked"}, size},
		{"expect", []string{"--data-binary", "@" + file, "--header", "Expect: 100-continue", "--expect100-timeout", "5"}, size},
	} {
		for _, proto := range []string{"--http1.1", "--http2-prior-knowledge"} {
			if test.name == "chunked" && proto != "--http1.1" {
				continue // HTTP/2 has no transfer codings
			}
			t.Run(test.name+strings.TrimSuffix(proto, "-prior-knowledge"), func(t *testing.T) {
				args := append([]string{"--silent", "--show-error", "--fail", "--max-time", "30", proto}, test.args...)
				out := program(t, "curl", append(args, "http://"+addr+"/curl?x=1")...)
				var e echoed
				if err := json.Unmarshal([]byte(out), &e); err != nil {
					t.Fatalf("%q: %v", out, err)
				}
				if e.Path != "/curl?x=1" || e.Body != test.body || e.Namespace != "demo" || e.Host != addr {
					t.Errorf("arrived as %+v, want a body of %d bytes", e, test.body)
				}
			})
		}
	}
	for _, test := range []struct{ name, method, path, from, want string }{
		{"status", "GET", "/status/418", "", "418"},
		{"denied-method", "DELETE", "/", "", "403"},
		{"denied-path", "GET", "/private", "", "403"},
		{"allowed-identity", "GET", "/private", client, "200"},
		{"denied-for-all", "DELETE", "/private", client, "403"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"--silent", "--show-error", "--max-time", "30", "--output", os.DevNull, "--write-out", "%{http_code}", "--request", test.method}
			if test.from != "" {
				args = append(args, "--interface", test.from)
			}
			if got := program(t, "curl", append(args, "http://"+addr+test.path)...); got != test.want {
				t.Errorf("status %s, want %s", got, test.want)
			}
		})
	}
	t.Run("trailers", func(t *testing.T) {
		out := program(t, "curl", "--silent", "--show-error", "--raw", "--max-time", "30", "--header", "TE: trailers", "http://"+addr+"/x?trailers=1")
		if !strings.Contains(strings.ToLower(out), "\r\nx-body-bytes: 0\r\n") {
			t.Errorf("no trailer in %q", out)
		}
	})
	t.Run("websocket", func(t *testing.T) {
		path, err := peers.Program(t.Context(), "curl")
		if err != nil {
			t.Fatal(err)
		}
		// curl sees 101 and stays until its time is over, which is exit code 28.
		out, err := exec.CommandContext(t.Context(), path, "--silent", "--include", "--no-buffer", "--max-time", "2",
			"--header", "Connection: Upgrade", "--header", "Upgrade: websocket", "--header", "Sec-WebSocket-Version: 13",
			"--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "http://"+addr+"/ws").CombinedOutput()
		if !strings.HasPrefix(string(out), "HTTP/1.1 101 ") || !strings.Contains(strings.ToLower(string(out)), "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=") {
			t.Errorf("%v: %q", err, out)
		}
	})
	t.Run("websocket-frames", func(t *testing.T) { testWebSocket(t, addr) })
}

// testWebSocket sends a masked text frame and expects it back.
func testWebSocket(t *testing.T, addr string) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", addr)
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("%q: %v", head, err)
		}
	}
	// RFC 6455 section 5.7: a masked "Hello", which comes back unmasked.
	if _, err := conn.Write([]byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 7)
	for n := 0; n < len(got); {
		m, err := conn.Read(got[n:])
		if err != nil {
			t.Fatalf("%q: %v", got[:n], err)
		}
		n += m
	}
	if string(got) != "\x81\x05Hello" {
		t.Errorf("%q came back", got)
	}
}

// testBulk uploads much, one after the other over few connections: not one may
// fail.
func testBulk(t *testing.T, addr string) {
	const size = 8 << 20
	body := patternBytes(size)
	for _, h2 := range []bool{false, true} {
		c := newCaller(t, addr, h2)
		for i := range 150 {
			resp, text, err := c.do("POST", "/bulk", bytes.NewReader(body))
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("upload %d, HTTP/2 %v: %v %q", i, h2, err, text)
			}
			var e echoed
			if err := json.Unmarshal(text, &e); err != nil || e.Body != size {
				t.Fatalf("upload %d, HTTP/2 %v: %d bytes arrived (%v)", i, h2, e.Body, err)
			}
		}
	}
}

// testH2load sends many requests: none may fail.
func testH2load(t *testing.T, addr string) {
	summary := regexp.MustCompile(`requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	for _, test := range []struct {
		name string
		n    int
		args []string
	}{
		{"http2", 100000, []string{"--clients=10", "--max-concurrent-streams=32"}},
		{"http1", 20000, []string{"--clients=32", "--h1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := program(t, "h2load", append(test.args, "--requests="+strconv.Itoa(test.n), "http://"+addr+"/bytes/128")...)
			m := summary.FindStringSubmatch(out)
			if m == nil || m[1] != strconv.Itoa(test.n) || m[2] != m[1] || m[3]+m[4]+m[5] != "000" {
				t.Fatalf("not every request succeeded:\n%s", out)
			}
			if !strings.Contains(out, fmt.Sprintf("status codes: %d 2xx", test.n)) {
				t.Errorf("not every status is 2xx:\n%s", out)
			}
		})
	}
}
