package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// TestInterop sends each standard case of grpc-go's interoperability programs through the
// waypoint: client ─► node.Client ══► waypoint ══► node.Server ─► server.
func TestInterop(t *testing.T) {
	client, server, err := peers.GRPCInterop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := startInterop(t, server)
	cases := interopCases
	for i := range cases {
		test := strings.ReplaceAll(strings.TrimPrefix(cases[i].name, "interop-"), "-", "_")
		// The client of one case waits for its own timeouts, so each case has its server's
		// pod for itself; the server is one program.
		cases[i].mesh, cases[i].untold = []svc{{name: "echo"}, {name: "other", pods: none}}, true
		prove := func(service string) func(*trial) error {
			return func(x *trial) error {
				x.pod("echo-1").forward(x, appGRPC, at)
				front, err := x.front(service, portGRPC)
				if err != nil {
					return err
				}
				return askInterop(client, front, test)
			}
		}
		cases[i].prove, cases[i].wrong = prove("echo"), prove("other")
		if test == "timeout_on_sleeping_server" || test == "cancel_after_begin" {
			// These are over before a server can have been asked, with or without one. Their
			// twin is a case that is not, and shows that the client tells of a failure.
			cases[i].wrong = func(x *trial) error {
				front, err := x.front("other", portGRPC)
				if err != nil {
					return err
				}
				return askInterop(client, front, "empty_unary")
			}
		}
	}
	runGroup(t, "interop", cases)
}

// interopCases are the standard cases that need no credentials of a cloud.
var interopCases = []testCase{
	{name: "interop-empty-unary", of: "grpc-go interop: an empty request and response"},
	{name: "interop-large-unary", of: "grpc-go interop: a large request and response"},
	{name: "interop-client-streaming", of: "grpc-go interop: request streaming"},
	{name: "interop-server-streaming", of: "grpc-go interop: response streaming"},
	{name: "interop-ping-pong", of: "grpc-go interop: full-duplex streaming"},
	{name: "interop-empty-stream", of: "grpc-go interop: full-duplex streaming without messages"},
	{name: "interop-timeout-on-sleeping-server", of: "grpc-go interop: a deadline"},
	{name: "interop-cancel-after-begin", of: "grpc-go interop: cancelled before a message"},
	{name: "interop-cancel-after-first-response", of: "grpc-go interop: cancelled after a message"},
	{name: "interop-status-code-and-message", of: "grpc-go interop: a status and its message"},
	{name: "interop-special-status-message", of: "grpc-go interop: a message of all kinds of characters"},
	{name: "interop-custom-metadata", of: "grpc-go interop: metadata in heads and trailers"},
	{name: "interop-unimplemented-method", of: "grpc-go interop: a method that the server lacks"},
	{name: "interop-unimplemented-service", of: "grpc-go interop: a service that the server lacks"},
	{name: "interop-rpc-soak", of: "grpc-go interop: many calls over one connection"},
	{name: "interop-channel-soak", of: "grpc-go interop: many connections"},
	{name: "interop-orca-per-rpc", of: "grpc-go interop: load reports in trailers"},
	{name: "interop-orca-oob", of: "grpc-go interop: load reports by a stream of their own"},
}

// startInterop runs grpc-go's server.
func startInterop(t *testing.T, path string) netip.AddrPort {
	addr := netip.MustParseAddr("127.0.0.1")
	port, err := loopback.Port(addr)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proc.Start(proc.Options{Path: path, Args: []string{"-port", strconv.Itoa(int(port))}, Log: filepath.Join(t.TempDir(), "server.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(time.Second) }) // it has no way to end well
	at := netip.AddrPortFrom(addr, port)
	err = p.Await(t.Context(), func() error {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// askInterop runs one case of grpc-go's client.
func askInterop(path string, at netip.AddrPort, test string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	args := []string{"-server_host", at.Addr().String(), "-server_port", strconv.Itoa(int(at.Port())), "-test_case", test, "-soak_iterations", "20", "-soak_overall_timeout_seconds", "25", "-soak_per_iteration_max_acceptable_latency_ms", "10000"}
	if strings.HasPrefix(test, "orca") {
		args = append(args, "-service_config_json", `{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// A client that finds no server waits for it: the twin would take its time.
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", test, err, lastLines(string(out), 4))
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// front accepts plain connections on an address of its own, as a node proxy does for a
// program, and carries them to a service's port. It stays until the program ends.
func (x *trial) front(service string, port uint16) (netip.AddrPort, error) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(x.net.Next(), 0).String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go x.carry(c.(*net.TCPConn), service, port)
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort(), nil
}

func (x *trial) carry(c *net.TCPConn, service string, port uint16) {
	defer c.Close()
	d, err := x.open(service, port)
	if err != nil {
		return
	}
	defer d.Close()
	d.SetDeadline(time.Time{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := copyAll(d, c); err != nil {
			d.Reset()
		}
		d.CloseWrite()
	})
	if _, err := copyAll(c, d); err != nil {
		c.SetLinger(0)
	}
	c.CloseWrite()
	wg.Wait()
}

// TestPrograms has curl and nghttp ask through the waypoint.
func TestPrograms(t *testing.T) {
	for _, name := range []string{"curl", "nghttp", "h2load"} {
		if _, err := peers.Program(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	runGroup(t, "programs", programCases)
}

// runs proves that a program's output has texts; $URL is where the service is.
func runs(want []string, name string, args ...string) func(*trial) error {
	return func(x *trial) error {
		at, err := x.front("echo", portHTTP)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		args := slices.Clone(args)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "$URL", "http://"+at.String())
		}
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = os.TempDir()
		out, err := cmd.CombinedOutput()
		for _, s := range want {
			if !strings.Contains(strings.ToLower(string(out)), strings.ToLower(s)) {
				return wrongf("%s %q says (%v) %.300q, want %q", name, args, err, lastLines(string(out), 12), s)
			}
		}
		return nil
	}
}

var programCases = []testCase{
	{
		name: "curl-h1", of: "curl over HTTP/1.1 sees what a route does", yaml: filtered("{path: {value: /}}", "    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: set}]}}"),
		prove: runs([]string{"HTTP/1.1 200", "x-set: set"}, "curl", "--silent", "--show-error", "--include", "$URL/x"),
	},
	{
		name: "curl-h2", of: "curl over HTTP/2 by prior knowledge", yaml: filtered("{path: {value: /}}", "    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: set}]}}"),
		prove: runs([]string{"HTTP/2 200", "x-set: set"}, "curl", "--silent", "--show-error", "--include", "--http2-prior-knowledge", "$URL/x"),
	},
	{
		name: "curl-redirect", of: "curl understands where a redirect leads",
		yaml:  httpRoute("r", redirectRule("/old", "statusCode: 308, hostname: shop.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}")),
		prove: runs([]string{"to http://shop.example/new/a?q=1"}, "curl", "--silent", "--show-error", "--write-out", "%{http_code} to %{redirect_url}", "$URL/old/a?q=1"),
	},
	{
		name: "curl-upload", of: "curl uploads with Expect: 100-continue", untold: true,
		prove: runs([]string{`"Body":3000000`}, "curl", "--silent", "--show-error", "--header", "Expect: 100-continue", "--data-binary", "@"+zeroFile(3_000_000), "$URL/up"),
		wrong: runs([]string{`"Body":3000001`}, "curl", "--silent", "--show-error", "--header", "Expect: 100-continue", "--data-binary", "@"+zeroFile(3_000_000), "$URL/up"),
	},
	{
		name: "curl-retry-after", of: "curl sees the Retry-After of a limit", yaml: onService("rateLimit: {local: [{name: one, requests: 1, per: 1h, burst: 1}]}"), envoy: localLimit(1, nil),
		prove: runs([]string{"HTTP/1.1 429"}, "curl", "--silent", "--show-error", "--include", "$URL/1", "$URL/2"),
	},
	{
		name: "nghttp", of: "nghttp asks for several things at once", yaml: filtered("{path: {value: /}}", "    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: set}]}}"),
		prove: runs([]string{":status: 200", "x-set: set"}, "nghttp", "--verbose", "--no-dep", "$URL/1", "$URL/2", "$URL/3"),
	},
	{
		name: "nghttp-trailers", of: "nghttp sends trailers", mesh: []svc{{name: "echo", app: "kubernetes.io/h2c"}}, untold: true,
		prove: runs([]string{`"X-Sum":["5"]`}, "nghttp", "--data", zeroFile(5), "--trailer", "x-sum: 5", "$URL/up"),
		wrong: runs([]string{`"X-Sum":["6"]`}, "nghttp", "--data", zeroFile(5), "--trailer", "x-sum: 5", "$URL/up"),
	},
	{
		name: "h2load", of: "h2load: thousands of requests, none of which fails, under retries, timeouts and a breaker",
		yaml:  onService("retry: {attempts: 2, codes: [503]}\ntimeout: {request: 10s, backendRequest: 5s}\ncircuitBreaker: {maxRequests: 10000, maxConnections: 10000}\noutlierDetection: {consecutive5xxErrors: 5}"),
		twin:  onService("circuitBreaker: {maxRequests: 1}"),
		envoy: thresholds(obj{"max_requests": 10000, "max_connections": 10000, "max_pending_requests": 10000}), envoyTwin: thresholds(obj{"max_requests": 1}),
		prove: runs([]string{"5000 succeeded, 0 failed, 0 errored, 0 timeout"}, "h2load", "--requests=5000", "--clients=4", "--max-concurrent-streams=16", "$URL/x"),
	},
}

// zeroFile returns the path of a file of n bytes.
func zeroFile(n int) string {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("cairn-conformance-%d-bytes", n))
	if info, err := os.Stat(path); err != nil || info.Size() != int64(n) {
		if err := os.WriteFile(path, make([]byte, n), 0o644); err != nil {
			panic(err)
		}
	}
	return path
}
