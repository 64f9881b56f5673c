// Package traffic is the black-box suite of L7 traffic management: what a
// waypoint does with requests and connections, and how it copes when endpoints
// do not. Each case is manifests, requests, and what must be answered. It runs
// over real HBONE against `cairn waypoint`, and, where Envoy has the feature,
// against Envoy that is configured for the same behaviour:
//
//	test ─► node.Client ══HBONE══► waypoint ══HBONE══► node.Server ─► application of the test
//
// Every case has a negative twin: the same requests to the same services
// without what the case is about. The twin must fail, which shows that the case
// can.
//
//	lab_test.go       a waypoint, its services, pods and clients
//	case_test.go      what a case is, how it runs, the table of results
//	ask_test.go       one request and what must be answered
//	app_test.go       what runs in the pods
//	translate_test.go what the manifests of a case say to Envoy
//	*_cases_test.go   the cases, by group; official_cases_test.go are the twins of Gateway API's mesh suite
//	interop_test.go, websocket_test.go, ratelimit_test.go, clients_test.go: programs and libraries of others
//
// The table of cases and peers is written to ../results/traffic.md. What a peer
// cannot do is listed there with the reason.
package traffic
