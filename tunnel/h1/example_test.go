package h1_test

import (
	"fmt"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
)

// A connection keeps what it has read, and hands on as much as is complete.
func Example() {
	in := []byte("POST /a/../b?c HTTP/1.1\r\nHost: Example.com\r\nTransfer-Encoding: chunked\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\n" +
		"5\r\nhello\r\n0\r\n\r\n")

	n := h1.FindHeadEnd(in, 0)
	var req mesh.Request
	var f h1.Framing
	if err := h1.ParseRequest(in[:n], nil, &req, &f); err != nil {
		fmt.Println(err) // a *h1.ParseError: answer with its Status, and close
		return
	}
	f.Close = false // that was between the client and us
	out := h1.AppendRequest(nil, &req, f)

	var body h1.Body
	body.Reset(f, nil)
	for in, done := in[n:], false; !done; {
		var data []byte
		var err error
		if data, n, done, err = body.Next(in); err != nil {
			fmt.Println(err)
			return
		}
		out, in = h1.AppendChunk(out, data), in[n:]
	}
	out = h1.AppendLastChunk(out, body.Trailers())
	fmt.Printf("%q\n", out)
	// Output: "POST /b?c HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
}
