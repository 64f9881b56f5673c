package h1

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

const (
	benchRequest = "GET /productpage/v1/reviews?id=7 HTTP/1.1\r\nHost: productpage.default.svc.cluster.local:9080\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: text/html,application/xhtml+xml\r\n" +
		"Accept-Encoding: gzip, deflate\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n" +
		"X-Request-Id: 6f1d2c3b-4a5e-6f70-8192-a3b4c5d6e7f8\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n" +
		"X-Forwarded-For: 10.1.2.3\r\nConnection: keep-alive\r\n\r\n"
	benchResponse = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n" +
		"Server: echo\r\nX-Request-Id: 6f1d2c3b-4a5e-6f70-8192-a3b4c5d6e7f8\r\nCache-Control: no-store\r\n\r\n"
)

func TestNoAllocations(t *testing.T) {
	var req mesh.Request
	var resp mesh.Response
	var f Framing
	var body Body
	buf, out := make([]byte, 4096), make([]byte, 0, 4096)
	chunks := []byte("5;x=y\r\nhello\r\n0\r\na: b\r\n\r\n")
	bad := []string{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "GET /\n\n"}
	tests := []struct {
		name string
		run  func() bool
	}{
		{"request", func() bool {
			b := buf[:copy(buf, benchRequest)]
			return FindHeadEnd(b, 0) == len(b) && ParseRequest(b, nil, &req, &f) == nil && len(req.Fields) == 8
		}},
		{"request-escapes", func() bool {
			b := buf[:copy(buf, "GET http://[::1]:80/a/%2e%2e/%41\\b?c HTTP/1.1\r\nHost: A\r\nConnection: x-a\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n")]
			return ParseRequest(b, nil, &req, &f) == nil && req.Path == "/A/b"
		}},
		{"append-request", func() bool {
			out = AppendRequest(out[:0], &req, Framing{Length: 5, Close: true, Trailers: true, Upgrade: "websocket"})
			return len(out) > 0
		}},
		{"response", func() bool {
			b := buf[:copy(buf, benchResponse)]
			return ParseResponse(b, nil, "GET", &resp, &f) == nil && f.Length == 1024
		}},
		{"append-response", func() bool {
			out = AppendResponse(out[:0], &resp, f)
			return len(out) > 0
		}},
		{"chunks", func() bool {
			body.Reset(Framing{Length: Chunked}, nil)
			for b := chunks; ; {
				_, n, done, err := body.Next(b)
				if b = b[n:]; done || err != nil {
					return err == nil && len(body.Trailers()) == 1
				}
			}
		}},
		{"append-chunks", func() bool {
			out = AppendLastChunk(AppendChunk(out[:0], chunks), resp.Fields)
			return len(out) > 0
		}},
		{"refusal", func() bool {
			for _, s := range bad {
				if ParseRequest(buf[:copy(buf, s)], nil, &req, &f) == nil {
					return false
				}
			}
			return true
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ok := true
			if n := testing.AllocsPerRun(100, func() { ok = tt.run() && ok }); n != 0 || !ok {
				t.Errorf("%v allocations, ok %v; want none, true", n, ok)
			}
		})
	}
}

func BenchmarkParseRequest(b *testing.B) {
	long := strings.Replace(benchRequest, "session=", "session="+strings.Repeat("0123456789abcdef", 128), 1)
	for name, head := range map[string]string{"small": "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "fields10": benchRequest, "cookie2k": long} {
		b.Run(name, func(b *testing.B) {
			var req mesh.Request
			var f Framing
			buf := make([]byte, len(head))
			b.ReportAllocs()
			b.SetBytes(int64(len(head)))
			for b.Loop() {
				copy(buf, head)
				if FindHeadEnd(buf, 0) != len(buf) {
					b.Fatal("no end")
				}
				if err := ParseRequest(buf, nil, &req, &f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	var req mesh.Request
	var f Framing
	if err := ParseRequest([]byte(benchRequest), nil, &req, &f); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRequest(dst[:0], &req, f)
	}
}

func BenchmarkParseResponse(b *testing.B) {
	var resp mesh.Response
	var f Framing
	buf := make([]byte, len(benchResponse))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf, benchResponse)
		if err := ParseResponse(buf, nil, "GET", &resp, &f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	var resp mesh.Response
	var f Framing
	if err := ParseResponse([]byte(benchResponse), nil, "GET", &resp, &f); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendResponse(dst[:0], &resp, f)
	}
}

func BenchmarkChunkDecoder(b *testing.B) {
	in := AppendLastChunk(AppendChunk(AppendChunk(nil, make([]byte, 1024)), make([]byte, 16384)), nil)
	var d ChunkDecoder
	b.ReportAllocs()
	for b.Loop() {
		d.Reset(nil)
		for p, done := in, false; !done; {
			var n int
			var err error
			if _, n, done, err = d.Next(p); err != nil {
				b.Fatal(err)
			}
			p = p[n:]
		}
	}
}
