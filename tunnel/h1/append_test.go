package h1

import (
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

func TestAppendRequest(t *testing.T) {
	req := func(change func(*mesh.Request)) mesh.Request {
		r := mesh.Request{Method: "GET", Authority: "a:80", Host: "a", Path: "/p"}
		if change != nil {
			change(&r)
		}
		return r
	}
	tests := []struct {
		name string
		req  mesh.Request
		f    Framing
		want string
	}{
		{"plain", req(nil), Framing{}, "GET /p HTTP/1.1\r\nhost: a:80\r\n\r\n"},
		{"query", req(func(r *mesh.Request) { r.Query, r.HasQuery = "a?b", true }), Framing{}, "GET /p?a?b HTTP/1.1\r\nhost: a:80\r\n\r\n"},
		{"empty-query", req(func(r *mesh.Request) { r.HasQuery = true }), Framing{}, "GET /p? HTTP/1.1\r\nhost: a:80\r\n\r\n"},
		{"asterisk", req(func(r *mesh.Request) { r.Method, r.Path = "OPTIONS", "*" }), Framing{}, "OPTIONS * HTTP/1.1\r\nhost: a:80\r\n\r\n"},
		{"asterisk-get", req(func(r *mesh.Request) { r.Path = "*" }), Framing{}, "GET /* HTTP/1.1\r\nhost: a:80\r\n\r\n"},
		{"length", req(nil), Framing{Length: 7, Expect100: true}, "GET /p HTTP/1.1\r\nhost: a:80\r\ncontent-length: 7\r\nexpect: 100-continue\r\n\r\n"},
		{"post-empty", req(func(r *mesh.Request) { r.Method = "POST" }), Framing{}, "POST /p HTTP/1.1\r\nhost: a:80\r\ncontent-length: 0\r\n\r\n"},
		{"chunked", req(nil), Framing{Length: Chunked}, "GET /p HTTP/1.1\r\nhost: a:80\r\ntransfer-encoding: chunked\r\n\r\n"},
		{
			"connection", req(nil),
			Framing{Close: true, Trailers: true, Upgrade: "websocket"},
			"GET /p HTTP/1.1\r\nhost: a:80\r\nte: trailers\r\nupgrade: websocket\r\nconnection: close, te, upgrade\r\n\r\n",
		},
		{"upgrade-illegal", req(nil), Framing{Upgrade: "a\r\nb: c"}, "GET /p HTTP/1.1\r\nhost: a:80\r\n\r\n"},
		{"fields", req(func(r *mesh.Request) {
			r.Fields = mesh.Fields{
				{Name: "x-a", Value: "1"},
				{Name: "x-b"},
				{Name: "host", Value: "z"},
				{Name: "Content-Length", Value: "1"},
				{Name: "transfer-encoding", Value: "chunked"},
				{Name: "connection", Value: "x-a"},
				{Name: "te", Value: "x"},
				{Name: "expect", Value: "x"},
				{Name: "upgrade", Value: "x"},
				{Name: "X-C", Value: "2"},
			}
		}), Framing{}, "GET /p HTTP/1.1\r\nhost: a:80\r\nx-a: 1\r\nx-b: \r\nx-c: 2\r\n\r\n"},
		{"injected-fields", req(func(r *mesh.Request) {
			r.Fields = mesh.Fields{{Name: "x-a", Value: "1\r\nx: y\x00\tz"}, {Name: "x b", Value: "1"}, {Name: "", Value: "1"}, {Name: "x\r\ny", Value: "1"}, {Name: "x:", Value: ""}}
		}), Framing{}, "GET /p HTTP/1.1\r\nhost: a:80\r\nx-a: 1  x: y \tz\r\n\r\n"},
		{"injected-line", req(func(r *mesh.Request) {
			r.Method, r.Path, r.Query, r.HasQuery, r.Authority = "GET / HTTP/1.1\r\n", "x y?#\r\n", "a b#\r\n\xff", true, "a\r\nb"
		}), Framing{}, "INVALID /x%20y%3F%23%0D%0A?a%20b%23%0D%0A%FF HTTP/1.1\r\nhost: \r\n\r\n"},
		{"empty", mesh.Request{}, Framing{}, "INVALID / HTTP/1.1\r\nhost: \r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendRequest([]byte("#"), &tt.req, tt.f)); got != "#"+tt.want {
				t.Errorf("got %q, want %q", got[1:], tt.want)
			}
		})
	}
}

func TestAppendResponse(t *testing.T) {
	fields := mesh.Fields{{Name: "x-a", Value: "1"}, {Name: "connection", Value: "x"}, {Name: "content-length", Value: "9"}}
	tests := []struct {
		name string
		resp mesh.Response
		f    Framing
		want string
	}{
		{"fields", mesh.Response{Status: 200, Fields: fields}, Framing{Length: 4}, "HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 4\r\n\r\n"},
		{"empty", mesh.Response{Status: 404}, Framing{}, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"},
		{"chunked", mesh.Response{Status: 200}, Framing{Length: Chunked, Trailers: true}, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"},
		{"close", mesh.Response{Status: 503}, Framing{Close: true, KeepAlive10: true}, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"},
		{"keep-alive", mesh.Response{Status: 200}, Framing{KeepAlive10: true}, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n"},
		{"until-close", mesh.Response{Status: 200}, Framing{Length: UntilClose}, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"},
		{"head", mesh.Response{Status: 200}, Framing{NoBody: true, HasDeclared: true, Declared: 3}, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"},
		{"head-chunked", mesh.Response{Status: 200}, Framing{NoBody: true, Length: Chunked}, "HTTP/1.1 200 OK\r\n\r\n"},
		{"304", mesh.Response{Status: 304}, Framing{Length: 5}, "HTTP/1.1 304 Not Modified\r\n\r\n"},
		{"204", mesh.Response{Status: 204}, Framing{Length: 5}, "HTTP/1.1 204 No Content\r\n\r\n"},
		{"100", mesh.Response{Status: 100}, Framing{Length: Chunked}, "HTTP/1.1 100 Continue\r\n\r\n"},
		{"101", mesh.Response{Status: 101}, Framing{Upgrade: "websocket"}, "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"},
		{"upgrade-elsewhere", mesh.Response{Status: 200}, Framing{Upgrade: "websocket"}, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"},
		{"unknown", mesh.Response{Status: 599}, Framing{}, "HTTP/1.1 599 \r\ncontent-length: 0\r\n\r\n"},
		{"illegal", mesh.Response{Status: 1000}, Framing{}, "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendResponse([]byte("#"), &tt.resp, tt.f)); got != "#"+tt.want {
				t.Errorf("got %q, want %q", got[1:], tt.want)
			}
		})
	}
}

func TestAppendChunk(t *testing.T) {
	b := AppendChunk(nil, nil)
	b = AppendChunk(b, []byte("0123456789abcdefg"))
	b = append(append(AppendChunkHeader(b, 3), "xyz"...), "\r\n"...)
	b = AppendLastChunk(b, mesh.Fields{{Name: "grpc-status", Value: "0"}, {Name: "content-length", Value: "1"}, {Name: "x", Value: "a\r\nb"}})
	if want := "11\r\n0123456789abcdefg\r\n3\r\nxyz\r\n0\r\ngrpc-status: 0\r\nx: a  b\r\n\r\n"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
}
