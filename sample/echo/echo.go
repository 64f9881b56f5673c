package echo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/sample/pod"
	"cairnproxy.dev/cairn/sample/websocket"
)

const (
	// maxDelay bounds /delay and the interval of /stream.
	maxDelay = 10 * time.Minute
	// maxFlaky bounds how many /flaky sequences are remembered.
	maxFlaky = 4096
)

// Report is the JSON that describes a request as it arrived. Its shape is that
// of the echo server of Gateway API's conformance suite, as far as they share fields.
type Report struct {
	Pod       string `json:"pod"`
	Namespace string `json:"namespace"`
	Version   string `json:"version,omitempty"`
	Method    string `json:"method"`
	// Path is the request target as it was sent, with its query.
	Path string `json:"path"`
	// Host is the Host header, or :authority.
	Host string `json:"host"`
	// Proto is "HTTP/1.1" or "HTTP/2.0".
	Proto string `json:"proto"`
	// Headers holds the values of each header under its canonical name
	// ("X-Request-Id"), in the order they came.
	Headers map[string][]string `json:"headers"`
	// BodyBytes is the length of the request's body.
	BodyBytes int64 `json:"body_bytes"`
	// Trailers holds the request's trailers, like Headers.
	Trailers map[string][]string `json:"trailers,omitempty"`
	// Remote is the address that the connection came from.
	Remote string `json:"remote"`
}

// Server is the echo server of one pod, an http.Handler. Build it with New.
type Server struct {
	pod   *pod.Pod
	flaky flaky
	fails atomic.Pointer[outage] // nil: none
	count atomic.Int64           // requests, as /count tells

	sockets *websocket.Endpoint

	ending context.Context // done once the server drains
	end    context.CancelFunc
}

// New returns the echo server of p. It answers HTTP/1.1 and HTTP/2; serve it
// without TLS and with HTTP/2 enabled (pod.Serve) for gRPC.
func New(p *pod.Pod) *Server {
	s := &Server{pod: p, sockets: websocket.NewEndpoint()}
	s.ending, s.end = context.WithCancel(context.Background())
	return s
}

// ServeHTTP answers one request. There is no ServeMux: it would redirect paths
// that it cleans, and an echo shows them as they came.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isGRPC(r) {
		s.serveGRPC(w, r)
		return
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch name, args := path[0], path[1:]; {
	case name == "fail" && len(args) == 2:
		s.fail(w, r, args[0], args[1])
		return
	case name == "count" && len(args) == 0:
		fmt.Fprintln(w, s.count.Load())
		return
	}
	s.count.Add(1)
	switch name, args := path[0], path[1:]; {
	case s.failing() != 0:
		s.answer(w, r, s.failing())
	case name == "status" && len(args) == 1:
		s.status(w, r, args[0])
	case name == "delay" && len(args) == 1:
		s.delay(w, r, args[0])
	case name == "bytes" && len(args) == 1:
		s.bytes(w, r, args[0])
	case name == "stream" && len(args) == 2:
		s.stream(w, r, args[0], args[1])
	case name == "flaky" && len(args) == 3:
		s.flakily(w, r, args[0], args[1], args[2])
	case name == "ws" && len(args) == 0:
		s.sockets.ServeHTTP(w, r)
	default:
		s.answer(w, r, http.StatusOK)
	}
}

// Drain ends WebSockets and open-ended gRPC streams: clients are told that the
// server goes away. It returns when the WebSockets have ended or ctx is done.
func (s *Server) Drain(ctx context.Context) {
	s.end()
	s.sockets.Drain(ctx)
}

// answer reads the body to its end and answers the Report with status.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int) {
	rep, err := s.report(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body = append(body, '\n')
	trailers := s.announceTrailers(w, r)
	h := w.Header()
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h.Set("Content-Type", "application/json")
		if !trailers { // a body with trailers is chunked in HTTP/1.1
			h.Set("Content-Length", strconv.Itoa(len(body)))
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone away has nobody to tell
	if trailers {
		s.setTrailers(w, rep.BodyBytes)
	}
}

// report reads the body of r to its end and describes r.
func (s *Server) report(r *http.Request) (*Report, error) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the request's body: %w", err)
	}
	return &Report{
		Pod:       s.pod.Name(),
		Namespace: s.pod.Namespace(),
		Version:   s.pod.Version(),
		Method:    r.Method,
		Path:      r.RequestURI,
		Host:      r.Host,
		Proto:     r.Proto,
		Headers:   r.Header,
		BodyBytes: n,
		Trailers:  r.Trailer,
		Remote:    r.RemoteAddr,
	}, nil
}

func (s *Server) announceTrailers(w http.ResponseWriter, r *http.Request) bool {
	if on, _ := strconv.ParseBool(r.URL.Query().Get("trailers")); !on {
		return false
	}
	w.Header().Set("Trailer", "X-Body-Bytes, X-Pod")
	return true
}

func (s *Server) setTrailers(w http.ResponseWriter, bodyBytes int64) {
	w.Header().Set("X-Body-Bytes", strconv.FormatInt(bodyBytes, 10))
	w.Header().Set("X-Pod", s.pod.Name())
}

func (s *Server) status(w http.ResponseWriter, r *http.Request, arg string) {
	code, err := parseCode(arg)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.answer(w, r, code)
}

func (s *Server) delay(w http.ResponseWriter, r *http.Request, arg string) {
	d, err := parseDelay(arg)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if pause(r.Context(), d) != nil {
		return
	}
	s.answer(w, r, http.StatusOK)
}

// filler is what /bytes sends, over and over.
var filler = func() (p [32 << 10]byte) {
	for i := range p {
		p[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n"[i%64]
	}
	return p
}()

func (s *Server) bytes(w http.ResponseWriter, r *http.Request, arg string) {
	n, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || n < 0 {
		http.Error(w, fmt.Sprintf("%q is not a number of bytes", arg), http.StatusBadRequest)
		return
	}
	got, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	trailers := s.announceTrailers(w, r)
	w.Header().Set("Content-Type", "application/octet-stream")
	if !trailers {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	for n > 0 {
		k, err := w.Write(filler[:min(n, int64(len(filler)))])
		if err != nil {
			return
		}
		n -= int64(k)
	}
	if trailers {
		s.setTrailers(w, got)
	}
}

// line is one line of /stream.
type line struct {
	ID        int    `json:"id"`
	Of        int    `json:"of"`
	Pod       string `json:"pod"`
	Namespace string `json:"namespace"`
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request, lines, each string) {
	n, err := strconv.Atoi(lines)
	interval, delayErr := parseDelay(each)
	switch {
	case err != nil || n < 0:
		http.Error(w, fmt.Sprintf("%q is not a number of lines", lines), http.StatusBadRequest)
		return
	case delayErr != nil:
		http.Error(w, delayErr.Error(), http.StatusBadRequest)
		return
	}
	got, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	trailers := s.announceTrailers(w, r)
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, rc := json.NewEncoder(w), http.NewResponseController(w)
	for i := range n {
		if i > 0 && pause(r.Context(), interval) != nil {
			return
		}
		if enc.Encode(line{i, n, s.pod.Name(), s.pod.Namespace()}) != nil || rc.Flush() != nil {
			return
		}
	}
	if trailers {
		s.setTrailers(w, got)
	}
}

func (s *Server) flakily(w http.ResponseWriter, r *http.Request, failing, each, status string) {
	failures, err1 := strconv.ParseUint(failing, 10, 32)
	of, err2 := strconv.ParseUint(each, 10, 32)
	code, err3 := parseCode(status)
	if err := errors.Join(err1, err2, err3); err != nil || of == 0 || failures > of {
		http.Error(w, "the path is /flaky/FAILURES/OF/CODE, with at most OF failures", http.StatusBadRequest)
		return
	}
	n, ok := s.flaky.next(r.RequestURI, of)
	switch {
	case !ok:
		http.Error(w, fmt.Sprintf("%d different /flaky paths were asked for; no more are counted", maxFlaky), http.StatusTooManyRequests)
	case n < failures:
		s.answer(w, r, code)
	default:
		s.answer(w, r, http.StatusOK)
	}
}

// outage is a time in which every request fails.
type outage struct {
	code  int
	until time.Time
}

// fail begins an outage, or ends it.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, status, duration string) {
	code, err1 := parseCode(status)
	d, err2 := parseDelay(duration)
	if err := errors.Join(err1, err2); err != nil {
		http.Error(w, "the path is /fail/CODE/DURATION: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.fails.Store(&outage{code, time.Now().Add(d)})
	s.answer(w, r, http.StatusOK)
}

// failing returns the status of the outage, or 0.
func (s *Server) failing() int {
	if o := s.fails.Load(); o != nil && time.Now().Before(o.until) {
		return o.code
	}
	return 0
}

// flaky counts the requests to each /flaky path.
type flaky struct {
	mu    sync.Mutex
	count map[string]uint64
}

// next returns which of its `of` requests this one to key is, from 0; and
// false when too many keys are counted.
func (f *flaky) next(key string, of uint64) (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, known := f.count[key]
	if !known && len(f.count) >= maxFlaky {
		return 0, false
	}
	if f.count == nil {
		f.count = make(map[string]uint64)
	}
	f.count[key] = (n + 1) % of
	return n, true
}

func parseCode(s string) (int, error) {
	code, err := strconv.Atoi(s)
	if err != nil || code < 200 || code > 599 {
		return 0, fmt.Errorf("%q is not a status between 200 and 599", s)
	}
	return code, nil
}

// parseDelay reads a Go duration, or a number of seconds.
func parseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		d, err = time.ParseDuration(s + "s")
	}
	if err != nil || d < 0 || d > maxDelay {
		return 0, fmt.Errorf("%q is not a duration such as 250ms, of at most %s", s, maxDelay)
	}
	return d, nil
}

// pause waits for d, or until ctx is done and returns its error.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
