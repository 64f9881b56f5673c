package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// proxy takes CONNECT streams and hands each to the server of the service
// port that it names.
type proxy struct {
	id      *identity
	servers map[string]*inner
	log     *log.Logger // nil: no access log
}

// inner is the HTTP server of one service port. Its connections are streams.
type inner struct{ conns chan net.Conn }

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	in := p.servers[r.Host]
	if r.Method != http.MethodConnect || in == nil {
		http.Error(w, "no such service", http.StatusBadRequest)
		return
	}
	s := &stream{in: r.Body, out: w, flush: http.NewResponseController(w).Flush, done: make(chan struct{}), peer: principal(r.TLS.PeerCertificates)}
	w.WriteHeader(http.StatusOK)
	if err := s.flush(); err != nil {
		return
	}
	in.conns <- s
	// The server must be done with the stream before its handler returns, or a
	// late write panics. That a client has left, it learns from its reads.
	<-s.done
}

// serve starts the server of a service port. It ends with the program.
func (p *proxy) serve(s service) *inner {
	in := &inner{conns: make(chan net.Conn)}
	srv := &http.Server{
		Handler: p.handler(s),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*stream).peer)
		},
	}
	go func() {
		if err := srv.Serve(in); err != nil {
			log.Printf("serving %s: %v", s.Addr, err)
		}
	}()
	return in
}

type peerKey struct{}

// handler asks the policy and the routes, passes the request on and logs it.
func (p *proxy) handler(s service) http.Handler {
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: s.Addr})
			r.Out.Host = r.In.Host
		},
		Transport: p.transport(s.Endpoints),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin, peer := time.Now(), r.Context().Value(peerKey{})
		status := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		switch {
		case s.Allow != nil && !(slices.Contains(s.Allow.Principals, peer.(string)) && slices.Contains(s.Allow.Methods, r.Method)):
			http.Error(status, "RBAC: access denied", http.StatusForbidden)
		case !matches(s.Prefixes, r.URL.Path):
			http.NotFound(status, r)
		default:
			forward.ServeHTTP(status, r)
		}
		if p.log != nil {
			p.log.Printf("%q %d %v %q %q", r.Method+" "+r.URL.Path, status.status, time.Since(begin), peer, r.UserAgent())
		}
	})
}

func matches(prefixes []string, path string) bool {
	return len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool {
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(p, "/"))
		return ok && (rest == "" || rest[0] == '/')
	})
}

// statusWriter remembers the status for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// transport keeps connections to the endpoints, each of which is a CONNECT
// stream to the endpoint's node proxy.
func (p *proxy) transport(endpoints []endpoint) http.RoundTripper {
	hbone := map[string]*http.Transport{}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	for _, e := range endpoints {
		hbone[e.Identity] = &http.Transport{TLSClientConfig: p.id.client(e.Identity), Protocols: &protocols}
	}
	next := 0
	var mu sync.Mutex
	return &http.Transport{
		MaxIdleConnsPerHost: 1 << 20,
		DialContext: func(_ context.Context, _, _ string) (net.Conn, error) {
			if len(endpoints) == 0 {
				return nil, errors.New("no endpoint")
			}
			mu.Lock()
			e := endpoints[next%len(endpoints)]
			next++
			mu.Unlock()
			return connect(hbone[e.Identity], e)
		},
	}
}

// connect opens a CONNECT stream. It outlives the request that needed it.
func connect(t *http.Transport, e endpoint) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(e.Addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", e.Addr, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	body, out := io.Pipe()
	req := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: netip.AddrPortFrom(addr.Addr(), 15008).String()},
		Host: e.Addr, Header: http.Header{}, Body: body, ContentLength: -1,
	}).WithContext(ctx)
	resp, err := t.RoundTrip(req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("connecting to %s: %w", e.Addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		cancel()
		resp.Body.Close()
		return nil, fmt.Errorf("connecting to %s: %s", e.Addr, resp.Status)
	}
	s := &stream{in: resp.Body, out: out, done: make(chan struct{})}
	context.AfterFunc(ctx, func() { out.Close() })
	go func() {
		<-s.done
		cancel()
	}()
	return s, nil
}
