package waypoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// named answers with its name and what it saw.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(400)
			return
		}
		w.Header().Set("x-server", name)
		w.Header().Set("x-proto", r.Proto)
		w.Header().Set("x-path", r.URL.RequestURI())
		w.Header().Set("x-got-host", r.Host)
		for _, k := range []string{"X-Added", "X-Request-Id", "X-Forwarded-Client-Cert"} {
			w.Header().Set("x-got-"+k, r.Header.Get(k))
		}
		if n, err := strconv.Atoi(r.URL.Query().Get("bytes")); err == nil {
			w.Write(bytes.Repeat([]byte{'x'}, n))
			return
		}
		fmt.Fprintf(w, "%s %s %s %d", name, r.Method, r.URL.Path, len(b))
	})
}

func simple(t *testing.T, proto mesh.AppProtocol) (*rig, *mesh.Service) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("web", named("web"), true)
		v = r.service("web", 80, proto, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	return r, v
}

func TestRequestsBetweenProtocols(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolSniff} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("port%q-h2=%v", proto.String(), h2), func(t *testing.T) {
				r, v := simple(t, proto)
				c := r.client(v, h2)
				want := "HTTP/1.1"
				if proto == mesh.ProtocolHTTP2 || proto == mesh.ProtocolSniff && h2 {
					want = "HTTP/2.0"
				}
				for i := range 3 {
					status, body, hd := get(t, c, "http://web/a/b?c=d")
					if status != 200 || body != "web GET /a/b 0" {
						t.Fatalf("request %d: %d %q", i, status, body)
					}
					if hd.Get("x-proto") != want {
						t.Errorf("endpoint was spoken to in %s, want %s", hd.Get("x-proto"), want)
					}
					if hd.Get("x-path") != "/a/b?c=d" || hd.Get("x-got-host") != "web" {
						t.Errorf("endpoint saw path %q host %q", hd.Get("x-path"), hd.Get("x-got-host"))
					}
					if len(hd.Get("x-got-X-Request-Id")) != 36 {
						t.Errorf("request id %q", hd.Get("x-got-X-Request-Id"))
					}
				}
			})
		}
	}
}

func TestBodiesOfAllSizesBothWays(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("port%s-h2=%v", proto, h2), func(t *testing.T) {
				var v *mesh.Service
				r := newRig(t, func(r *rig) mesh.Parts {
					w := r.endpoint("echo", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						b, err := io.ReadAll(r.Body)
						if err != nil {
							return
						}
						fmt.Fprintf(w, "%x", sha256.Sum256(b))
						w.Write(b)
					}), true)
					v = r.service("echo", 80, proto, w)
					return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
				})
				c := r.client(v, h2)
				for _, n := range []int{0, 1, 1000, 16 << 10, 100_000, 3 << 20} {
					for _, chunked := range []bool{false, true} {
						data := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
						var body io.Reader = bytes.NewReader(data)
						if chunked {
							body = struct{ io.Reader }{body}
						}
						resp, err := c.Post("http://echo/", "application/octet-stream", body)
						if err != nil {
							t.Fatalf("%d bytes, chunked %v: %v", n, chunked, err)
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						want := fmt.Sprintf("%x%s", sha256.Sum256(data), data)
						if err != nil || string(got) != want {
							t.Fatalf("%d bytes, chunked %v: got %d bytes, %v; want %d", n, chunked, len(got), err, len(want))
						}
					}
				}
			})
		}
	}
}

func TestManyRequestsAtOnceAreCountedExactly(t *testing.T) {
	r, v := simple(t, mesh.ProtocolHTTP)
	const workers, each = 16, 200
	var wg sync.WaitGroup
	for i := range workers {
		c := r.client(v, i%2 == 0)
		wg.Go(func() {
			for j := range each {
				n := (i*each + j) * 37 % 5000
				status, body, _ := get(t, c, fmt.Sprintf("http://web/x?bytes=%d", n))
				if status != 200 || len(body) != n {
					t.Errorf("got %d with %d bytes, want 200 with %d", status, len(body), n)
					return
				}
			}
		})
	}
	wg.Wait()
	r.stop()
	if got := strings.Count(r.log.String(), "\n"); got != workers*each {
		t.Errorf("access log has %d lines, want %d", got, workers*each)
	}
	if got := counter(t, r, `istio_requests_total`, `response_code="200"`, `source_principal="spiffe://cluster.local/ns/app/sa/client"`, `destination_workload="web"`, `reporter="waypoint"`); got != workers*each {
		t.Errorf("istio_requests_total is %v, want %d", got, workers*each)
	}
}

// counter sums the samples of a metric whose line holds all the given texts.
func counter(t *testing.T, r *rig, name string, with ...string) float64 {
	t.Helper()
	rec := httptest.NewRecorder()
	r.metrics.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/stats/prometheus", nil))
	sum := 0.0
lines:
	for _, line := range strings.Split(rec.Body.String(), "\n") {
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		for _, w := range with {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			t.Fatalf("sample %q: %v", line, err)
		}
		sum += v
	}
	return sum
}

func route(name string, created int, v *mesh.Service, r mesh.Route) mesh.RouteAttachment {
	r.Object = mesh.Name{Namespace: "app", Name: name}
	r.Created = time.Unix(int64(created), 0)
	return mesh.RouteAttachment{Service: v.Key, Route: &r}
}

func to(v *mesh.Service, weight uint32) mesh.Backend {
	return mesh.Backend{Service: v.Key, Port: v.Ports[0].Port, Weight: weight}
}

func pathMatch(k mesh.MatchKind, p string) mesh.RouteMatch {
	return mesh.RouteMatch{Path: &mesh.StringMatch{Kind: k, Value: p}}
}

func TestRoutesFiltersAndPolicies(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		a, b := r.endpoint("a", named("a"), false), r.endpoint("b", named("b"), false)
		slow := r.endpoint("slow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), false)
		va, vb, vs := r.service("a", 80, mesh.ProtocolHTTP, a), r.service("b", 80, mesh.ProtocolHTTP, b), r.service("slow", 80, mesh.ProtocolHTTP, slow)
		none := r.service("none", 80, mesh.ProtocolHTTP)
		v = r.service("web", 80, mesh.ProtocolHTTP)
		return mesh.Parts{
			Workloads: []*mesh.Workload{a, b, slow}, Services: []*mesh.Service{v, va, vb, vs, none},
			Attachments: []mesh.RouteAttachment{
				route("canary", 1, v, mesh.Route{Matches: []mesh.RouteMatch{{Headers: []mesh.NamedMatch{{Name: "x-canary", StringMatch: mesh.StringMatch{Value: "true"}}}}}, Backends: []mesh.Backend{to(vb, 1)}}),
				route("split", 2, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/split")}, Backends: []mesh.Backend{to(va, 90), to(vb, 10)}}),
				route("redirect", 3, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/old")}, Filters: mesh.RouteFilters{Redirect: &mesh.Redirect{Status: 301, Path: &mesh.PathEdit{Value: "/new"}}}}),
				route("rewrite", 4, v, mesh.Route{
					Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/api")}, Backends: []mesh.Backend{to(va, 1)},
					Filters: mesh.RouteFilters{
						Rewrite:        &mesh.Rewrite{Hostname: "inner", Path: &mesh.PathEdit{Prefix: true, Value: "/v2"}},
						RequestHeaders: &mesh.HeaderEdits{Set: []mesh.Field{{Name: "x-added", Value: "yes"}}}, ResponseHeaders: &mesh.HeaderEdits{Add: []mesh.Field{{Name: "x-resp", Value: "1"}}, Remove: []string{"x-server"}},
					},
				}),
				route("slow", 5, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/slow")}, Requests: timeoutPolicy(100*time.Millisecond, 0), Backends: []mesh.Backend{to(vs, 1)}}),
				route("none", 6, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/none")}, Backends: []mesh.Backend{to(none, 1)}}),
				route("broken", 7, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/broken")}, Broken: "because"}),
				route("cors", 9, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/cors")}, Filters: mesh.RouteFilters{CORS: &mesh.CORS{Origins: []string{"http://page"}}}, Backends: []mesh.Backend{to(va, 1)}}),
				route("cors-none", 10, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/cors/none")}, Filters: mesh.RouteFilters{CORS: &mesh.CORS{Origins: []string{"http://page"}}}, Backends: []mesh.Backend{to(none, 1)}}),
				route("post", 8, v, mesh.Route{Matches: []mesh.RouteMatch{{Path: &mesh.StringMatch{Kind: mesh.MatchPrefix, Value: "/m"}, Method: "POST"}}, Backends: []mesh.Backend{to(vb, 1)}}),
			},
			Policies: []*mesh.AuthorizationPolicy{
				{
					Name: mesh.Name{Namespace: "app", Name: "no-delete"}, Action: mesh.ActionDeny, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "web"}},
					Rules: []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Methods: []string{"DELETE"}}}}, {To: []mesh.AuthzOperation{{Paths: []string{"/secret*"}}}}},
				},
			},
		}
	})
	c := r.client(v, false)
	for _, tc := range []struct {
		name, method, path string
		header             [2]string
		status             int
		want               [][2]string
		log                string
	}{
		{"canary", "GET", "/split", [2]string{"x-canary", "true"}, 200, nil, ""},
		{"redirect", "GET", "/old?q=1", [2]string{}, 301, [][2]string{{"Location", "http://web/new?q=1"}}, ""},
		{"rewrite", "GET", "/api/x?y=z", [2]string{}, 200, [][2]string{{"x-path", "/v2/x?y=z"}, {"x-got-host", "inner"}, {"x-got-X-Added", "yes"}, {"x-resp", "1"}, {"x-server", ""}}, "GET /api/x?y=z"},
		{"timeout", "GET", "/slow", [2]string{}, 504, nil, " UT "},
		{"no-endpoint", "GET", "/none", [2]string{}, 503, nil, " UH "},
		{"broken", "GET", "/broken", [2]string{}, 500, nil, ""},
		{"no-route", "GET", "/m", [2]string{}, 404, nil, " NR "},
		{"cors", "GET", "/cors", [2]string{"origin", "http://page"}, 200, [][2]string{{"x-server", "a"}, {"access-control-allow-origin", "http://page"}}, ""},
		{"cors-other", "GET", "/cors", [2]string{"origin", "http://other"}, 200, [][2]string{{"x-server", "a"}, {"access-control-allow-origin", ""}}, ""},
		{"cors-local-reply", "GET", "/cors/none", [2]string{"origin", "http://page"}, 503, [][2]string{{"access-control-allow-origin", "http://page"}}, ""},
		{"post", "POST", "/m", [2]string{}, 200, [][2]string{{"x-server", "b"}}, ""},
		{"denied-method", "DELETE", "/api", [2]string{}, 403, nil, "rbac_access_denied"},
		{"denied-path", "GET", "/secret/x", [2]string{}, 403, nil, ""},
		{"denied-dressed-up-path", "GET", "/api/%2fapi/%2e%2e/.%2e/secret", [2]string{}, 403, nil, ""},
		{"ambiguous-path", "GET", "/api/..%2fapi/%2e%2e/%2e%2e/secret", [2]string{}, 400, nil, ""},
		{"claimed-identity", "GET", "/api", [2]string{"x-forwarded-client-cert", "URI=spiffe://admin"}, 200, [][2]string{{"x-got-X-Forwarded-Client-Cert", ""}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, _ := http.NewRequest(tc.method, "http://web"+tc.path, nil)
			if tc.header[0] != "" {
				req.Header.Set(tc.header[0], tc.header[1])
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
			}
			for _, kv := range tc.want {
				if got := resp.Header.Get(kv[0]); got != kv[1] {
					t.Errorf("%s is %q, want %q", kv[0], got, kv[1])
				}
			}
		})
	}
	t.Run("split", func(t *testing.T) {
		const n = 1000
		got := 0
		for range n {
			_, body, _ := get(t, c, "http://web/split")
			if strings.HasPrefix(body, "b ") {
				got++
			}
		}
		if sigma := 9.49; float64(got) < 100-3.5*sigma || float64(got) > 100+3.5*sigma {
			t.Errorf("%d of %d requests went to the 10%% backend", got, n)
		}
	})
	r.stop()
	for _, want := range []string{" UT ", " UH ", " NR ", "rbac_access_denied_matched_policy[ns[app]-policy[no-delete]-rule[0]]", "GET /api/x?y=z"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("access log lacks %q", want)
		}
	}
}

func TestMalformedRequestsGetTheirStatus(t *testing.T) {
	r, v := simple(t, mesh.ProtocolHTTP)
	for _, tc := range []struct{ name, in, want string }{
		{"no-host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
		{"cl-and-te", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 "},
		{"bare-lf", "GET / HTTP/1.1\nHost: a\n\n", "HTTP/1.1 400 "},
		{"huge-head", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "HTTP/1.1 505 "},
		{"bad-chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400 "},
		{"pipelined", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 "},
		{"http10", "GET /x HTTP/1.0\r\nHost: a\r\n\r\n", "HTTP/1.1 200 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := r.raw(v, tc.in)
			if !strings.HasPrefix(got, tc.want) {
				t.Errorf("got %.200q, want %s…", got, tc.want)
			}
			if tc.name == "pipelined" {
				for _, want := range []string{"web GET /1 0", "web GET /2 0", "web GET /3 0"} {
					if !strings.Contains(got, want) {
						t.Errorf("pipelined answers lack %q in %q", want, got)
					}
				}
			}
		})
	}
}

func TestConnectToWhatIsNotServedIsRefused(t *testing.T) {
	r, v := simple(t, mesh.ProtocolHTTP)
	for _, authority := range []string{"127.9.9.9:80", netip.AddrPortFrom(v.VIPs[0], 81).String(), "other.app.svc.cluster.local:80"} {
		if _, err := r.dial(t.Context(), authority); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("dialling %s: %v, want status 400", authority, err)
		}
	}
	if _, err := r.dial(t.Context(), "web.app.svc.cluster.local:80"); err != nil {
		t.Errorf("dialling by name: %v", err)
	}
}

func TestTCPServicePassesThrough(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("web", named("web"), false)
		v = r.service("tcp", 9000, mesh.ProtocolTCP, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	got := r.raw(v, "GET /t HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if !strings.Contains(got, "web GET /t 0") {
		t.Errorf("got %q", got)
	}
	r.stop()
	if n := counter(t, r, "istio_tcp_connections_opened_total", `reporter="waypoint"`); n != 1 {
		t.Errorf("opened %v connections, want 1", n)
	}
}

// Changing the configuration under load loses no request and takes effect.
func TestSwitchUnderLoad(t *testing.T) {
	var v, va, vb *mesh.Service
	var parts mesh.Parts
	r := newRig(t, func(r *rig) mesh.Parts {
		a, b := r.endpoint("a", named("a"), false), r.endpoint("b", named("b"), false)
		va, vb = r.service("a", 80, mesh.ProtocolHTTP, a), r.service("b", 80, mesh.ProtocolHTTP, b)
		v = r.service("web", 80, mesh.ProtocolHTTP)
		parts = mesh.Parts{Workloads: []*mesh.Workload{a, b}, Services: []*mesh.Service{v, va, vb}}
		parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Backends: []mesh.Backend{to(va, 1)}})}
		return parts
	})
	parts.Waypoints = r.snapshots.Current().Waypoints
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		c := r.client(v, false)
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, _, _ := get(t, c, "http://web/"); status != 200 {
					t.Errorf("status %d under load", status)
				}
			}
		})
	}
	c := r.client(v, false)
	for i := range 20 {
		to1, want := va, "a"
		if i%2 == 0 {
			to1, want = vb, "b"
		}
		parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Backends: []mesh.Backend{to(to1, 1)}})}
		r.snapshots.publish(parts)
		deadline := time.Now().Add(5 * time.Second)
		for {
			if _, body, _ := get(t, c, "http://web/"); strings.HasPrefix(body, want+" ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("switch %d did not take effect", i)
			}
		}
	}
	cancel()
	wg.Wait()
}

// An endpoint that closes idle connections must not make requests fail.
func TestEndpointThatClosesIdleConnections(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		n := 0
		var mu sync.Mutex
		w := r.endpoint("web", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			n++
			if n%3 == 0 {
				w.Header().Set("Connection", "close")
			}
			mu.Unlock()
			io.WriteString(w, "ok")
		}), false)
		v = r.service("web", 80, mesh.ProtocolHTTP, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	c := r.client(v, false)
	for i := range 60 {
		if status, body, _ := get(t, c, "http://web/"); status != 200 || body != "ok" {
			t.Fatalf("request %d: %d %q", i, status, body)
		}
	}
}
