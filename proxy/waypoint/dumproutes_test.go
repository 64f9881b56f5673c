package waypoint

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/mesh"
)

// Host names of a route that is attached to the waypoint choose among requests; what no route is for
// finds the service itself.
func TestHostnamesOfRoutes(t *testing.T) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		a, b, self := r.endpoint("a", named("a"), false), r.endpoint("b", named("b"), false), r.endpoint("self", named("self"), false)
		va, vb := r.service("a", 80, mesh.ProtocolHTTP, a), r.service("b", 80, mesh.ProtocolHTTP, b)
		v = r.service("web", 80, mesh.ProtocolHTTP, self)
		one := route("one", 0, v, mesh.Route{Hostnames: []string{"one.example.com"}, Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/x")}, Backends: []mesh.Backend{to(va, 1)}})
		wild := route("wild", 0, v, mesh.Route{Hostnames: []string{"*.example.org"}, Backends: []mesh.Backend{to(vb, 1)}})
		return mesh.Parts{Workloads: []*mesh.Workload{a, b, self}, Services: []*mesh.Service{v, va, vb}, Attachments: []mesh.RouteAttachment{one, wild}}
	})
	c := r.client(v, false)
	for _, tt := range []struct{ url, want string }{
		{"http://one.example.com/x", "a "},
		{"http://deep.in.example.org/", "b "},
		{"http://web/", "self "},
	} {
		if _, body, _ := get(t, c, tt.url); !strings.HasPrefix(body, tt.want) {
			t.Errorf("%s goes to %q, want %q", tt.url, body, tt.want)
		}
	}
	if status, _, _ := get(t, c, "http://one.example.com/y"); status != 404 {
		t.Errorf("no rule is for this path of a name that a route is for: got %d, want 404", status)
	}
}

func TestDumpRoutes(t *testing.T) {
	r := newRig(t, func(r *rig) mesh.Parts {
		a := r.endpoint("a", named("a"), false)
		va := r.service("a", 80, mesh.ProtocolHTTP, a)
		va.Ports[0].Requests = &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: time.Minute, Idle: mesh.Never}}
		at := route("r", 0, va, mesh.Route{
			RuleName: "canary", Matches: []mesh.RouteMatch{pathMatch(mesh.MatchPrefix, "/v1/")},
			Filters:  mesh.RouteFilters{Rewrite: &mesh.Rewrite{Hostname: "h"}},
			Requests: &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: time.Second}, Retry: &mesh.Retry{Attempts: 2, Codes: []int{503}, On: mesh.RetryReset}},
			Backends: []mesh.Backend{to(va, 9), {Weight: 1, Broken: "Service x does not exist"}},
		})
		statusOf := func(name string, parent mesh.Name, c mesh.Condition) *mesh.Status {
			return &mesh.Status{Kind: "HTTPRoute", Object: mesh.Name{Namespace: "app", Name: name}, Parents: []mesh.ParentStatus{{
				Parent: mesh.ParentRef{Kind: "Service", Name: parent, Port: 80}, Conditions: []mesh.Condition{c},
			}}}
		}
		ours := mesh.Name{Namespace: va.Key.Namespace, Name: va.Name}
		return mesh.Parts{
			Workloads: []*mesh.Workload{a}, Services: []*mesh.Service{va}, Attachments: []mesh.RouteAttachment{at},
			Statuses: []*mesh.Status{
				statusOf(at.Route.Object.Name, ours, mesh.Condition{Type: "Accepted", True: true, Reason: "Accepted"}),
				statusOf("refused", ours, mesh.Condition{Type: "Accepted", Reason: "Conflicted", Message: "why"}),
				statusOf("elsewhere", mesh.Name{Namespace: "x", Name: "y"}, mesh.Condition{Type: "Accepted", True: true}),
			},
		}
	})
	b, err := json.Marshal(r.proxy.ConfigDump())
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	svc := got.Services[0].Hostname
	key := strings.Split(got.Routes[0].Rules[0].Backends[0].Service, "/")[0]
	parent := func(name, status, reason, message string) []ConfigParent {
		return []ConfigParent{{Parent: name, Conditions: []ConfigCondition{{"Accepted", status, reason, message}}}}
	}
	want := []ConfigRouteObject{
		{
			Kind: "HTTPRoute", Name: "app/r", Parents: parent(got.Routes[0].Parents[0].Parent, "True", "Accepted", ""),
			Rules: []ConfigRule{{
				Name: "canary", Matches: []string{"/v1/*"}, Filters: []string{"rewrite host h"},
				Ports:    []ConfigRulePort{{Hostname: svc, Port: 80, Policy: "timeout=1s idle=none retry=2x503,reset"}},
				Backends: []ConfigBackend{{Service: key + "/" + svc, Port: 80, Weight: 9}, {Service: "nothing", Weight: 1, Broken: "Service x does not exist"}},
			}},
		},
		{Kind: "HTTPRoute", Name: "app/refused", Parents: parent(got.Routes[0].Parents[0].Parent, "False", "Conflicted", "why")},
	}
	if d := cmp.Diff(want, got.Routes); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
	if len(got.Statuses) != 3 {
		t.Errorf("%d statuses, want all 3", len(got.Statuses))
	}
}
