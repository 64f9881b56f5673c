package waypoint

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/mesh"
)

// TestHygieneLevels sends the corpus through waypoints of every level of path normalisation.
// What reaches the workload is what policies see, whatever the level: a policy that refuses
// all else than what came lets it come again. Under the levels that resolve what servers resolve,
// nobody reaches what is the administrator's.
func TestHygieneLevels(t *testing.T) {
	cases := hygieneCases(t)
	for _, level := range []mesh.PathLevel{mesh.PathNone, mesh.PathMerge, mesh.PathDecode} {
		t.Run(level.String(), func(t *testing.T) {
			var wire, h1, h2 recorder
			var services [3]*mesh.Service
			workloads := func(r *rig) []*mesh.Workload {
				r.reading.Paths = level
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ln.Close() })
				go wire.record(ln)
				return []*mesh.Workload{r.node("wire", ln.Addr().String()), r.endpoint("h1", h1.mux(), false), r.endpoint("h2", h2.mux(), true)}
			}
			r := newRig(t, func(r *rig) mesh.Parts {
				w := workloads(r)
				services = [3]*mesh.Service{r.service("wire", 80, mesh.ProtocolHTTP, w[0]), r.service("h1", 80, mesh.ProtocolHTTP, w[1]), r.service("h2", 80, mesh.ProtocolHTTP2, w[2])}
				parts := mesh.Parts{Workloads: w, Services: services[:]}
				for _, v := range services {
					parts.Policies = append(parts.Policies, bound(v, "admin-"+v.Name,
						mesh.AuthzOperation{Paths: []string{"/admin", "/admin/*"}}, mesh.AuthzOperation{Hosts: []string{"admin.example", "admin.example:*"}}))
				}
				return parts
			})
			got := make([]string, len(cases))
			for i := range cases {
				c := &cases[i]
				got[i] = r.hygiene(t, c, services[0], &wire)
				if strings.Contains(got[i], "UNREADABLE") || strings.Contains(got[i], "CLAIMS") {
					t.Errorf("%s: %q gives %s", c.name, c.send, got[i])
				}
				for j, rec := range []*recorder{&h1, &h2} {
					if to := r.hygiene(t, c, services[1+j], rec); level != mesh.PathNone && (strings.Contains(to, "ADMINISTRATOR") || strings.HasSuffix(to, "299")) {
						t.Errorf("%s: sent %q: the workload %s served an administrator: %s", c.name, c.send, services[1+j].Name, to)
					}
				}
			}
			only, seen := map[int]*mesh.Service{}, 0
			again := newRig(t, func(r *rig) mesh.Parts {
				w := workloads(r)
				parts := mesh.Parts{Workloads: w}
				for i := range cases {
					host, path, ok := (&hygieneCase{want: got[i]}).through()
					if !ok {
						continue
					}
					v := r.service(fmt.Sprintf("only-%d", i), 80, mesh.ProtocolHTTP, w[0])
					only[i] = v
					parts.Services = append(parts.Services, v)
					parts.Policies = append(parts.Policies, bound(v, v.Name, mesh.AuthzOperation{NotPaths: []string{path}}, mesh.AuthzOperation{NotHosts: []string{host}}))
				}
				return parts
			})
			for i := range cases {
				if v := only[i]; v != nil {
					seen++
					if to := again.hygiene(t, &cases[i], v, &wire); to != got[i] {
						t.Errorf("%s: sent %q: policies did not see what the workload got: %s, want %s", cases[i].name, cases[i].send, to, got[i])
					}
				}
			}
			if t.Logf("%d of %d cases got through", seen, len(cases)); seen < 100 {
				t.Errorf("%d cases got through: too few to show anything", seen)
			}
		})
	}
}

// asked returns a handler that answers with the fields of the request that begin with one of
// the prefixes, in the order of their names.
func asked(prefixes ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.Header {
			for _, p := range prefixes {
				if strings.HasPrefix(strings.ToLower(strings.ReplaceAll(name, "_", "-")), p) {
					w.Header()["Got-"+name] = values
				}
			}
		}
	})
}

// TestClientIdentity is what applications hear about who a client is: nothing that the client
// says itself, in any spelling, by any protocol.
func TestClientIdentity(t *testing.T) {
	claims := []string{
		"x-forwarded-client-cert", "X-Forwarded-Client-Cert", "x_forwarded_client_cert", "x-forwarded_client-cert",
		"x-envoy-peer-metadata", "x-envoy-peer-metadata-id", "x_envoy_peer_metadata", "x-envoy-downstream-service-cluster",
		"x-istio-attributes", "x-istio-source", "x_istio_source", "x-envoy-external-address", "x-envoy-internal", "x_envoy_external_address",
	}
	for _, tt := range []struct {
		name    string
		reading mesh.Reading
		cert    string   // what the application is told
		kept    []string // of what the client claims
	}{
		{"default", mesh.Reading{}, "", nil},
		{"asked-for", mesh.Reading{ClientCert: true}, "By=" + wpID.String() + ";Hash=$HASH;URI=" + clientID.String(), nil},
		{"trusted-proxy", mesh.Reading{TrustedProxies: 1}, "", []string{"X-Envoy-External-Address", "X-Envoy-Internal", "X_envoy_external_address"}},
		{"paths", mesh.Reading{Paths: mesh.PathMerge}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v [2]*mesh.Service
			r := newRig(t, func(r *rig) mesh.Parts {
				r.reading = tt.reading
				h := asked("x-forwarded-client", "x-envoy", "x-istio")
				w := []*mesh.Workload{r.endpoint("a", h, false), r.endpoint("b", h, true)}
				v = [2]*mesh.Service{r.service("a", 80, mesh.ProtocolHTTP, w[0]), r.service("b", 80, mesh.ProtocolHTTP2, w[1])}
				return mesh.Parts{Workloads: w, Services: v[:]}
			})
			cert, err := r.cache.Get(t.Context(), clientID)
			if err != nil {
				t.Fatal(err)
			}
			told := strings.ReplaceAll(tt.cert, "$HASH", fmt.Sprintf("%x", sha256.Sum256(cert.Leaf.Raw)))
			check := func(how string, h http.Header) {
				t.Helper()
				want := map[string]bool{}
				for _, k := range tt.kept {
					want["Got-"+k] = true
				}
				for name, values := range h {
					if !strings.HasPrefix(name, "Got-") {
						continue
					}
					switch {
					case name == "Got-X-Forwarded-Client-Cert" && tt.cert != "":
						if len(values) != 1 || values[0] != told {
							t.Errorf("%s: the application is told %q, want %q", how, values, told)
						}
					case !want[name]:
						t.Errorf("%s: %s came through: %q", how, name, values)
					}
					delete(want, name)
				}
				for name := range want {
					t.Errorf("%s: %s did not come through", how, name)
				}
				if tt.cert != "" && h["Got-X-Forwarded-Client-Cert"] == nil {
					t.Errorf("%s: the application is told nothing", how)
				}
			}
			for _, svc := range v {
				for round := range 2 { // the connection's second request is like its first
					raw := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-forwarded-client-cert\r\n"
					for _, c := range claims {
						raw += c + ": URI=spiffe://cluster.local/ns/admin/sa/admin\r\n" + c + ": again\r\n"
					}
					resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(r.raw(svc, raw+"\r\n"))), nil)
					if err != nil {
						t.Fatal(err)
					}
					check(fmt.Sprintf("HTTP/1.1 to %s, round %d", svc.Name, round), resp.Header)
				}
				client := r.client(svc, true)
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://a/", nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range claims {
					if c == strings.ToLower(c) {
						req.Header[c] = []string{"URI=spiffe://cluster.local/ns/admin/sa/admin", "again"}
					}
				}
				for round := range 2 {
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					check(fmt.Sprintf("HTTP/2 to %s, round %d", svc.Name, round), resp.Header)
				}
				client.CloseIdleConnections()
			}
		})
	}
}

func TestUnderscores(t *testing.T) {
	for _, tt := range []struct {
		action mesh.Underscores
		field  string
		status int
		got    string // what the application got of it
	}{
		{mesh.UnderscoresAllow, "x_a: 1", 200, "1"},
		{mesh.UnderscoresDrop, "x_a: 1", 200, ""},
		{mesh.UnderscoresDrop, "x-a: 1", 200, ""},
		{mesh.UnderscoresReject, "x_a: 1", 400, ""},
		{mesh.UnderscoresReject, "x-a: _1", 200, ""},
		{mesh.UnderscoresReject, "x-istio_source: _1", 200, ""}, // removed before it is looked at
	} {
		t.Run(tt.action.String()+" "+tt.field, func(t *testing.T) {
			var v *mesh.Service
			r := newRig(t, func(r *rig) mesh.Parts {
				r.reading.Underscores = tt.action
				w := r.endpoint("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header()["Got"] = r.Header["X_a"]
				}), false)
				v = r.service("a", 80, mesh.ProtocolHTTP, w)
				return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
			})
			resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(r.raw(v, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+tt.field+"\r\n\r\n"))), nil)
			if err != nil || resp.StatusCode != tt.status || resp.Header.Get("Got") != tt.got {
				t.Fatalf("got %v, %v; want %d and %q", resp, err, tt.status, tt.got)
			}
			offline, err := NewOffline(wpName, r.snapshots.Current())
			if err != nil {
				t.Fatal(err)
			}
			name, value, _ := strings.Cut(tt.field, ": ")
			said := offline.Explain(&explain.Question{Method: "GET", Path: "/", Host: v.Key.Hostname, Headers: []explain.Header{{Name: name, Value: value}}}, nil)
			if refused := tt.status == 400; (said.Status == 400) != refused || refused && !strings.Contains(said.Why, "has an underscore") {
				t.Errorf("explain says %d %s, want %d", said.Status, said.Why, tt.status)
			}
			r.stop()
			if tt.status == 400 && !strings.Contains(r.log.String(), "unexpected_underscore") {
				t.Errorf("the access log does not say why:\n%s", r.log)
			}
		})
	}
}

// TestReadingChanges puts another level in force under a client's connection.
func TestReadingChanges(t *testing.T) {
	var v *mesh.Service
	var parts mesh.Parts
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Got", r.RequestURI) }), false)
		v = r.service("a", 80, mesh.ProtocolHTTP, w)
		parts = mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
		return parts
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := r.dial(ctx, netip.AddrPortFrom(v.VIPs[0], 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func() string {
		fmt.Fprint(conn, "GET /a%2F//b HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Get("Got")
	}
	if got := ask(); got != "/a%2F//b" {
		t.Errorf("BASE: the application got %q", got)
	}
	parts.Waypoints = []*mesh.Waypoint{{Name: wpName, Class: "cairn-waypoint", Identity: wpID, Addresses: []netip.Addr{r.addr}, Port: 15008, For: mesh.WaypointForAll, Reading: mesh.Reading{Paths: mesh.PathDecode}}}
	r.snapshots.publish(parts)
	for end := time.Now().Add(5 * time.Second); ; {
		got := ask()
		if got == "/a/b" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("DECODE_AND_MERGE_SLASHES: the application got %q", got)
		}
	}
}
