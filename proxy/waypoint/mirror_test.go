package waypoint

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// TestMirrors: copies reach every mirror whole, in both protocols, and the client
// hears of its own endpoint only.
func TestMirrors(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			type seen struct{ text, trailer string }
			copies := make(chan seen, 64)
			hang := make(chan struct{})
			var v *mesh.Service
			r := newRig(t, func(r *rig) mesh.Parts {
				record := func(name string) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						b, err := io.ReadAll(r.Body)
						copies <- seen{fmt.Sprintf("%s %s %s %s %x %v", name, r.Method, r.URL, r.Header.Get("x-added"), sha256.Sum256(b), err), r.Trailer.Get("x-end")}
						w.WriteHeader(500) // nobody is to hear of it
						fmt.Fprint(w, strings.Repeat("no", 100_000))
					})
				}
				main := r.endpoint("main", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					fmt.Fprintf(w, "main %x", sha256.Sum256(b))
				}), true)
				a, b := r.endpoint("ma", record("ma"), true), r.endpoint("mb", record("mb"), false)
				stuck := r.endpoint("stuck", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					select {
					case <-hang:
					case <-r.Context().Done():
					}
				}), true)
				vm, va, vb := r.service("main", 80, mesh.ProtocolSniff, main), r.service("ma", 80, mesh.ProtocolHTTP2, a), r.service("mb", 80, mesh.ProtocolHTTP, b)
				vs, none := r.service("stuck", 80, mesh.ProtocolHTTP, stuck), r.service("none", 80, mesh.ProtocolHTTP)
				v = r.service("web", 80, mesh.ProtocolSniff)
				copyTo := func(v *mesh.Service) mesh.Mirror { return mesh.Mirror{Backend: to(v, 1)} }
				never := copyTo(va)
				never.Numerator, never.Denominator = 0, 100
				return mesh.Parts{
					Workloads: []*mesh.Workload{main, a, b, stuck}, Services: []*mesh.Service{v, vm, va, vb, vs, none},
					Attachments: []mesh.RouteAttachment{
						route("two", 1, v, mesh.Route{
							Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/two")}, Backends: []mesh.Backend{to(vm, 1)},
							Filters: mesh.RouteFilters{
								RequestHeaders: &mesh.HeaderEdits{Set: []mesh.Field{{Name: "x-added", Value: "yes"}}},
								Rewrite:        &mesh.Rewrite{Path: &mesh.PathEdit{Prefix: true, Value: "/new"}},
								Mirrors:        []mesh.Mirror{copyTo(va), copyTo(vb)},
							},
						}),
						route("never", 2, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/never")}, Backends: []mesh.Backend{to(vm, 1)}, Filters: mesh.RouteFilters{Mirrors: []mesh.Mirror{never}}}),
						route("bad", 3, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/bad")}, Backends: []mesh.Backend{to(vm, 1)}, Filters: mesh.RouteFilters{
							Mirrors: []mesh.Mirror{copyTo(vs), copyTo(none), {Backend: mesh.Backend{Broken: "no such service"}}},
						}}),
					},
				}
			})
			defer close(hang)
			c := r.client(v, h2)
			post := func(path string, n int) {
				t.Helper()
				data := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
				req, _ := http.NewRequest("POST", "http://web"+path, struct{ io.Reader }{bytes.NewReader(data)})
				req.Trailer = http.Header{"X-End": {"done"}}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if want := fmt.Sprintf("main %x", sha256.Sum256(data)); resp.StatusCode != 200 || string(b) != want || err != nil {
					t.Errorf("%s with %d bytes: %d %q, %v; want 200 %q", path, n, resp.StatusCode, b, err, want)
				}
			}
			for _, n := range []int{0, 10, 100_000} {
				post("/two/x?q=1", n)
				data := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
				got := map[string]bool{}
				late := time.NewTimer(10 * time.Second)
				defer late.Stop()
				for range 2 {
					select {
					case s := <-copies:
						got[s.text] = true
						if s.trailer != "done" {
							t.Errorf("%s came with the trailer %q", s.text, s.trailer)
						}
					case <-late.C:
						t.Fatalf("a copy is missing, came: %v", got)
					}
				}
				for _, name := range []string{"ma", "mb"} {
					if want := fmt.Sprintf("%s POST /new/x?q=1 yes %x <nil>", name, sha256.Sum256(data)); !got[want] {
						t.Errorf("no copy %q, came: %v", want, got)
					}
				}
			}
			for range 20 {
				post("/never", 10)
			}
			for range 3 { // more than would wait for the one that hangs
				post("/bad", 3<<20)
			}
			if len(copies) > 0 {
				t.Errorf("a copy came of a request that is not to be copied: %v", <-copies)
			}
			r.stop()
			if log := r.log.String(); strings.Count(log, "\n") != 26 {
				t.Errorf("%d requests are logged, want the clients' 26 alone:\n%s", strings.Count(log, "\n"), log)
			}
		})
	}
}

func TestMirrorFraction(t *testing.T) {
	const n = 20_000
	for _, m := range []mirror{{num: 0, den: 100}, {num: 25, den: 100}, {num: 1, den: 1000}, {num: 100, den: 100}, {}} {
		got := 0
		for range n {
			if m.fires() {
				got++
			}
		}
		p := 1.0
		if m.den > 0 {
			p = float64(m.num) / float64(m.den)
		}
		if want := p * n; float64(got) < want-5*70 || float64(got) > want+5*70 || (p == 0 || p == 1) && float64(got) != want {
			t.Errorf("%d of %d: %d of %d requests are copied, want about %.0f", m.num, m.den, got, n, want)
		}
	}
}

// TestOwnRequest: nothing of a copy lies in the original's memory.
func TestOwnRequest(t *testing.T) {
	memory := []byte("POSThttphosthost/pathquerynamevalue")
	view := func(from, to int) string { return viewString(memory[from:to]) }
	r := mesh.Request{Method: view(0, 4), Scheme: view(4, 8), Authority: view(8, 12), Host: view(12, 16), Path: view(16, 21), Query: view(21, 26), Fields: mesh.Fields{{Name: view(26, 30), Value: view(30, 35)}}}
	c := ownRequest(&r)
	clear(memory)
	if got := c.Method + c.Scheme + c.Authority + c.Host + c.Path + c.Query + c.Fields[0].Name + c.Fields[0].Value; got != "POSThttphosthost/pathquerynamevalue" {
		t.Errorf("the copy is %q", got)
	}
}
