package waypoint

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// until waits for something to become true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// govern puts a backend policy of v's port in force.
func (r *rig) govern(v *mesh.Service, policy *mesh.BackendPolicy) {
	p := r.snapshots.Current().Given()
	c := *v
	c.Ports = []mesh.ServicePort{v.Ports[0]}
	c.Ports[0].Backend = policy
	p.Services = []*mesh.Service{&c}
	r.snapshots.publish(p)
	version := r.snapshots.Current().Version
	until(r.t, "the policy is in force", func() bool { return r.proxy.runtime.Load().snapshot.Version == version })
}

// conditions are those of v's endpoints, as the admin server has them.
func (r *rig) conditions() string {
	for _, c := range r.proxy.ConfigDump().(Config).Clusters {
		if strings.HasPrefix(c.Name, "inbound-vip") {
			var list []string
			for _, e := range c.Endpoints {
				list = append(list, e.Condition)
			}
			return strings.Join(list, ",")
		}
	}
	return "none"
}

func TestBreakerOpensAndCloses(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			var v *mesh.Service
			hold, held := make(chan struct{}), make(chan struct{}, 16)
			r := newRig(t, func(r *rig) mesh.Parts {
				w := r.endpoint("web", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					held <- struct{}{}
					<-hold
				}), true)
				v = r.service("web", 80, mesh.ProtocolHTTP, w)
				v.Ports[0].Backend = &mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{MaxRequests: 2}}
				return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
			})
			var wg sync.WaitGroup
			for range 2 {
				c := r.client(v, h2)
				wg.Go(func() {
					if status, _, _ := get(t, c, "http://web/"); status != 200 {
						t.Errorf("a request within the bound got %d", status)
					}
				})
				<-held
			}
			start := time.Now()
			status, body, hd := get(t, r.client(v, h2), "http://web/")
			if status != 503 || hd.Get("x-envoy-overloaded") != "true" || !strings.HasSuffix(body, "reset reason: overflow") {
				t.Errorf("over the bound: %d %q %v", status, body, hd)
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("it took %s to be refused", d)
			}
			if n := counter(t, r, "envoy_cluster_circuit_breakers_default_rq_open", "web"); n != 1 {
				t.Errorf("the metric says that it is open: %v", n)
			}
			if n := counter(t, r, "envoy_cluster_upstream_rq_pending_overflow", "web"); n != 1 {
				t.Errorf("the metric counts %v overflows", n)
			}
			if s := r.proxy.ConfigDump().(Config); !strings.Contains(fmt.Sprintf("%+v", s.Clusters), "requests 2/2") {
				t.Errorf("the dump does not tell: %+v", s.Clusters)
			}
			close(hold)
			wg.Wait()
			if status, _, _ := get(t, r.client(v, h2), "http://web/"); status != 200 {
				t.Errorf("afterwards a request got %d", status)
			}
			if n := counter(t, r, "envoy_cluster_circuit_breakers_default_rq_open", "web"); n != 0 {
				t.Errorf("the metric says that it is still open: %v", n)
			}
			if n := counter(t, r, "istio_requests_total", `response_flags="UO"`, `response_code="503"`); n != 1 {
				t.Errorf("%v requests have the flag UO", n)
			}
		})
	}
}

func TestFlakyEndpointIsEjected(t *testing.T) {
	var v *mesh.Service
	var bad atomic.Bool
	var hits atomic.Int64
	bad.Store(true)
	r := newRig(t, func(r *rig) mesh.Parts {
		a, b := r.endpoint("a", named("a"), true), r.endpoint("b", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hits.Add(1)
			if bad.Load() {
				w.WriteHeader(502)
			}
		}), true)
		v = r.service("web", 80, mesh.ProtocolHTTP, a, b)
		return mesh.Parts{Workloads: []*mesh.Workload{a, b}, Services: []*mesh.Service{v}}
	})
	policy := func(base time.Duration) *mesh.BackendPolicy {
		return &mesh.BackendPolicy{Outlier: &mesh.OutlierDetection{ConsecutiveGateway: 2, BaseEjection: base, Interval: time.Hour}}
	}
	r.govern(v, policy(200*time.Millisecond))
	c := r.client(v, false)
	until(t, "the endpoint is ejected", func() bool {
		get(t, c, "http://web/")
		return r.conditions() == ",ejected"
	})
	if n := hits.Load(); n != 2 {
		t.Errorf("the failing endpoint got %d requests, want 2", n)
	}
	bad.Store(false)
	until(t, "it comes back", func() bool { return r.conditions() == "," })
	until(t, "it gets requests", func() bool {
		if status, _, _ := get(t, c, "http://web/"); status != 200 {
			t.Fatalf("a request got %d", status)
		}
		return hits.Load() > 2
	})
	// A change of policy keeps what is ejected, one that has no more to say of it does not.
	bad.Store(true)
	r.govern(v, policy(time.Hour))
	until(t, "it is ejected again", func() bool {
		get(t, c, "http://web/")
		return r.conditions() == ",ejected"
	})
	n := hits.Load()
	r.govern(v, policy(2*time.Hour))
	for range 30 {
		if status, _, _ := get(t, c, "http://web/"); status != 200 {
			t.Fatalf("after a change of policy a request got %d", status)
		}
	}
	if hits.Load() != n {
		t.Error("a change of policy brought an ejected endpoint back")
	}
	if n := counter(t, r, "envoy_cluster_outlier_detection_ejections_active", "web"); n != 1 {
		t.Errorf("the metric says that %v are ejected", n)
	}
	r.govern(v, &mesh.BackendPolicy{Breaker: &mesh.CircuitBreaker{}})
	until(t, "without the policy it is back", func() bool { return r.conditions() == "," })
}

// grpcHealth is a server of grpc.health.v1 that answers with a status.
func grpcHealth(status *atomic.Int64, want string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "grpc-status")
		if r.URL.Path != "/grpc.health.v1.Health/Check" || !strings.HasSuffix(string(b), want) || len(b) != 7+len(want) {
			w.Header().Set("grpc-status", "12")
			return
		}
		msg := []byte{1 << 3, byte(status.Load())}
		w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...))
		w.Header().Set("grpc-status", "0")
	})
}

func TestHealthChecks(t *testing.T) {
	var state atomic.Int64 // 1 is healthy
	state.Store(1)
	httpHealth := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.RequestURI() != "/healthz?full=1" || r.Host != "web.app.svc.cluster.local" || r.UserAgent() != "Cairn/HC":
			w.WriteHeader(404)
		case state.Load() != 1:
			w.WriteHeader(500)
		default:
			w.WriteHeader(207)
		}
	})
	for _, tc := range []struct {
		name  string
		proto mesh.AppProtocol
		check mesh.HealthCheck
		serve http.Handler
	}{
		{"http1", mesh.ProtocolHTTP, mesh.HealthCheck{Path: "/healthz?full=1"}, httpHealth},
		{"http2", mesh.ProtocolHTTP2, mesh.HealthCheck{Path: "/healthz?full=1", Statuses: [][2]int{{200, 200}, {207, 207}}}, httpHealth},
		{"grpc", mesh.ProtocolGRPC, mesh.HealthCheck{Kind: mesh.HealthGRPC, Service: "shop.Cart"}, grpcHealth(&state, "shop.Cart")},
		{"tcp", mesh.ProtocolTCP, mesh.HealthCheck{Kind: mesh.HealthTCP}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state.Store(1)
			var v *mesh.Service
			tc.check.Interval, tc.check.Timeout = 20*time.Millisecond, 2*time.Second
			tc.check.Healthy, tc.check.Unhealthy = 2, 2
			var addr atomic.Value
			r := newRig(t, func(r *rig) mesh.Parts {
				var w *mesh.Workload
				if tc.serve != nil {
					w = r.endpoint("a", tc.serve, true)
				} else {
					ln, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { ln.Close() })
					addr.Store(ln.Addr().String())
					w = r.nodeAt("a", func() string {
						if state.Load() != 1 {
							return "127.0.0.1:1"
						}
						return addr.Load().(string)
					})
				}
				v = r.service("web", 80, tc.proto, w)
				v.Ports[0].Backend = &mesh.BackendPolicy{Health: &tc.check}
				return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
			})
			if c := r.conditions(); c != "" {
				t.Fatalf("before it was asked an endpoint is %s", c)
			}
			state.Store(2)
			until(t, "it is found unhealthy", func() bool { return r.conditions() == "unhealthy" })
			if tc.proto == mesh.ProtocolHTTP {
				until(t, "it is not used", func() bool {
					status, body, _ := get(t, r.client(v, false), "http://web/")
					return status == 503 && body == "no healthy upstream"
				})
			}
			state.Store(1)
			until(t, "it is found healthy again", func() bool { return r.conditions() == "" })
			state.Store(2)
			until(t, "it is found unhealthy again", func() bool { return r.conditions() == "unhealthy" })
			r.govern(v, nil)
			if c := r.conditions(); c != "" {
				t.Errorf("without the policy it is %s", c)
			}
			until(t, "checks end", func() bool { return r.proxy.checking.Load() == 0 })
		})
	}
}

// A server that never answers is unhealthy after its timeouts, and holds nobody up: neither
// others' checks nor the proxy's end.
func TestHealthCheckOfASilentServer(t *testing.T) {
	var v *mesh.Service
	silent := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	r := newRig(t, func(r *rig) mesh.Parts {
		a, b := r.endpoint("a", silent, true), r.endpoint("b", named("b"), true)
		v = r.service("web", 80, mesh.ProtocolHTTP, a, b)
		v.Ports[0].Backend = &mesh.BackendPolicy{Health: &mesh.HealthCheck{Interval: 10 * time.Millisecond, Timeout: 50 * time.Millisecond, Unhealthy: 2}}
		return mesh.Parts{Workloads: []*mesh.Workload{a, b}, Services: []*mesh.Service{v}}
	})
	until(t, "it is found unhealthy", func() bool { return r.conditions() == "unhealthy," })
	if n := counter(t, r, "envoy_cluster_membership_healthy", "web"); n != 1 {
		t.Errorf("the metric says that %v are healthy", n)
	}
	r.stop()
	if n := r.proxy.checking.Load(); n != 0 {
		t.Errorf("%d checks are under way after the end", n)
	}
}

func FuzzServing(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if serving(b) && (len(b) < 7 || b[0] != 0) {
			t.Errorf("%x is taken for an answer that says SERVING", b)
		}
	})
}
