package waypoint

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The corpus of requests with which proxies and servers have been made to
// disagree about who is asked for what. testdata/hygiene.txt says how to read it.
//
//go:embed testdata/hygiene.txt
var hygieneCorpus string

// hygieneCase is one line of the corpus.
type hygieneCase struct {
	name, form, send, want string
}

func hygieneCases(t *testing.T) (list []hygieneCase) {
	t.Helper()
	seen := map[string]bool{}
	for i, line := range strings.Split(hygieneCorpus, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Split(line, " | ")
		if len(parts) != 4 {
			t.Fatalf("line %d has %d columns: %s", i+1, len(parts), line)
		}
		send, err := strconv.Unquote(`"` + strings.ReplaceAll(parts[2], `"`, `\"`) + `"`)
		if err != nil {
			t.Fatalf("line %d: %v: %s", i+1, err, parts[2])
		}
		c := hygieneCase{parts[0], parts[1], send, parts[3]}
		if seen[c.name] {
			t.Fatalf("line %d: %s is there twice", i+1, c.name)
		}
		seen[c.name] = true
		list = append(list, c)
	}
	return list
}

// raw is what an HTTP/1.1 case puts on the wire.
func (c *hygieneCase) raw() string {
	const host = "Host: ok.example\r\n"
	switch c.form {
	case "path":
		return "GET " + c.send + " HTTP/1.1\r\n" + host + "\r\n"
	case "host":
		return "GET /x HTTP/1.1\r\nHost: " + c.send + "\r\n\r\n"
	case "get":
		return "GET /x HTTP/1.1\r\n" + host + c.send + "\r\n"
	case "post":
		return "POST /x HTTP/1.1\r\n" + host + c.send
	}
	return c.send
}

// fields is what an HTTP/2 case sends: NAME=VALUE with " ;; " between them, the
// pseudo headers that are not among them filled in, and content after BODY.
func (c *hygieneCase) fields() (list []hpack.HeaderField, body string, hasBody bool) {
	head, body, hasBody := strings.Cut(c.send, " BODY ")
	given := map[string]bool{}
	var own []hpack.HeaderField
	for line := range strings.SplitSeq(head, " ;; ") {
		if line == "" {
			continue
		}
		i := strings.Index(line[1:], "=") + 1
		f := hpack.HeaderField{Name: line[:i], Value: line[i+1:]}
		given[f.Name] = true
		if f.Value != "-" { // left out
			own = append(own, f)
		}
	}
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "ok.example"}, {Name: ":path", Value: "/x"}} {
		if !given[f.Name] {
			list = append(list, f)
		}
	}
	return append(list, own...), body, hasBody
}

// recorder is a workload that notes what it is asked for, as net/http reads it
// strictly off the wire and without any cleaning.
type recorder struct {
	mu  sync.Mutex
	got []string
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	r.got = append(r.got, s)
	r.mu.Unlock()
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

// record reads requests off ln's connections byte for byte. It notes UNREADABLE for
// one that net/http refuses, CLAIMS for one in which the client says who it is, and
// nothing for one that is broken off.
func (r *recorder) record(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := bufio.NewReader(c)
			for {
				// The line is read before net/http reads it, which would decode it.
				if _, err := b.Peek(1); err != nil {
					return
				}
				head, _ := b.Peek(b.Buffered())
				line, _, _ := bytes.Cut(head, []byte("\r\n"))
				words := strings.Split(string(line), " ")
				req, err := http.ReadRequest(b)
				if err != nil {
					r.note("UNREADABLE " + string(line))
					return
				}
				body, err := io.ReadAll(req.Body)
				if err != nil {
					return // broken off, as everybody can see
				}
				for name := range req.Header {
					if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "x-forwarded-client-cert") {
						r.note("CLAIMS " + name)
					}
				}
				r.note(strings.TrimSpace(words[0] + " " + req.Host + " " + words[1] + " " + strings.Trim(strconv.Quote(string(body)), `"`)))
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}()
	}
}

// mux is a workload as people write them: what is under /admin, or at the host
// admin.example, is for administrators. It answers 299 where one would be served.
func (r *recorder) mux() http.Handler {
	mux := http.NewServeMux()
	admin := func(w http.ResponseWriter, req *http.Request) {
		r.note("ADMINISTRATOR " + req.Host + " " + req.RequestURI)
		w.WriteHeader(299)
	}
	mux.HandleFunc("/admin", admin)
	mux.HandleFunc("/admin/", admin)
	mux.HandleFunc("admin.example/", admin)
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		_, err := io.Copy(io.Discard, req.Body)
		r.note(fmt.Sprint(req.Method, " ", req.Host, " ", req.RequestURI, " ", err))
	})
	return mux
}

// bound is one that a waypoint's policies are attached to by name.
func bound(v *mesh.Service, name string, op ...mesh.AuthzOperation) *mesh.AuthorizationPolicy {
	p := &mesh.AuthorizationPolicy{Name: mesh.Name{Namespace: "app", Name: name}, Action: mesh.ActionDeny, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: v.Name}}}
	for _, o := range op {
		p.Rules = append(p.Rules, mesh.AuthzRule{To: []mesh.AuthzOperation{o}})
	}
	return p
}

// TestHygiene sends the corpus through a waypoint. What it lets through must
// reach the workload exactly as the policies saw it, and nothing else may.
func TestHygiene(t *testing.T) {
	cases := hygieneCases(t)
	if len(cases) < 200 {
		t.Errorf("the corpus has %d cases", len(cases))
	}
	var wire, h1, h2 recorder
	var wireService, h1Service, h2Service *mesh.Service
	only := map[string]*mesh.Service{}
	r := newRig(t, func(r *rig) mesh.Parts {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go wire.record(ln)
		w := []*mesh.Workload{r.node("wire", ln.Addr().String()), r.endpoint("h1", h1.mux(), false), r.endpoint("h2", h2.mux(), true)}
		wireService, h1Service, h2Service = r.service("wire", 80, mesh.ProtocolHTTP, w[0]), r.service("h1", 80, mesh.ProtocolHTTP, w[1]), r.service("h2", 80, mesh.ProtocolHTTP2, w[2])
		parts := mesh.Parts{Workloads: w, Services: []*mesh.Service{wireService, h1Service, h2Service}}
		for _, v := range parts.Services {
			parts.Policies = append(parts.Policies, bound(v, "admin-"+v.Name,
				mesh.AuthzOperation{Paths: []string{"/admin", "/admin/*"}}, mesh.AuthzOperation{Hosts: []string{"admin.example", "admin.example:*"}}))
		}
		// A service of its own for each case that gets through, whose policy refuses
		// everything but what the workload is to get: so it is known what policies saw.
		for i := range cases {
			c := &cases[i]
			host, path, ok := c.through()
			if !ok {
				continue
			}
			v := r.service(fmt.Sprintf("only-%d", i), 80, mesh.ProtocolHTTP, w[0])
			parts.Services, only[c.name] = append(parts.Services, v), v
			parts.Policies = append(parts.Policies, bound(v, v.Name, mesh.AuthzOperation{NotPaths: []string{path}}, mesh.AuthzOperation{NotHosts: []string{host}}))
		}
		return parts
	})
	for i := range cases {
		c := &cases[i]
		t.Run(c.name, func(t *testing.T) {
			if got := r.hygiene(t, c, wireService, &wire); got != c.want {
				t.Errorf("sent %q:\n got %s\nwant %s", c.send, got, c.want)
			}
			if v := only[c.name]; v != nil {
				if got := r.hygiene(t, c, v, &wire); got != c.want {
					t.Errorf("sent %q: policies did not see what the workload got: %s, want %s", c.send, got, c.want)
				}
			}
			for _, to := range []struct {
				v *mesh.Service
				r *recorder
			}{{h1Service, &h1}, {h2Service, &h2}} {
				if got := r.hygiene(t, c, to.v, to.r); strings.Contains(got, "ADMINISTRATOR") || strings.HasSuffix(got, "299") {
					t.Errorf("sent %q: the workload %s served an administrator: %s", c.send, to.v.Name, got)
				}
			}
		})
	}
}

// through returns what of a case's one request gets through, if it does and policies can
// name it: in a list a star is a pattern, and braces are. A host may not be the service's
// own, supplied where there is none, because each case has another service.
func (c *hygieneCase) through() (host, path string, ok bool) {
	words := strings.Fields(c.want)
	if len(words) < 4 || words[3] != "200" && (len(words) != 5 || words[4] != "200") || strings.ContainsAny(words[2], "*{}") || strings.HasSuffix(words[1], ".svc.cluster.local") {
		return "", "", false
	}
	path, _, _ = strings.Cut(words[2], "?")
	return words[1], path, true
}

// hygiene sends a case to v's workload and returns what that got and what came
// back, in the spelling of the corpus.
func (r *rig) hygiene(t *testing.T, c *hygieneCase, v *mesh.Service, work *recorder) string {
	t.Helper()
	work.take()
	var answers []string
	if c.form == "h2" {
		answers = []string{r.hygieneH2(t, c, v)}
	} else {
		answers = statuses(t, c.raw(), r.raw(v, c.raw()))
	}
	return cmp.Or(strings.Join(append(work.take(), answers...), " "), "nothing")
}

// statuses reads the responses to raw.
func statuses(t *testing.T, raw, text string) (list []string) {
	t.Helper()
	method, _, _ := strings.Cut(strings.TrimLeft(raw, "\r\n"), " ")
	b := bufio.NewReader(strings.NewReader(text))
	for {
		resp, err := http.ReadResponse(b, &http.Request{Method: method})
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Errorf("answers %q: %v", text, err)
			}
			return list
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode >= 200 {
			list = append(list, strconv.Itoa(resp.StatusCode))
		}
	}
}

// hygieneH2 sends a header section as it stands and returns the status, or
// "reset" when the stream or the connection is refused.
func (r *rig) hygieneH2(t *testing.T, c *hygieneCase, v *mesh.Service) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := r.dial(ctx, netip.AddrPortFrom(v.VIPs[0], v.Ports[0].Port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	fields, body, hasBody := c.fields()
	for _, f := range fields {
		enc.WriteField(f)
	}
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&out, nil)
	w.WriteSettings()
	w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: !hasBody})
	if hasBody {
		w.WriteData(1, true, []byte(body))
	}
	if _, err := conn.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	in := http2.NewFramer(io.Discard, conn)
	in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := in.ReadFrame()
		if err != nil {
			t.Errorf("reading frames: %v", err)
			return "broken"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}
