// Package httpbin is the part of httpbin that guides and tests of service
// meshes use: a server that shows requests and makes the response it is asked
// for.
//
//	/get /post /put /patch /delete /anything[/…]   the request, as JSON
//	/headers /ip /user-agent /cookies /hostname /uuid
//	/cookies/set?k=v  /cookies/delete?k
//	/status/CODE[:WEIGHT],…    one of the statuses by chance; /unstable
//	/delay/N                   wait N seconds (a Go duration works too)
//	/bytes/N /stream-bytes/N /range/N /stream/N /drip /base64/VALUE
//	/redirect/N /relative-redirect/N /absolute-redirect/N /redirect-to?url=
//	/response-headers?k=v  /cache /cache/N /etag/TAG
//	/basic-auth/USER/PASSWORD  /hidden-basic-auth/USER/PASSWORD  /bearer
//	/gzip /deflate /html /json /xml /robots.txt /deny /encoding/utf8
//	/websocket/echo
//
// There are two families of httpbin: in Go a header is a list of strings, in
// Python one string; Options choose.
package httpbin
