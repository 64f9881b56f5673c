package waypoint

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"

	"cairnproxy.dev/cairn/filters/extauthz/extauthztest"
	"cairnproxy.dev/cairn/mesh"
)

// TestExtAuthzInTheWaypoint asks a service of the mesh over HBONE, by gRPC and HTTP, for a CUSTOM policy and for a route.
func TestExtAuthzInTheWaypoint(t *testing.T) {
	const large = 1 << 20
	server := extauthztest.Start(t, func(_ context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
		h := q.GetAttributes().GetRequest().GetHttp()
		option := func(k, v string) []*core.HeaderValueOption {
			return []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: k, Value: v}}}
		}
		if h.GetHeaders()["x-auth"] == "deny" {
			return &auth.CheckResponse{Status: &rpc.Status{Code: 7}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
				Status: &typev3.HttpStatus{Code: 401}, Body: "log in", Headers: option("www-authenticate", "Basic"),
			}}}, nil
		}
		seen := fmt.Sprintf("%s %d", q.GetAttributes().GetSource().GetPrincipal(), len(h.GetRawBody()))
		return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{ResponseHeadersToAdd: option("x-seen", seen)}}}, nil
	}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Auth") == "deny" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	grpcAddr, httpAddr := server.Addrs()
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.endpoint("web", named("web"), true)
		v = r.service("web", 80, mesh.ProtocolHTTP, w)
		g, h := r.node("grpc", grpcAddr), r.node("http", httpAddr)
		gs, hs := r.service("grpc", 9000, mesh.ProtocolGRPC, g), r.service("http", 8000, mesh.ProtocolHTTP, h)
		return mesh.Parts{
			Workloads: []*mesh.Workload{w, g, h}, Services: []*mesh.Service{v, gs, hs},
			Policies: []*mesh.AuthorizationPolicy{{
				Name: mesh.Name{Namespace: v.Key.Namespace, Name: "p"}, Action: mesh.ActionCustom, TargetRefs: []mesh.TargetRef{{Kind: "Service", Name: "web"}},
				Provider: &mesh.ExtAuthz{Name: "x", Service: gs.Key, Port: 9000, GRPC: true, Body: large, PackAsBytes: true},
				Rules:    []mesh.AuthzRule{{To: []mesh.AuthzOperation{{Paths: []string{"/grpc*", "/none"}}}}},
			}},
			Attachments: []mesh.RouteAttachment{
				route("r", 1, v, mesh.Route{
					Matches: []mesh.RouteMatch{{Path: &mesh.StringMatch{Kind: mesh.MatchPrefix, Value: "/http"}}}, Backends: []mesh.Backend{to(v, 1)},
					Filters: mesh.RouteFilters{ExternalAuth: &mesh.ExtAuthz{Service: hs.Key, Port: 8000, RequestHeaders: []string{"x-auth"}}},
				}),
				route("s", 2, v, mesh.Route{Matches: []mesh.RouteMatch{{Path: &mesh.StringMatch{Kind: mesh.MatchPrefix, Value: "/grpc"}}}, Backends: []mesh.Backend{to(v, 1)}}),
			},
		}
	})
	for _, h2 := range []bool{true, false} {
		c := r.client(v, h2)
		for _, tt := range []struct {
			path, auth string
			body       int
			want       string
		}{
			{"/grpc", "", 0, "200 " + clientID.String() + " 0"},
			{"/grpc", "", large, "200 " + clientID.String() + " " + fmt.Sprint(large)},
			{"/grpc", "", large + 1, "413 "},
			{"/grpc", "deny", 0, "401 "},
			{"/none", "", 0, "404 " + clientID.String() + " 0"}, // our own reply is edited, too
			{"/http", "", 0, "200 "},
			{"/http", "deny", 0, "418 "},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://web"+tt.path, bytes.NewReader(make([]byte, tt.body)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Auth", tt.auth)
			resp, err := c.Do(req)
			if err != nil {
				t.Errorf("%s %q %d: %v", tt.path, tt.auth, tt.body, err)
				continue
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if got := fmt.Sprintf("%d %s", resp.StatusCode, resp.Header.Get("X-Seen")); got != tt.want {
				t.Errorf("%s %q %d: %s, want %s", tt.path, tt.auth, tt.body, got, tt.want)
			}
		}
	}
	var text bytes.Buffer
	if err := r.metrics.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if want := `cairn_ext_authz_total{provider="x",result="denied"`; !strings.Contains(text.String(), want) {
		t.Errorf("the metrics lack %s:\n%s", want, text.String())
	}
	r.stop()
	if got := r.log.String(); strings.Count(got, "401 UAEX ext_authz_denied") != 2 || strings.Count(got, "413 - request_payload_too_large") != 2 {
		t.Errorf("the access log:\n%s", got)
	}
}
