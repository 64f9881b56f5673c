// Package echo is a server that says what it was asked: the sample to point a
// mesh at when the question is "what arrived, and where?".
//
// Every path answers a JSON description of the request (see Report); some do
// more first:
//
//	/status/CODE                answer with this status, 200 to 599
//	/delay/DURATION             wait ("250ms"; a bare number is seconds) before the answer
//	/bytes/N                    N bytes instead of JSON
//	/stream/N/INTERVAL          N lines of JSON, one each INTERVAL, each flushed
//	/flaky/FAILURES/OF/CODE     of each OF requests the first FAILURES answer CODE;
//	                            counted per path and query, so ?key=x counts alone
//	/fail/CODE/DURATION         from now on this pod answers CODE to everything, for DURATION; 0s ends it
//	/count                      how many requests this pod has had, this one and those to /fail apart
//	/ws                         WebSocket, every message comes back
//
// "?trailers=1" on any path adds the trailers X-Body-Bytes and X-Pod. Request
// bodies of any size are read and counted while they stream in, never kept.
//
// gRPC is spoken on the same port, with health checking (grpc.health.v1) and
// this service, which grpc.go describes:
//
//	cairn.sample.v1.Echo    Unary, ServerStream, ClientStream, Bidi
package echo
