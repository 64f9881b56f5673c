package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/health"

	"cairnproxy.dev/cairn/conformance/node"
)

// app is what runs in a pod: HTTP/1.1 and h2c, gRPC, and a TCP echo.
type app struct {
	pod     *pod
	mu      sync.Mutex
	handler http.HandlerFunc            // nil: describe
	tcp     func(net.Conn)              // nil: echo
	call    func(context.Context) error // before each unary gRPC call
	health  []*health.Server
	seen    []seen
	count   atomic.Int64 // requests that have come
	local   int          // a port of localhost, outside
	sni     string       // of the last TLS connection, outside
	conns   atomic.Int64 // HTTP connections
	calls   atomic.Int64 // gRPC calls
}

// seen is a request as a pod saw it.
type seen struct {
	Pod, Method, Path, Host, Proto string
	Headers                        http.Header
	Trailers                       http.Header
	Body                           int64
	at                             time.Time
}

// serve starts the applications: on what the node proxies carry to them, and with
// plain on the ports of their address, too.
func (p *pod) serve(nodes *node.Server, plain bool) error {
	p.app.pod = p
	p.listeners = map[uint16]*node.Listener{}
	srv := &http.Server{Handler: &p.app, Protocols: new(http.Protocols), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			p.conns.Add(1)
		}
	}}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	for port, serve := range map[uint16]func(net.Listener){
		appHTTP: func(ln net.Listener) { srv.Serve(ln) },
		appGRPC: p.serveGRPC, officialGRPC: p.serveGRPC, appTCP: p.serveTCP, officialTCP: p.serveTCP,
	} {
		at := netip.AddrPortFrom(p.addr, port)
		p.listeners[port] = nodes.Listen(at)
		go serve(p.listeners[port])
		if !plain {
			continue
		}
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		go serve(ln) // until the program ends
	}
	if !p.outside {
		return nil
	}
	local, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return err
	}
	p.local = local.Addr().(*net.TCPAddr).Port
	go srv.Serve(local)
	ln, err := net.Listen("tcp", netip.AddrPortFrom(p.addr, appTLS).String())
	if err != nil {
		return err
	}
	secure := &http.Server{Handler: &p.app, TLSConfig: p.outsideTLS(), ErrorLog: log.New(io.Discard, "", 0)}
	go secure.ServeTLS(ln, "", "")
	return nil
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.count.Add(1)
	a.mu.Lock()
	h := a.handler
	a.seen = append(a.seen, seen{
		Pod: a.pod.name, Method: r.Method, Path: r.RequestURI, Host: r.Host, Proto: r.Proto, Headers: r.Header.Clone(), at: time.Now(),
	})
	a.mu.Unlock()
	w.Header().Set("X-Pod", a.pod.name)
	if h != nil {
		h(w, r)
		return
	}
	a.obey(w, r)
}

// obey answers as the request's header X-Do says, a list of words:
//
//	200            this status
//	after=100ms    wait before the head
//	slow=100ms     wait before the body's end
//	bytes=N        a body of N bytes
//	reset          reset the stream
//	close          close the connection
//	NAME=VALUE     a header of the response, if NAME has a capital letter
func (a *app) obey(w http.ResponseWriter, r *http.Request) {
	status, slow, size := http.StatusOK, time.Duration(0), int64(-1)
	for _, word := range strings.Fields(r.Header.Get("X-Do")) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "after":
			d, _ := time.ParseDuration(value)
			if !pause(r.Context(), d) {
				return
			}
		case key == "slow":
			slow, _ = time.ParseDuration(value)
		case key == "bytes":
			size, _ = strconv.ParseInt(value, 10, 64)
		case key == "reset" || key == "close":
			breakOff(w, key == "reset")
			return
		case strings.ToLower(key) != key:
			w.Header().Add(key, value)
		default:
			status, _ = strconv.Atoi(key)
		}
	}
	if size >= 0 {
		w.WriteHeader(status)
		io.CopyN(w, zeros{}, size)
		return
	}
	n, _ := io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if slow > 0 {
		http.NewResponseController(w).Flush()
		time.Sleep(slow)
	}
	json.NewEncoder(w).Encode(seen{
		Pod: a.pod.name, Method: r.Method, Path: r.RequestURI, Host: r.Host, Proto: r.Proto, Headers: r.Header, Trailers: r.Trailer, Body: n,
	})
}

// pause waits, and reports whether that was to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// breakOff ends the connection of a request without an answer.
func breakOff(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: RST_STREAM
	}
	if c, ok := conn.(*node.Conn); ok && reset {
		c.Reset()
		return
	}
	conn.Close()
}

// do sets what the pod answers.
func (a *app) do(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handler = h
}

// answer makes the pod answer with a status.
func (a *app) answer(status int) {
	a.do(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
}

// requests are what the pod has seen.
func (a *app) requests() []seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]seen(nil), a.seen...)
}

// serveTCP says the pod's name, sends back what comes, and then how much it was.
func (p *pod) serveTCP(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		handle := p.tcp
		p.mu.Unlock()
		go func() {
			defer c.Close()
			if handle != nil {
				handle(c)
				return
			}
			fmt.Fprintf(c, "%s\n", p.name)
			n, _ := io.Copy(c, c)
			fmt.Fprintf(c, "|%d", n)
		}()
	}
}
