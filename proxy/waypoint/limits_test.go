package waypoint

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"cairnproxy.dev/cairn/filters/ratelimit/ratelimittest"
	"cairnproxy.dev/cairn/mesh"
)

// limited is a rig with a service under a request policy, and another whose endpoint
// is a rate limit service in the mesh.
func limited(t *testing.T, server *ratelimittest.Server, p func(limits mesh.ServiceKey) *mesh.RequestPolicy) (*rig, *mesh.Service) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("web", named("web"), true)
		v = r.service("web", 80, mesh.ProtocolHTTP, w)
		parts := mesh.Parts{Workloads: []*mesh.Workload{w}}
		var limits mesh.ServiceKey
		if server != nil {
			l := r.node("limits", server.Addr())
			s := r.service("limits", 8081, mesh.ProtocolGRPC, l)
			limits = s.Key
			parts.Workloads, parts.Services = append(parts.Workloads, l), append(parts.Services, s)
		}
		v.Ports[0].Requests = p(limits)
		parts.Services = append(parts.Services, v)
		return parts
	})
	return r, v
}

func TestLocalLimitInTheWaypoint(t *testing.T) {
	policy := mesh.Name{Namespace: "app", Name: "p"}
	r, v := limited(t, nil, func(mesh.ServiceKey) *mesh.RequestPolicy {
		return &mesh.RequestPolicy{RateLimit: &mesh.RateLimit{Policy: policy, Local: []mesh.LocalLimit{
			{Name: "two", Requests: 2, Per: time.Hour, When: "destination.service == 'web.app.svc.cluster.local'"},
			{Name: "dry", Requests: 1, Per: time.Hour, DryRun: true},
		}}}
	})
	c := r.client(v, true)
	for i, want := range []string{"200 1 web GET / 0", "200 0 web GET / 0", "429 0 local_rate_limited"} {
		status, body, h := get(t, c, "http://web/")
		if got := fmt.Sprintf("%d %s %s", status, h.Get("ratelimit-remaining"), body); got != want {
			t.Errorf("request %d: %s, want %s", i, got, want)
		}
		if (h.Get("retry-after") != "") != (status == 429) {
			t.Errorf("request %d: retry-after %q", i, h.Get("retry-after"))
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://web/pkg.Service/Method", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("content-type", "application/grpc")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("grpc-status") != "8" || resp.Header.Get("retry-after") == "" {
		t.Errorf("gRPC: %d %v", resp.StatusCode, resp.Header)
	}
	var text bytes.Buffer
	if err := r.metrics.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`cairn_ratelimit_total{limit="two",policy="p",policy_namespace="app",result="limited"} 2`,
		`cairn_ratelimit_total{limit="dry",policy="p",policy_namespace="app",result="dry_run"} 1`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	r.stop()
	if got := r.log.String(); strings.Count(got, "429 RL local_rate_limited") != 1 || strings.Count(got, "200 RL local_rate_limited") != 1 {
		t.Errorf("the access log:\n%s", got)
	}
}

func TestFaultsInTheWaypoint(t *testing.T) {
	header := func(value string) []mesh.NamedMatch {
		return []mesh.NamedMatch{{Name: "x-fault", StringMatch: mesh.StringMatch{Value: value}}}
	}
	const all = 1_000_000
	r, v := limited(t, nil, func(mesh.ServiceKey) *mesh.RequestPolicy {
		return &mesh.RequestPolicy{Faults: &mesh.Faults{List: []mesh.Fault{
			{Headers: header("delay"), Delay: 30 * time.Millisecond, DelayPPM: all, GRPCStatus: -1},
			{Headers: header("abort"), Status: 418, AbortPPM: all, GRPCStatus: -1},
			{Headers: header("both"), Delay: 30 * time.Millisecond, DelayPPM: all, MaxActive: 5, GRPCStatus: 14, AbortPPM: all},
		}}}
	})
	c := r.client(v, false)
	for _, tt := range []struct {
		fault, want string
		least       time.Duration
	}{{"", "200 web GET / 0", 0}, {"delay", "200 web GET / 0", 30 * time.Millisecond}, {"abort", "418 fault filter abort", 0}, {"both", "503 fault filter abort", 30 * time.Millisecond}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://web/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("x-fault", tt.fault)
		begin := time.Now()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("%d %s", resp.StatusCode, body); got != tt.want {
			t.Errorf("fault %q: %s, want %s", tt.fault, got, tt.want)
		}
		if took := time.Since(begin); took < tt.least {
			t.Errorf("fault %q: after %v, want at least %v", tt.fault, took, tt.least)
		}
	}
	r.stop()
	for _, want := range []string{"200 - via_upstream", "200 DI via_upstream", "418 FI fault_filter_abort", "503 DI,FI fault_filter_abort"} {
		if got := r.log.String(); strings.Count(got, want) != 1 {
			t.Errorf("%q is not in the access log:\n%s", want, got)
		}
	}
}

func TestGlobalLimitInTheWaypoint(t *testing.T) {
	server := ratelimittest.Start(t, func(_ context.Context, q *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		code := rls.RateLimitResponse_OK
		if q.GetDescriptors()[0].GetEntries()[0].GetValue() == "/over" {
			code = rls.RateLimitResponse_OVER_LIMIT
		}
		return &rls.RateLimitResponse{OverallCode: code}, nil
	})
	r, v := limited(t, server, func(limits mesh.ServiceKey) *mesh.RequestPolicy {
		return &mesh.RequestPolicy{RateLimit: &mesh.RateLimit{Global: &mesh.GlobalLimit{
			Service: limits, Port: 8081, Domain: "d", Timeout: 10 * time.Second,
			Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Key: "path", Expr: "request.path"}, {Key: "who", Expr: "source.principal"}}}},
		}}}
	})
	c := r.client(v, true)
	for path, want := range map[string]string{"/ok": "200 web GET /ok 0", "/over": "429 "} {
		for range 3 {
			status, body, _ := get(t, c, "http://web"+path)
			if got := fmt.Sprintf("%d %s", status, body); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
	asked := server.Asked()
	if len(asked) != 6 || asked[0].GetDescriptors()[0].GetEntries()[1].GetValue() != clientID.Principal() {
		t.Errorf("asked %d times: %v", len(asked), asked)
	}
	r.stop()
	if got := r.log.String(); strings.Count(got, "429 RL request_rate_limited") != 3 {
		t.Errorf("the access log:\n%s", got)
	}
}

// TestDryRunIsLogged: the access log of JSON says what a policy in dry run would have done.
func TestDryRunIsLogged(t *testing.T) {
	x := &exchange{}
	if got := x.dryRun(); got != "" {
		t.Errorf("without notes: %q", got)
	}
	x.fx.Notes().WouldLimit = "app/p/two"
	if got := x.dryRun(); got != "limited by app/p/two" {
		t.Error(got)
	}
	x.fx.Notes().WouldDeny = mesh.Name{Namespace: "app", Name: "q"}
	if got := x.dryRun(); got != "denied by app/q, limited by app/p/two" {
		t.Error(got)
	}
	x.fx.ForgetNotes()
	if got := x.dryRun(); got != "" {
		t.Errorf("notes that were forgotten: %q", got)
	}
}

// TestServiceConnection uses a dialed service as a net.Conn: bulk both ways, deadlines, and ends.
func TestServiceConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	var s *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.node("echo", ln.Addr().String())
		s = r.service("echo", 7, mesh.ProtocolTCP, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{s}}
	})
	c, err := r.proxy.DialService(t.Context(), s.Key, 7, "h2")
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB: more than all windows
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("what came back is not what went: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var nerr net.Error
	if _, err := c.Read(got); err == nil || !asNetError(err, &nerr) || !nerr.Timeout() {
		t.Errorf("after the deadline: %v", err)
	}
	_ = c.SetDeadline(time.Time{})
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(got)
		read <- err
	}()
	c.Close()
	if err := <-read; err == nil {
		t.Error("a read of a closed connection succeeded")
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a write to a closed connection succeeded")
	}
	for name, key := range map[string]struct {
		key  mesh.ServiceKey
		port uint16
	}{"no service": {mesh.ServiceKey{Namespace: "app", Hostname: "none"}, 7}, "no port": {s.Key, 8}} {
		if _, err := r.proxy.DialService(t.Context(), key.key, key.port, "h2"); err == nil {
			t.Errorf("%s: dialed", name)
		}
	}
}

func asNetError(err error, to *net.Error) bool {
	e, ok := err.(net.Error)
	*to = e
	return ok
}

// idleLimits is a policy of limits that a request passes, or that are not for it, and of faults
// that are not for it.
func idleLimits(parts *mesh.Parts, v *mesh.Service) {
	header := []mesh.NamedMatch{{Name: "x-fault", StringMatch: mesh.StringMatch{Value: "yes"}}}
	v.Ports[0].Requests = &mesh.RequestPolicy{
		RateLimit: &mesh.RateLimit{
			Local: []mesh.LocalLimit{
				{Name: "all", Requests: 1e9, Per: time.Second},
				{Name: "each", Requests: 1e9, Per: time.Second, Key: []string{"source.principal"}},
				{Name: "other", Requests: 1, Per: time.Hour, When: "'x-none' in request.headers"},
			},
			Global: &mesh.GlobalLimit{
				Domain: "d", Broken: "never asked", Descriptors: []mesh.Descriptor{{Entries: []mesh.DescriptorEntry{{Key: "a", Value: "b"}}, When: "request.method == 'DELETE'"}},
			},
		},
		Faults: &mesh.Faults{List: []mesh.Fault{
			{Headers: header, Delay: time.Second, DelayPPM: 1_000_000, GRPCStatus: -1},
			{When: "source.namespace == 'test'", Status: 503, AbortPPM: 500_000, GRPCStatus: -1},
		}},
	}
}

// Limits and faults that do not fire allocate nothing.
func TestAllocationsWithIdleLimits(t *testing.T) {
	if raceDetector {
		t.Skip("pools forget under the race detector")
	}
	b := newBench(t, benchRequest, benchResponse+strings.Repeat("x", 1024), idleLimits)
	if n := allocations(t, b.round, 1100); n > 0 {
		t.Errorf("%v allocations per request, want none", n)
	}
}
