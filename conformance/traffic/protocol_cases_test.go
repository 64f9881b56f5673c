package traffic

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestProtocols(t *testing.T) {
	runGroup(t, "protocols", slices.Concat(betweenCases, streamCases, upgradeCases))
}

// portCase proves in which protocol a pod is spoken to on a port that says so.
func portCase(name, of string, port svcPort, h2 bool, proto, not string) testCase {
	port.port, port.target = portHTTP, appHTTP
	return testCase{
		name: name, of: of, mesh: []svc{{name: "echo", ports: []svcPort{port}}}, untold: true,
		prove: asks(ask{h2: h2, proto: proto, method: "POST", body: "hello"}), wrong: asks(ask{h2: h2, proto: not}),
	}
}

// asTCP proves that a route has no say on a port that is TCP.
func asTCP(name, of string, port svcPort) testCase {
	port.port, port.target = portHTTP, appHTTP
	return testCase{
		name: name, of: of, mesh: []svc{{name: "echo", ports: []svcPort{port}}}, untold: true,
		keep:  filtered("{path: {value: /}}", "    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: set}]}}"),
		prove: asks(ask{want: []string{"-x-set"}}), wrong: asks(ask{want: []string{"x-set: set"}}),
	}
}

var betweenCases = []testCase{
	portCase("h1-to-h1", "HTTP/1.1 on both sides", svcPort{app: "http", name: "a"}, false, "HTTP/1.1", "HTTP/2.0"),
	portCase("h2-to-h1", "HTTP/2 from the client, HTTP/1.1 to the endpoint", svcPort{app: "http", name: "a"}, true, "HTTP/1.1", "HTTP/2.0"),
	portCase("h1-to-h2", "HTTP/1.1 from the client, appProtocol kubernetes.io/h2c to the endpoint", svcPort{app: "kubernetes.io/h2c", name: "a"}, false, "HTTP/2.0", "HTTP/1.1"),
	portCase("h2-to-h2", "HTTP/2 on both sides, by prior knowledge", svcPort{app: "kubernetes.io/h2c", name: "a"}, true, "HTTP/2.0", "HTTP/1.1"),
	portCase("app-http2", "appProtocol http2", svcPort{app: "http2", name: "a"}, false, "HTTP/2.0", "HTTP/1.1"),
	portCase("app-grpc", "appProtocol grpc", svcPort{app: "grpc", name: "a"}, true, "HTTP/2.0", "HTTP/1.1"),
	portCase("app-ws", "appProtocol kubernetes.io/ws", svcPort{app: "kubernetes.io/ws", name: "a"}, false, "HTTP/1.1", "HTTP/2.0"),
	portCase("name-http2", "a port's name that begins with http2-", svcPort{name: "http2-web"}, false, "HTTP/2.0", "HTTP/1.1"),
	portCase("name-grpc", "a port's name that begins with grpc-", svcPort{name: "grpc-api"}, true, "HTTP/2.0", "HTTP/1.1"),
	portCase("name-http", "a port's name that begins with http-", svcPort{name: "http-web"}, false, "HTTP/1.1", "HTTP/2.0"),
	portCase("app-before-name", "appProtocol goes before the port's name", svcPort{name: "http2-web", app: "http"}, false, "HTTP/1.1", "HTTP/2.0"),
	asTCP("app-tcp", "appProtocol tcp: bytes, whatever they are", svcPort{name: "a", app: "tcp"}),
	asTCP("name-tcp", "a port's name that begins with tcp-", svcPort{name: "tcp-raw"}),
	{
		name: "undeclared", of: "a port that says nothing is looked at: HTTP is found", mesh: []svc{{name: "echo", ports: []svcPort{{name: "web", port: 80, target: appHTTP}}}},
		yaml:  filtered("{path: {value: /}}", "    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: set}]}}"),
		prove: asks(ask{want: []string{"x-set: set"}}, ask{h2: true, want: []string{"x-set: set"}}), alone: "istiod's waypoints take such a port for TCP",
	},
	{
		name: "headers-hop", of: "hop-by-hop fields are not passed on, and others are as they were", untold: true,
		prove: asks(ask{headers: []string{"X-Case", "a b", "Keep-Alive", "timeout=5", "Te", "deflate"}, seen: []string{"x-case: a b", "-keep-alive", "-te"}}),
		wrong: asks(ask{headers: []string{"X-Case", "a b"}, seen: []string{"x-case: a  b"}}),
	},
}

// raw sends bytes over a connection and returns a reader of what comes back.
func (x *trial) raw(text string) (io.Closer, *bufio.Reader, error) {
	conn, err := x.open("echo", portHTTP)
	if err != nil {
		return nil, nil, err
	}
	_, err = io.WriteString(conn, text)
	return conn, bufio.NewReader(conn), err
}

var streamCases = []testCase{
	{
		name: "sse", of: "server-sent events come as they are sent", untold: true,
		prove: events(100*time.Millisecond, 80), wrong: events(time.Millisecond, 500),
	},
	{
		name: "trailers-h2", of: "trailers both ways over HTTP/2", mesh: []svc{{name: "echo", app: "kubernetes.io/h2c"}}, untold: true,
		prove: trailers(true, "X-Sum"), wrong: trailers(true, "X-Other"),
	},
	{
		name: "trailers-h1", of: "trailers both ways over HTTP/1.1, in chunks", untold: true,
		prove: trailers(false, "X-Sum"), wrong: trailers(false, "X-Other"), alone: "as istiod configures it, it drops the trailers of HTTP/1.1",
	},
	{
		name: "continue", of: "100-continue comes before the body is sent", untold: true,
		prove: expectContinue(200), wrong: expectContinue(417),
	},
	{
		name: "early-response", of: "an answer may come before the request's end", untold: true,
		prove: early(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Connection", "close")
			w.WriteHeader(413)
		}),
		wrong: early(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); w.WriteHeader(413) }),
	},
	{
		name: "no-body", of: "HEAD, 204 and 304 have no body", untold: true,
		prove: func(x *trial) error {
			x.pod("echo-1").do(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/204":
					w.WriteHeader(204)
				case "/304":
					w.Header().Set("Etag", `"x"`)
					w.WriteHeader(304)
				default:
					w.Header().Set("Content-Length", "1000")
				}
			})
			return asks(ask{path: "/204", status: 204}, ask{path: "/304", status: 304, want: []string{`etag: "x"`}}, ask{method: "HEAD", want: []string{"content-length: 1000"}},
				ask{path: "/204", status: 204, h2: true}, ask{method: "HEAD", h2: true, want: []string{"content-length: 1000"}})(x)
		},
		wrong: asks(ask{path: "/204", status: 204}),
	},
	{
		name: "large-bodies", of: "large bodies go through whole, both ways and in both protocols", untold: true,
		prove: large(24<<20, 0), wrong: large(1<<20, 1),
	},
	{
		name: "pipelining", of: "requests that are sent together are answered in order", untold: true,
		prove: func(x *trial) error {
			c, br, err := x.raw("GET /1 HTTP/1.1\r\nHost: a\r\nX-Do: after=200ms\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			if err != nil {
				return err
			}
			defer c.Close()
			text, err := io.ReadAll(br)
			a, b, d := bytes.Index(text, []byte(`"/1"`)), bytes.Index(text, []byte(`"/2"`)), bytes.Index(text, []byte(`"/3"`))
			if a < 0 || b < a || d < b { // Envoy resets what it has closed
				return wrongf("answered %.300q (%v)", text, err)
			}
			return nil
		},
		wrong: func(x *trial) error {
			c, br, err := x.raw("GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
			if err != nil {
				return err
			}
			defer c.Close()
			text, err := io.ReadAll(br)
			if err != nil || !bytes.Contains(text, []byte(`"/2"`)) {
				return wrongf("what follows Connection: close is not answered")
			}
			return nil
		},
	},
	{
		name: "smuggling", of: "a request that can be read in two ways is refused", untold: true,
		prove: refuses("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
		wrong: refuses("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"),
	},
}

// refuses sends bytes and proves that the answer is an error.
func refuses(text string) func(*trial) error {
	return func(x *trial) error {
		c, br, err := x.raw(text)
		if err != nil {
			return err
		}
		defer c.Close()
		resp, err := http.ReadResponse(br, nil)
		if err == nil && resp.StatusCode < 400 {
			return wrongf("answered %s", resp.Status)
		}
		return nil
	}
}

// events sends five events with pauses and proves that they come one by one: the first
// at least some milliseconds before the last.
func events(pause time.Duration, least int) func(*trial) error {
	return func(x *trial) error {
		x.pod("echo-1").do(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 5 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				http.NewResponseController(w).Flush()
				time.Sleep(pause)
			}
		})
		tr := x.transport(ask{})
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest("GET", "http://echo/", nil)
		if err != nil {
			return err
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var at []time.Time
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			if strings.HasPrefix(s.Text(), "data:") {
				at = append(at, time.Now())
			}
		}
		if len(at) != 5 || at[4].Sub(at[0]) < time.Duration(least)*4*time.Millisecond {
			return wrongf("%d events came in %v", len(at), at[len(at)-1].Sub(at[0]))
		}
		return nil
	}
}

// trailers sends a trailer and expects one.
func trailers(h2 bool, want string) func(*trial) error {
	return func(x *trial) error {
		var got http.Header
		x.pod("echo-1").do(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			got = r.Trailer.Clone()
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "4")
		})
		tr := x.transport(ask{h2: h2})
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest("POST", "http://echo/", struct{ io.Reader }{strings.NewReader("hello")})
		if err != nil {
			return err
		}
		req.Trailer = http.Header{"X-Sum": {"5"}}
		req.Header.Set("TE", "trailers")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		if got.Get(want) != "5" || resp.Trailer.Get(want) != "4" {
			return wrongf("the pod saw trailers %v, the client %v", got, resp.Trailer)
		}
		return nil
	}
}

// expectContinue lets the pod answer before or after it has asked for the body.
func expectContinue(status int) func(*trial) error {
	return func(x *trial) error {
		x.pod("echo-1").do(func(w http.ResponseWriter, r *http.Request) {
			if status == 200 {
				io.Copy(io.Discard, r.Body)
			}
			w.WriteHeader(status)
		})
		tr := x.transport(ask{})
		tr.ExpectContinueTimeout = 3 * time.Second
		defer tr.CloseIdleConnections()
		continued := false
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
		req, err := http.NewRequestWithContext(ctx, "POST", "http://echo/", strings.NewReader(strings.Repeat("x", 100_000)))
		if err != nil {
			return err
		}
		req.Header.Set("Expect", "100-continue")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || !continued {
			return wrongf("answered %s, continued: %v", resp.Status, continued)
		}
		return nil
	}
}

// early sends a request whose body does not end and expects the answer.
func early(h http.HandlerFunc) func(*trial) error {
	return func(x *trial) error {
		x.pod("echo-1").do(h)
		c, br, err := x.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome")
		if err != nil {
			return err
		}
		defer c.Close()
		c.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(3 * time.Second))
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != 413 {
			return wrongf("answered %s", resp.Status)
		}
		return nil
	}
}

// large sends and takes bodies of n bytes, and compares lengths with what is
// expected, which is n and more.
func large(n int64, more int64) func(*trial) error {
	return func(x *trial) error {
		for _, h2 := range []bool{false, true} {
			r, err := x.send(ask{h2: h2, headers: []string{"x-do", fmt.Sprintf("bytes=%d", n)}})
			if err != nil {
				return err
			}
			if int64(len(r.body)) != n+more {
				return wrongf("%d bytes came of %d", len(r.body), n+more)
			}
			if r, err = x.send(ask{h2: h2, method: "POST", body: strings.Repeat("x", int(n))}); err != nil {
				return err
			}
			if r.seen.Body != n+more {
				return wrongf("%d bytes arrived of %d", r.seen.Body, n+more)
			}
		}
		return nil
	}
}

// extended lets Envoy take extended CONNECT from clients inside the tunnel, and send it to
// endpoints that speak HTTP/2.
var extended = patch{port: portHTTP, manager: obj{"http2_protocol_options": obj{"allow_connect": true}}}

var upgradeCases = []testCase{
	{
		name: "websocket", of: "WebSocket over HTTP/1.1, by a library on both sides", untold: true,
		prove: websockets("/ws", false), wrong: websockets("/plain", false),
	},
	{
		name: "websocket-app", of: "WebSocket on a port with appProtocol kubernetes.io/ws", mesh: []svc{{name: "echo", app: "kubernetes.io/ws"}}, untold: true,
		prove: websockets("/ws", false), wrong: websockets("/plain", false),
	},
	{
		name: "websocket-large", of: "WebSocket messages of a megabyte, and thousands of small ones", untold: true,
		prove: websockets("/ws", true), wrong: websockets("/plain", true),
	},
	{
		name: "websocket-idle", of: "a WebSocket in which nothing moves is ended by timeout.idle", yaml: onService("timeout: {idle: 400ms}"),
		envoy: patch{route: obj{"idle_timeout": "0.4s"}}, prove: websocketEnds(3 * time.Second),
	},
	{
		name: "websocket-duration", of: "a WebSocket is ended by timeout.maxStreamDuration", yaml: onService("timeout: {maxStreamDuration: 600ms}"),
		envoy: patch{route: obj{"max_stream_duration": obj{"max_stream_duration": "0.6s"}}}, prove: websocketEnds(3 * time.Second),
	},
	{
		name: "connect-to-h1", of: "extended CONNECT (RFC 8441) from the client, an HTTP/1.1 upgrade to the endpoint", untold: true, envoy: extended,
		prove: extendedConnect("/ws", "hello"), wrong: extendedConnect("/plain", "hello"),
	},
	{
		name: "connect-to-h2", of: "extended CONNECT on both sides", mesh: []svc{{name: "echo", app: "kubernetes.io/h2c"}}, untold: true, envoy: extended,
		prove: extendedConnect("/ws", "hello"), wrong: extendedConnect("/plain", "hello"),
	},
	{
		name: "upgrade-to-h2", of: "an HTTP/1.1 upgrade from the client, extended CONNECT to the endpoint", mesh: []svc{{name: "echo", app: "kubernetes.io/h2c"}}, untold: true,
		prove: upgradeTo("/ws"), wrong: upgradeTo("/plain"),
	},
	{
		name: "upgrade-refused", of: "an endpoint may answer an upgrade as an ordinary request", untold: true,
		prove: func(x *trial) error {
			c, br, err := x.raw("GET /plain HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			if err != nil {
				return err
			}
			defer c.Close()
			resp, err := http.ReadResponse(br, nil)
			if err != nil || resp.StatusCode != 200 {
				return wrongf("answered %v (%v)", resp, err)
			}
			return nil
		},
		wrong: upgradeTo("/plain"),
	},
	{
		name: "upgrade-h2c", of: "an offer to upgrade to h2c is not taken up, and the request answered", untold: true,
		prove: func(x *trial) error {
			c, br, err := x.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
			if err != nil {
				return err
			}
			defer c.Close()
			resp, err := http.ReadResponse(br, nil)
			if err != nil || resp.StatusCode != 200 {
				return wrongf("answered %v (%v)", resp, err)
			}
			return nil
		},
		wrong: upgradeTo("/plain"), alone: "it refuses such a request with 403",
	},
}

// extendedConnect opens a WebSocket stream by RFC 8441 and expects bytes back.
func extendedConnect(path, text string) func(*trial) error {
	return func(x *trial) error {
		x.pod("echo-1").do(echoStream)
		// net/http takes no field that is called :protocol.
		tr := http.RoundTripper(&http2.Transport{AllowHTTP: true, DialTLSContext: dialHTTP2(x)}) //nolint:staticcheck // see above
		defer tr.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		pr, pw := io.Pipe()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "CONNECT", "http://echo"+path, pr)
		if err != nil {
			return err
		}
		req.Header[":protocol"] = []string{"websocket"}
		req.Header.Set("Sec-WebSocket-Version", "13")
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return wrongf("answered %s", resp.Status)
		}
		go io.WriteString(pw, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != text {
			return wrongf("%q came back (%v)", got, err)
		}
		return pw.Close()
	}
}
