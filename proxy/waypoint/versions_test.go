package waypoint

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// versions runs f for each version of HTTP on either side.
func versions(t *testing.T, h http.HandlerFunc, f func(t *testing.T, r *rig, v *mesh.Service, c *http.Client, http2 bool)) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("h2=%v-to-%s", http2, proto), func(t *testing.T) {
				r, v := one(t, proto, func(w http.ResponseWriter, req *http.Request) {
					if want := map[mesh.AppProtocol]int{mesh.ProtocolHTTP: 1, mesh.ProtocolHTTP2: 2}[proto]; req.ProtoMajor != want {
						t.Errorf("the endpoint was spoken to with HTTP/%d, want %d", req.ProtoMajor, want)
					}
					h(w, req)
				})
				f(t, r, v, r.client(v, http2), http2)
			})
		}
	}
}

// Responses that have no content by rule keep what they say of it.
func TestResponsesWithoutContent(t *testing.T) {
	versions(t, func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/head":
			w.Header().Set("Content-Length", "1234")
		case "/head-unknown":
			w.Header().Set("X", "y")
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/empty":
			w.Header().Set("Content-Length", "0")
		}
	}, func(t *testing.T, r *rig, v *mesh.Service, c *http.Client, _ bool) {
		for _, tc := range []struct {
			method, path string
			status       int
			length       int64
		}{
			{"HEAD", "/head", 200, 1234}, {"HEAD", "/head-unknown", 200, -1}, {"GET", "/204", 204, 0}, {"GET", "/304", 304, -2}, {"GET", "/empty", 200, 0}, {"POST", "/204", 204, 0},
		} {
			req, _ := http.NewRequest(tc.method, "http://web"+tc.path, nil)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s %s: %v", tc.method, tc.path, err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tc.status || len(b) > 0 || err != nil {
				t.Errorf("%s %s: %d with %d bytes, %v", tc.method, tc.path, resp.StatusCode, len(b), err)
			}
			if tc.length != -2 && resp.ContentLength != tc.length {
				t.Errorf("%s %s: content length %d, want %d", tc.method, tc.path, resp.ContentLength, tc.length)
			}
		}
	})
}

func TestEarlyHints(t *testing.T) {
	versions(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(103)
		w.Header().Set("Link", "</other.css>")
		w.WriteHeader(103)
		w.WriteHeader(200)
		io.WriteString(w, "ok")
	}, func(t *testing.T, r *rig, v *mesh.Service, c *http.Client, _ bool) {
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := "[103</style.css>; rel=preload 103</other.css>]"; fmt.Sprint(hints) != want || resp.StatusCode != 200 {
			t.Errorf("got %v and %d", hints, resp.StatusCode)
		}
	})
}

// A client that waits for 100 gets it, and one that is refused does not send.
func TestExpectContinueBetweenVersions(t *testing.T) {
	versions(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/no" {
			w.Header().Set("Connection", "close")
			w.WriteHeader(417)
			return
		}
		n, _ := io.Copy(io.Discard, req.Body)
		fmt.Fprint(w, n)
	}, func(t *testing.T, r *rig, v *mesh.Service, c *http.Client, _ bool) {
		c.Transport.(*http.Transport).ExpectContinueTimeout = 10 * time.Second
		got100 := false
		start := time.Now()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { got100 = true }})
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://web/yes", strings.NewReader("hello"))
		req.Header.Set("Expect", "100-continue")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != "5" || !got100 || time.Since(start) > 8*time.Second {
			t.Errorf("got %q, 100: %v after %v", b, got100, time.Since(start))
		}
		body := &counting{r: bytes.NewReader(make([]byte, 1<<20))}
		req, _ = http.NewRequest("POST", "http://web/no", body)
		req.ContentLength = 1 << 20
		req.Header.Set("Expect", "100-continue")
		resp, err = c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 417 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// An endpoint that answers before it has the request is heard at once, and the
// client is not made to send what nobody wants.
func TestEarlyResponse(t *testing.T) {
	versions(t, func(w http.ResponseWriter, req *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", "3")
		w.WriteHeader(413)
		io.WriteString(w, "big")
	}, func(t *testing.T, r *rig, v *mesh.Service, c *http.Client, http2 bool) {
		pr, pw := io.Pipe()
		defer pw.Close()
		go pw.Write([]byte("beginning")) // and no more
		req, _ := http.NewRequest("POST", "http://web/", pr)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 413 || string(b) != "big" || err != nil {
			t.Errorf("%d %q, %v", resp.StatusCode, b, err)
		}
		if status, _, _ := get(t, c, "http://web/"); status != 413 {
			t.Errorf("the next request: %d", status)
		}
	})
}

// Both directions go on at once: each side speaks when the other has.
func TestBothDirectionsAtOnce(t *testing.T) {
	versions(t, func(w http.ResponseWriter, req *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		br := bufio.NewReader(req.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				io.WriteString(w, "end\n")
				return
			}
			io.WriteString(w, "echo "+line)
			http.NewResponseController(w).Flush()
		}
	}, func(t *testing.T, r *rig, v *mesh.Service, c *http.Client, http2 bool) {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", "http://web/", pr)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for i := range 5 {
			fmt.Fprintf(pw, "%d\n", i)
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("echo %d\n", i) {
				t.Fatalf("%q, %v", line, err)
			}
		}
		pw.Close()
		if line, err := br.ReadString('\n'); line != "end\n" {
			t.Errorf("%q, %v", line, err)
		}
	})
}

// Events come when they are sent, whatever ends them.
func TestServerSentEvents(t *testing.T) {
	for _, tc := range []struct{ name, head string }{
		{"until-close", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"},
		{"http-1.0", "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"},
	} {
		for _, http2 := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, "-h2=", http2), func(t *testing.T) {
				step := make(chan struct{})
				r, v := onePlain(t, mesh.ProtocolHTTP, func(ln net.Listener) {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					c.Read(make([]byte, 4096))
					io.WriteString(c, tc.head)
					for i := range 3 {
						fmt.Fprintf(c, "data: %d\n\n", i)
						<-step
					}
				})
				resp, err := r.client(v, http2).Get("http://ext/")
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				br := bufio.NewReader(resp.Body)
				for i := range 3 {
					line, err := br.ReadString('\n')
					if err != nil || line != fmt.Sprintf("data: %d\n", i) {
						t.Fatalf("%q, %v", line, err)
					}
					br.ReadString('\n')
					step <- struct{}{}
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("at the end: %v", err)
				}
			})
		}
	}
}

// A request to go over to h2c is served as what else it is.
func TestUpgradeToH2CIsIgnored(t *testing.T) {
	r, v := one(t, mesh.ProtocolHTTP, func(w http.ResponseWriter, req *http.Request) {
		for _, name := range []string{"Upgrade", "Http2-Settings", "Connection"} {
			if req.Header.Get(name) != "" {
				t.Errorf("%s %q reached the endpoint", name, req.Header.Get(name))
			}
		}
		io.WriteString(w, "plain")
	})
	got := r.raw(v, "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "plain") {
		t.Errorf("got %q", got)
	}
}

// gRPC to an endpoint that speaks HTTP/1.1 alone is refused, in gRPC's terms and with the reason.
func TestGRPCToHTTP1Endpoint(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolGRPC, mesh.ProtocolSniff} {
		var v *mesh.Service
		r := newRig(t, func(r *rig) mesh.Parts {
			w := r.endpoint("old", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method != "PRI" { // net/http takes the preface for a request
					t.Error("the call was served")
				}
			}), false)
			v = r.service("old", 80, proto, w)
			return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://old/pkg.Svc/Call", strings.NewReader("\x00\x00\x00\x00\x00"))
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		resp, err := r.client(v, true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		cancel()
		if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "14" || !strings.Contains(resp.Header.Get("Grpc-Message"), "HTTP/1.1") {
			t.Errorf("%s: %d %v", proto, resp.StatusCode, resp.Header)
		}
		r.stop()
		if !strings.Contains(r.log.String(), " 200 UPE ") || !strings.Contains(r.log.String(), "HTTP/1.1, where HTTP/2 was expected") {
			t.Errorf("%s: access log %q", proto, r.log)
		}
	}
}
