package h2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

// server is a small HTTP server on Conn over TCP: it sends back what it gets,
// or "size" bytes for a GET of /size.
type server struct {
	t    *testing.T
	ln   net.Listener
	o    Options
	wg   sync.WaitGroup
	mu   sync.Mutex
	live map[*loop.Socket]struct{}
}

func newServer(t *testing.T, o Options) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, ln: ln, o: o, live: map[*loop.Socket]struct{}{}}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for sock := range s.live {
			sock.Abort()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		sock, err := loop.New(c.(*net.TCPConn))
		if err != nil {
			continue
		}
		s.mu.Lock()
		s.live[sock] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() {
			var conn *Conn
			loop.Run(func(t *loop.Turn) { conn = New(t, sock, s, s.o) })
			sock.Start(conn)
			_ = sock.Serve(conn, false)
			s.mu.Lock()
			delete(s.live, sock)
			s.mu.Unlock()
		})
	}
}

// Closed implements Handler.
func (s *server) Closed(*loop.Turn, error) {}

// Open implements Handler.
func (s *server) Open(t *loop.Turn, st *Stream, h *Head) {
	x := &serving{length: -1}
	st.Handle(x)
	if h.TooLarge {
		st.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "431"}}, true)
		st.StopReading(t)
		return
	}
	if !x.parse(h) {
		st.Reset(t, ProtocolError)
		return
	}
	st.WriteHeaders(t, status200, false)
	if x.method != "GET" {
		if h.End {
			st.Write(t, nil, true)
		}
		return
	}
	n, _ := strconv.Atoi(strings.TrimPrefix(x.path, "/"))
	st.Write(t, bytes.Repeat([]byte("x"), max(n, 1000)), true)
}

// serving is one request.
type serving struct {
	method, path string
	length, got  int64
	owed         int
	mu           sync.Mutex
}

// parse checks a request as RFC 9113 section 8 has it.
func (x *serving) parse(h *Head) bool {
	seen := map[string]bool{}
	regular := false
	for _, f := range h.Fields {
		if !goodField(f) {
			return false
		}
		if !f.IsPseudo() {
			regular = true
			if f.Name == "content-length" {
				n, err := strconv.ParseInt(f.Value, 10, 64)
				if err != nil || h.End && n != 0 {
					return false
				}
				x.length = n
			}
			continue
		}
		if regular || seen[f.Name] {
			return false
		}
		seen[f.Name] = true
		switch f.Name {
		case ":method":
			x.method = f.Value
		case ":path":
			x.path = f.Value
		case ":scheme", ":authority":
		default:
			return false
		}
	}
	return x.method != "" && x.path != "" && seen[":scheme"]
}

func goodField(f hpack.HeaderField) bool {
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false
	case "te":
		return f.Value == "trailers"
	}
	return f.Name == strings.ToLower(f.Name)
}

// Headers implements StreamHandler: trailers.
func (x *serving) Headers(t *loop.Turn, st *Stream, h *Head) {
	for _, f := range h.Fields {
		if f.IsPseudo() || !goodField(f) {
			st.Reset(t, ProtocolError)
			return
		}
	}
	if x.length >= 0 && x.got != x.length {
		st.Reset(t, ProtocolError)
		return
	}
	st.WriteTrailers(t, h.Fields)
}

// Data implements StreamHandler.
func (x *serving) Data(t *loop.Turn, st *Stream, b []byte, end bool) {
	x.got += int64(len(b))
	if x.length >= 0 && (x.got > x.length || end && x.got != x.length) {
		st.Reset(t, ProtocolError)
		return
	}
	if x.method != "GET" {
		st.Write(t, b, end)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.owed += len(b)
	if !st.Congested() {
		st.Consumed(t, x.owed)
		x.owed = 0
	}
}

// Reset implements StreamHandler.
func (x *serving) Reset(*loop.Turn, *Stream, error) {}

// Writable implements StreamHandler.
func (x *serving) Writable(t *loop.Turn, st *Stream) {
	x.mu.Lock()
	defer x.mu.Unlock()
	st.Consumed(t, x.owed)
	x.owed = 0
}

func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func TestNetHTTPClient(t *testing.T) {
	s := newServer(t, Options{})
	tr := &http.Transport{Protocols: h2c()}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 30 * time.Second}
	url := "http://" + s.ln.Addr().String()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 5))
			for range 5 {
				var err error
				switch rng.IntN(4) {
				case 0:
					err = getSize(client, url, rng.IntN(400000))
				case 1:
					err = cancelled(client, url)
				default:
					err = postEcho(client, url, rng.IntN(1<<rng.IntN(22)+1))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func getSize(client *http.Client, url string, n int) error {
	n = max(n, 1000)
	resp, err := client.Get(fmt.Sprintf("%s/%d", url, n))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.Copy(io.Discard, resp.Body)
	if err != nil || got != int64(n) {
		return fmt.Errorf("GET of %d bytes: %d, %w", n, got, err)
	}
	return nil
}

// postEcho sends n bytes of unknown length and a trailer, and wants them back.
func postEcho(client *http.Client, url string, n int) error {
	body := slab[:min(n, len(slab))]
	req, err := http.NewRequest(http.MethodPost, url+"/", io.MultiReader(bytes.NewReader(body)))
	if err != nil {
		return err
	}
	req.Trailer = http.Header{"Sum": {"abc"}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(body) {
		return fmt.Errorf("echo of %d bytes: %d, %w", len(body), len(got), err)
	}
	if resp.Trailer.Get("Sum") != "abc" {
		return fmt.Errorf("trailers %v", resp.Trailer)
	}
	return nil
}

func cancelled(client *http.Client, url string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/100000000", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 10000); err != nil {
		return err
	}
	cancel()
	if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a cancelled request ended with %w", err)
	}
	return nil
}

// collect is a client's stream handler that keeps the response.
type collect struct {
	head, body, trailer string
	done                chan error
}

// Headers implements StreamHandler.
func (c *collect) Headers(_ *loop.Turn, _ *Stream, h *Head) {
	if h.Trailer {
		c.trailer = fieldText(h.Fields)
	} else {
		c.head = h.Fields[0].Value
	}
	if h.End {
		c.done <- nil
	}
}

// Data implements StreamHandler.
func (c *collect) Data(t *loop.Turn, st *Stream, b []byte, end bool) {
	c.body += string(b)
	st.Consumed(t, len(b))
	if end {
		c.done <- nil
	}
}

// Reset implements StreamHandler.
func (c *collect) Reset(_ *loop.Turn, _ *Stream, err error) { c.done <- err }

// Writable implements StreamHandler.
func (c *collect) Writable(*loop.Turn, *Stream) {}

// clientEnd is the handler of a client connection.
type clientEnd struct{}

func (clientEnd) Open(t *loop.Turn, s *Stream, _ *Head) { s.Reset(t, ProtocolError) }
func (clientEnd) Closed(*loop.Turn, error)              {}

func TestNetHTTPServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: h2c(), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		io.Copy(w, r.Body)
		w.Header().Set("Sum", "abc")
	})}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sock, err := loop.New(nc.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	var c *Conn
	loop.Run(func(t *loop.Turn) { c = New(t, sock, clientEnd{}, Options{Client: true}) })
	sock.Start(c)
	served := make(chan error, 1)
	go func() { served <- sock.Serve(c, false) }()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			body := slab[:i*i*1000]
			x := &collect{done: make(chan error, 1)}
			loop.Run(func(turn *loop.Turn) {
				st := c.Open(turn, x, []hpack.HeaderField{
					{Name: ":method", Value: "POST"},
					{Name: ":scheme", Value: "http"},
					{Name: ":authority", Value: "a"},
					{Name: ":path", Value: "/"},
				}, false)
				st.Write(turn, body[:len(body)/2], false)
				st.Write(turn, body[len(body)/2:], true)
			})
			if err := <-x.done; err != nil || x.head != "200" || x.body != string(body) || !strings.Contains(x.trailer, "sum=abc") {
				t.Errorf("stream %d: %v, status %s, %d bytes of %d, trailers %q", i, err, x.head, len(x.body), len(body), x.trailer)
			}
		})
	}
	wg.Wait()
	loop.Run(c.Drain)
	if err := <-served; err != nil && !errors.Is(err, io.EOF) {
		t.Logf("after draining: %v", err)
	}
}

// TestH2spec runs h2spec, where it is installed, against the endpoint itself.
// The conformance suite runs it through a whole mesh.
func TestH2spec(t *testing.T) {
	tool := os.Getenv("H2SPEC")
	if tool == "" {
		var err error
		if tool, err = exec.LookPath("h2spec"); err != nil {
			t.Skip("h2spec is not installed and H2SPEC does not say where it is")
		}
	}
	s := newServer(t, Options{})
	host, port, err := net.SplitHostPort(s.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "--host", host, "--port", port, "--timeout", "2").CombinedOutput()
	text := string(out)
	summary := text[max(0, strings.LastIndex(text, "\n\n")):]
	if err != nil || !strings.Contains(text, "145 passed, 0 skipped, 0 failed") {
		t.Errorf("h2spec: %v\n%s", err, text)
	}
	t.Log(strings.TrimSpace(summary))
}
