package traffic

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestTimeouts(t *testing.T) { runGroup(t, "timeouts", timeoutCases) }

// late is a request to pods that answer after two seconds.
func late(a ask) func(*trial) error {
	return func(x *trial) error {
		always(x, 200, 2*time.Second)
		_, err := x.check(a)
		return err
	}
}

// cutOff proves that an answer whose body stalls is broken off in time.
func cutOff(doing string, within time.Duration) func(*trial) error {
	return func(x *trial) error {
		begin := time.Now()
		r, err := x.send(ask{headers: []string{"x-do", doing}})
		took := time.Since(begin)
		if err == nil {
			return wrongf("answered %d with %d bytes after %v", r.status, len(r.body), took.Round(time.Millisecond))
		}
		if took > within {
			return wrongf("broken off after %v, want %v at most", took, within)
		}
		return nil
	}
}

// flowing makes the pods of echo send a byte every 50 ms for a time.
func flowing(d time.Duration, then func(*trial) error) func(*trial) error {
	return func(x *trial) error {
		for _, p := range x.podsOf("echo") {
			p.do(func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
					if _, err := io.WriteString(w, "."); err != nil || rc.Flush() != nil {
						return
					}
				}
			})
		}
		return then(x)
	}
}

var timeoutCases = []testCase{
	{
		name: "timeout-route-request", of: "HTTPRoute timeouts.request (GEP-1742)",
		yaml:  httpRoute("r", "  - timeouts: {request: 300ms}\n    backendRefs: [{name: echo, port: 80}]"),
		prove: late(ask{status: 504, within: 1500 * time.Millisecond, least: 250 * time.Millisecond}),
	},
	{
		name: "timeout-route-backend", of: "HTTPRoute timeouts.backendRequest",
		yaml:  httpRoute("r", "  - timeouts: {backendRequest: 300ms}\n    backendRefs: [{name: echo, port: 80}]"),
		prove: late(ask{status: 504, within: 1500 * time.Millisecond, least: 250 * time.Millisecond}),
	},
	{
		name: "timeout-route-none", of: "HTTPRoute timeouts.request 0s is none, whatever the service's policy says",
		keep:  onService("timeout: {request: 300ms}"),
		yaml:  httpRoute("r", "  - timeouts: {request: 0s}\n    backendRefs: [{name: echo, port: 80}]"),
		prove: late(ask{least: 1900 * time.Millisecond}), envoyTwin: patch{route: obj{"timeout": "0.3s"}},
	},
	{
		name: "timeout-request", of: "TrafficPolicy timeout.request of a service",
		yaml: onService("timeout: {request: 300ms}"), prove: late(ask{status: 504, within: 1500 * time.Millisecond}), envoy: patch{route: obj{"timeout": "0.3s"}},
	},
	{
		name: "timeout-request-body", of: "the request's timeout is for the whole answer, to its last byte",
		yaml: onService("timeout: {request: 400ms}"), envoy: patch{route: obj{"timeout": "0.4s"}},
		prove: flowing(4*time.Second, cutOff("", 3*time.Second)),
	},
	{
		name: "timeout-connect", of: "timeout.connect of a pod whose node proxy does not answer",
		yaml: onService("timeout: {connect: 200ms}"),
		prove: func(x *trial) error {
			x.nodes.Hang(x.pod("echo-1").addr, true)
			_, err := x.check(ask{status: 503, timeout: 3 * time.Second})
			return err
		},
		alone: "its connect timeout is of the internal connection, which is there at once",
	},
	{
		name: "timeout-idle", of: "timeout.idle ends an exchange in which no byte moves",
		yaml: onService("timeout: {idle: 300ms}"), envoy: patch{route: obj{"idle_timeout": "0.3s"}},
		prove: cutOff("slow=4s", 3*time.Second),
	},
	{
		name: "timeout-idle-moving", of: "timeout.idle lets an exchange go on in which bytes move", untold: true,
		yaml: onService("timeout: {idle: 300ms}"), envoy: patch{route: obj{"idle_timeout": "0.3s"}},
		prove: flowing(time.Second, asks(ask{least: 900 * time.Millisecond})),
		wrong: asks(ask{headers: []string{"x-do", "slow=2s"}}),
	},
	{
		name: "timeout-stream", of: "timeout.maxStreamDuration ends a stream in which bytes move",
		yaml: onService("timeout: {maxStreamDuration: 500ms}"), envoy: patch{route: obj{"max_stream_duration": obj{"max_stream_duration": "0.5s"}}},
		prove: flowing(4*time.Second, cutOff("", 3*time.Second)),
	},
	{
		name: "timeout-connection-idle", of: "connection.idleTimeout closes a connection to an endpoint that nothing uses",
		yaml: onService("connection: {idleTimeout: 300ms}"),
		envoy: httpOptions(obj{
			"common_http_protocol_options": obj{"idle_timeout": "0.3s"}, "explicit_http_config": obj{"http_protocol_options": obj{}},
		}),
		prove: func(x *trial) error { return x.afterPause(2300*time.Millisecond, 2) },
	},
	{
		name: "max-requests-per-connection", of: "connection.maxRequestsPerConnection closes a connection after so many",
		yaml: onService("connection: {maxRequestsPerConnection: 2}"),
		envoy: httpOptions(obj{
			"common_http_protocol_options": obj{"max_requests_per_connection": 2}, "explicit_http_config": obj{"http_protocol_options": obj{}},
		}),
		prove: func(x *trial) error {
			if err := noneFails(6, ask{})(x); err != nil {
				return err
			}
			if n := x.pod("echo-1").conns.Load(); n != 3 {
				return wrongf("6 requests came over %d connections, want 3", n)
			}
			return nil
		},
	},
	{
		name: "timeout-grpc", of: "a client's grpc-timeout is honoured, and answered in gRPC's words", untold: true,
		mesh:  []svc{{name: "echo", app: "kubernetes.io/h2c"}},
		prove: grpcDeadline("grpc-timeout", "300m"), wrong: grpcDeadline("x-grpc-timeout", "300m"),
	},
	{
		name: "timeout-grpc-route", of: "a GRPC call that takes too long is answered DEADLINE_EXCEEDED",
		yaml: onService("timeout: {request: 300ms}"),
		// Where max_grpc_timeout is set, gRPC has no other timeout.
		envoy: patch{route: obj{"timeout": "0.3s"}, services: func(_ *trial, services []envoyService) []envoyService {
			for _, s := range services {
				for _, r := range s.Routes {
					delete(r.(obj)["route"].(obj), "max_grpc_timeout")
				}
			}
			return services
		}},
		mesh:  []svc{{name: "echo", app: "kubernetes.io/h2c"}},
		prove: grpcDeadline("x-none", "none"),
	},
	{
		name: "connection-http2", of: "connection.http2 speaks HTTP/2 to endpoints of an HTTP/1.1 port",
		yaml: onService("connection: {http2: true}"), prove: asks(ask{proto: "HTTP/2.0"}),
		envoy: httpOptions(obj{
			"explicit_http_config": obj{"http2_protocol_options": obj{}},
		}),
	},
}

// afterPause sends a request before and one after a pause and counts connections.
func (x *trial) afterPause(d time.Duration, conns int64) error {
	if err := noneFails(2, ask{})(x); err != nil {
		return err
	}
	time.Sleep(d)
	if err := noneFails(1, ask{})(x); err != nil {
		return err
	}
	if n := x.pod("echo-1").conns.Load(); n != conns {
		return wrongf("the requests came over %d connections, want %d", n, conns)
	}
	return nil
}

// grpcDeadline sends a gRPC request to a pod that answers after two seconds, with a
// field more. The client has no deadline of its own: what answers is the waypoint.
func grpcDeadline(name, value string) func(*trial) error {
	return func(x *trial) error {
		always(x, 200, 2*time.Second)
		r, err := x.send(ask{h2: true, method: "POST", path: "/a.B/C", body: "\x00\x00\x00\x00\x00", headers: []string{"content-type", "application/grpc", "te", "trailers", name, value}})
		if err != nil {
			return err
		}
		got, want := r.header.Get("grpc-status")+r.trailer.Get("grpc-status"), "4"
		if x.peer == "envoy" {
			want = "14" // to Envoy every 504 is UNAVAILABLE
		}
		if r.status != 200 || got != want || r.took > 1500*time.Millisecond {
			return wrongf("after %v answered %d with grpc-status %q, want 200 and %s", r.took.Round(time.Millisecond), r.status, got, want)
		}
		return nil
	}
}

// inFlight counts how many requests a pod has at a time, each for d.
func (p *pod) inFlight(d time.Duration) (most func() int) {
	now, top := 0, 0
	p.do(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		now++
		top = max(top, now)
		p.mu.Unlock()
		time.Sleep(d)
		p.mu.Lock()
		now--
		p.mu.Unlock()
		fmt.Fprintln(w, strings.Repeat(".", 10))
	})
	return func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return top
	}
}
