package traffic

import (
	"testing"

	"google.golang.org/grpc/codes"
)

func TestGRPC(t *testing.T) { runGroup(t, "grpc", grpcCases) }

// grpcRoute is a GRPCRoute of the gRPC port of the service echo.
func grpcRoute(name, rules string) string {
	return routeOf("GRPCRoute", name, `{group: "", kind: Service, name: echo, port: 81}`, rules)
}

// grpcToV1 is a route whose first rule leads to v1, and whose second leads everything
// else to v2.
func grpcToV1(matches string) string {
	return grpcRoute("r", "  - matches: ["+matches+"]\n    backendRefs: [{name: v1, port: 81}]\n  - backendRefs: [{name: v2, port: 81}]")
}

const otherCall = "/grpc.health.v1.Health/Check"

var grpcCases = []testCase{
	{
		name: "grpc-service", of: "GRPCRoute by service", mesh: versions, yaml: grpcToV1("{method: {service: grpc.testing.TestService}}"),
		prove: calls(call{pod: "v1"}, call{method: otherCall, pod: "v2"}, call{pod: "v1"}, call{method: otherCall, pod: "v2"}),
	},
	{
		name: "grpc-method", of: "GRPCRoute by service and method", mesh: versions, yaml: grpcToV1("{method: {service: grpc.testing.TestService, method: EmptyCall}}"),
		prove: calls(call{pod: "v1"}, call{method: "/grpc.testing.TestService/UnaryCall", pod: "v2"}, call{method: otherCall, pod: "v2"}),
	},
	{
		name: "grpc-method-alone", of: "GRPCRoute by method alone", mesh: versions, yaml: grpcToV1("{method: {method: EmptyCall}}"),
		prove: calls(call{pod: "v1"}, call{method: otherCall, pod: "v2"}),
	},
	{
		name: "grpc-regex", of: "GRPCRoute by regular expressions", mesh: versions, yaml: grpcToV1(`{method: {type: RegularExpression, service: "grpc\\.test.*", method: "E.*Call"}}`),
		prove: calls(call{pod: "v1"}, call{method: "/grpc.testing.TestService/UnaryCall", pod: "v2"}),
	},
	{
		name: "grpc-headers", of: "GRPCRoute by metadata, exact and by a regular expression", mesh: versions,
		yaml: grpcToV1(`{headers: [{name: x-kind, value: one}]}, {headers: [{name: x-kind, type: RegularExpression, value: "t.o"}]}`),
		prove: calls(
			call{headers: []string{"x-kind", "one"}, pod: "v1"}, call{headers: []string{"x-kind", "two"}, pod: "v1"},
			call{headers: []string{"x-kind", "ones"}, pod: "v2"}, call{pod: "v2"},
		),
	},
	{
		name: "grpc-precedence", of: "GRPCRoute: the longer service and method first, then the most headers", mesh: append([]svc{{name: "v3"}}, versions...),
		yaml: grpcRoute("r", `
  - backendRefs: [{name: echo, port: 81}]
  - matches: [{method: {service: grpc.testing.TestService}}]
    backendRefs: [{name: v1, port: 81}]
  - matches: [{method: {service: grpc.testing.TestService, method: EmptyCall}}]
    backendRefs: [{name: v2, port: 81}]
  - matches: [{method: {service: grpc.testing.TestService, method: EmptyCall}, headers: [{name: x-kind, value: one}]}]
    backendRefs: [{name: v3, port: 81}]`),
		prove: calls(
			call{svc: "echo", headers: []string{"x-kind", "one"}, pod: "v3"}, call{svc: "echo", pod: "v2"},
			call{svc: "echo", method: "/grpc.testing.TestService/UnaryCall", pod: "v1"}, call{svc: "echo", method: otherCall, pod: "echo"},
		),
	},
	{
		name: "grpc-weights", of: "GRPCRoute weights", mesh: versions, yaml: grpcRoute("r", "  - backendRefs: [{name: v1, port: 81, weight: 3}, {name: v2, port: 81, weight: 1}]"),
		prove: func(x *trial) error {
			got, err := x.spreadGRPC(200, ask{})
			if err == nil && (got["v1-1"] < 120 || got["v1-1"] > 180 || got["v1-1"]+got["v2-1"] != 200) {
				err = wrongf("200 calls were answered as %v", got)
			}
			return err
		},
	},
	{
		name: "grpc-filters", of: "GRPCRoute header filters, both ways",
		yaml: grpcRoute("r", `
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: set}], remove: [x-remove]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: set}]}}
    backendRefs: [{name: echo, port: 81}]`),
		prove: calls(call{headers: []string{"x-set", "old", "x-remove", "old"}, seen: []string{"x-set: set", "-x-remove"}, want: []string{"x-answer: set"}}),
	},
	{
		name: "grpc-mirror", of: "GRPCRoute RequestMirror", mesh: versions,
		yaml: grpcRoute("r", "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 81}}}]\n    backendRefs: [{name: echo, port: 81}]"),
		prove: func(x *trial) error {
			if err := calls(call{pod: "echo"}, call{pod: "echo"})(x); err != nil {
				return err
			}
			return eventually(3e9, func() error {
				if n := x.pod("v1-1").calls.Load(); n != 2 {
					return wrongf("the mirror saw %d calls", n)
				}
				return nil
			})
		},
	},
	{
		name: "grpc-no-rule", of: "a call that no rule matches is answered UNIMPLEMENTED",
		yaml: grpcRoute("r", "  - matches: [{method: {service: some.Other}}]\n    backendRefs: [{name: echo, port: 81}]"), prove: calls(call{code: codes.Unimplemented}),
	},
	{
		name: "grpc-missing", of: "a backend that does not exist is answered UNAVAILABLE",
		yaml: grpcRoute("r", "  - backendRefs: [{name: nobody, port: 81}]"), alone: "to Envoy the 500 of a cluster that is not there is UNKNOWN",
		prove: calls(call{code: codes.Unavailable}),
	},
	{
		name: "grpc-no-endpoint", of: "a service without endpoints is answered UNAVAILABLE, in trailers", mesh: []svc{{name: "echo", pods: none}, {name: "other"}},
		prove: calls(call{svc: "echo", code: codes.Unavailable}), untold: true, wrong: calls(call{svc: "other", code: codes.Unavailable}),
	},
	{
		name: "grpc-http1", of: "gRPC's local replies are 200 with trailers only, for whoever looks at HTTP", mesh: []svc{{name: "echo", pods: none}, {name: "other"}}, untold: true,
		prove: grpcOverHTTP("echo"), wrong: grpcOverHTTP("other"),
	},
	{
		name: "grpc-and-http", of: "of an HTTPRoute and a GRPCRoute on one port the older is in force", mesh: versions,
		yaml: "\n---" + oldGRPC + youngHTTP, twin: youngHTTP, alone: "how routes of two kinds get along is told before a proxy is configured",
		prove: calls(call{svc: "echo", pod: "v1"}, call{svc: "echo", pod: "v1"}),
	},
}

const oldGRPC = `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: old, namespace: $NS, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 81}]
  rules:
  - backendRefs: [{name: v1, port: 81}]
`

const youngHTTP = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: young, namespace: $NS, creationTimestamp: "2026-02-01T00:00:00Z"}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 81}]
  rules:
  - matches: [{path: {type: Exact, value: /grpc.testing.TestService/EmptyCall}}]
    backendRefs: [{name: v2, port: 81}]
`

// grpcOverHTTP asks for a call of a service without endpoints by HTTP.
func grpcOverHTTP(service string) func(*trial) error {
	return func(x *trial) error {
		r, err := x.send(ask{svc: service, port: portGRPC, h2: true, method: "POST", path: emptyCall, body: "\x00\x00\x00\x00\x00", headers: []string{"content-type", "application/grpc", "te", "trailers"}})
		if err != nil {
			return err
		}
		if r.status != 200 || r.header.Get("grpc-status") != "14" || r.header.Get("content-type") != "application/grpc" || len(r.body) > 0 {
			return wrongf("answered %d %v with %q", r.status, r.header, r.body)
		}
		return nil
	}
}
