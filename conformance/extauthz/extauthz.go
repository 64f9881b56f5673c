// Package extauthz is an external authorization service on Envoy's published API, by gRPC and by HTTP: the
// one that both waypoints are tested with. It answers as the request's header X-Auth says, a list of words:
//
//	deny=STATUS        refuse with this status and the body "refused by auth"
//	why=VALUE          with this value of X-Why in the refusal
//	user=VALUE         let pass, with X-User in the request
//	strip=NAME         let pass, without this header of the request
//	down=VALUE         let pass, with X-Down in the response
//	query=VALUE        let pass, with the parameter q (gRPC only)
//	wait=DURATION      answer later
//	error              do not answer: a gRPC error, or 503
//
// What passes has X-Saw, which tells what the service saw: METHOD HOST PATH, bytes of the body, whether that
// was a part of it, and by gRPC the protocol.
package extauthz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// Server is the service.
type Server struct {
	auth.UnimplementedAuthorizationServer
	GRPC, HTTP netip.AddrPort
	g          *grpc.Server
	h          *http.Server
}

// Start serves at an address until Stop.
func Start(addr netip.Addr) (*Server, error) {
	s := &Server{g: grpc.NewServer()}
	s.h = &http.Server{Handler: http.HandlerFunc(s.serve)}
	auth.RegisterAuthorizationServer(s.g, s)
	a, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, err
	}
	b, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		a.Close()
		return nil, err
	}
	s.GRPC, s.HTTP = a.Addr().(*net.TCPAddr).AddrPort(), b.Addr().(*net.TCPAddr).AddrPort()
	go func() { _ = s.g.Serve(a) }()
	go func() { _ = s.h.Serve(b) }()
	return s, nil
}

// Stop ends it.
func (s *Server) Stop() {
	s.g.Stop()
	s.h.Close()
}

// orders are the words of X-Auth.
type orders map[string]string

func parse(header string) orders {
	o := orders{}
	for word := range strings.FieldsSeq(header) {
		k, v, _ := strings.Cut(word, "=")
		o[k] = v
	}
	return o
}

// obey waits and reports whether there is to be an error.
func (o orders) obey(ctx context.Context) bool {
	if d, err := time.ParseDuration(o["wait"]); err == nil {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	_, fails := o["error"]
	return fails
}

// denied returns the status of a refusal, 0 for none.
func (o orders) denied() int {
	n, _ := strconv.Atoi(o["deny"])
	return n
}

const refused = "refused by auth"

// Check implements the API.
func (*Server) Check(ctx context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
	h := q.GetAttributes().GetRequest().GetHttp()
	o := parse(h.GetHeaders()["x-auth"])
	if o.obey(ctx) {
		return nil, errors.New("told to")
	}
	if n := o.denied(); n != 0 {
		d := &auth.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(n)}, Body: refused}
		if v := o["why"]; v != "" {
			d.Headers = append(d.Headers, set("x-why", v))
		}
		return &auth.CheckResponse{Status: &rpc.Status{Code: 7}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: d}}, nil
	}
	saw := fmt.Sprintf("%s %s %s %d %s %s", h.GetMethod(), h.GetHost(), h.GetPath(), len(h.GetBody())+len(h.GetRawBody()), h.GetHeaders()["x-envoy-auth-partial-body"], h.GetProtocol())
	ok := &auth.OkHttpResponse{Headers: []*core.HeaderValueOption{set("x-saw", saw), set("x-peer", q.GetAttributes().GetSource().GetPrincipal())}}
	if v := o["user"]; v != "" {
		ok.Headers = append(ok.Headers, set("x-user", v))
	}
	if v := o["strip"]; v != "" {
		ok.HeadersToRemove = append(ok.HeadersToRemove, v)
	}
	if v := o["down"]; v != "" {
		ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, set("x-down", v))
	}
	if v := o["query"]; v != "" {
		ok.QueryParametersToSet = append(ok.QueryParametersToSet, &core.QueryParameter{Key: "q", Value: v})
	}
	return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}}, nil
}

func set(k, v string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: k, Value: v}, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}
}

func (*Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	o := parse(r.Header.Get("X-Auth"))
	if o.obey(r.Context()) {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if n := o.denied(); n != 0 {
		if v := o["why"]; v != "" {
			w.Header().Set("X-Why", v)
		}
		w.WriteHeader(n)
		_, _ = io.WriteString(w, refused)
		return
	}
	w.Header().Set("X-Saw", strings.TrimSpace(fmt.Sprintf("%s %s %s %d %s", r.Method, r.Host, r.RequestURI, len(body), r.Header.Get("X-Envoy-Auth-Partial-Body"))))
	for order, name := range map[string]string{"user": "X-User", "down": "X-Down", "strip": "X-Envoy-Auth-Headers-To-Remove"} {
		if v := o[order]; v != "" {
			w.Header().Set(name, v)
		}
	}
}
