package h1

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/mesh"
)

func TestParseResponse(t *testing.T) {
	tests := []struct {
		name, method, head string
		resp               mesh.Response
		f                  Framing
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n", mesh.Response{Status: 200, Fields: mesh.Fields{{Name: "x-a", Value: "b"}}}, Framing{Length: 5}},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 200}, Framing{}},
		{"chunked", "GET", "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n", mesh.Response{Status: 404}, Framing{Length: Chunked}},
		{"until-close", "GET", "HTTP/1.1 200 OK\r\n\r\n", mesh.Response{Status: 200}, Framing{Length: UntilClose, Close: true}},
		{"no-reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 200}, Framing{}},
		{"no-reason-no-space", "GET", "HTTP/1.1 999\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 999}, Framing{}},
		{"reason-bytes", "GET", "HTTP/1.1 200 \tna\xefve\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 200}, Framing{}},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: Close, X-A\r\nX-A: b\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 200}, Framing{Close: true}},
		{"old", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", mesh.Response{Status: 200}, Framing{Length: 3, Close: true}},
		{"old-keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n", mesh.Response{Status: 200}, Framing{Length: 3, KeepAlive10: true}},
		{"old-until-close", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", mesh.Response{Status: 200}, Framing{Length: UntilClose, Close: true}},
		{"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", mesh.Response{Status: 200}, Framing{NoBody: true, Declared: 5, HasDeclared: true}},
		{"head-zero", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 200}, Framing{NoBody: true, HasDeclared: true}},
		{"head-chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", mesh.Response{Status: 200}, Framing{NoBody: true}},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", mesh.Response{Status: 304}, Framing{NoBody: true, Declared: 5, HasDeclared: true}},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", mesh.Response{Status: 204}, Framing{NoBody: true}},
		{"204-zero", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 204}, Framing{NoBody: true}},
		{"100", "POST", "HTTP/1.1 100 Continue\r\n\r\n", mesh.Response{Status: 100}, Framing{NoBody: true}},
		{"103", "GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", mesh.Response{Status: 103, Fields: mesh.Fields{{Name: "link", Value: "x"}}}, Framing{NoBody: true}},
		{"101", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n", mesh.Response{Status: 101}, Framing{NoBody: true, Upgrade: "websocket"}},
		{"upgrade-offer", "GET", "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", mesh.Response{Status: 200}, Framing{}},
		{"connect", "CONNECT", "HTTP/1.1 200 OK\r\n\r\n", mesh.Response{Status: 200}, Framing{Length: UntilClose, Close: true}},
		{"connect-refused", "CONNECT", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n", mesh.Response{Status: 403}, Framing{Length: 2}},
	}
	var resp mesh.Response
	var f Framing
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := ParseResponse([]byte(tt.head), nil, tt.method, &resp, &f); err != nil {
				t.Fatal(err)
			}
			if len(resp.Fields) == 0 {
				resp.Fields = nil
			}
			if diff := cmp.Diff(tt.resp, resp); diff != "" {
				t.Errorf("response (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.f, f); diff != "" {
				t.Errorf("framing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseResponseRefuses(t *testing.T) {
	line := func(s string) string { return s + "\r\nContent-Length: 0\r\n\r\n" }
	ok := func(s string) string { return "HTTP/1.1 200 OK\r\n" + s + "\r\n\r\n" }
	tests := []struct {
		name, method, head string
		want               error
	}{
		{"empty", "GET", "\r\n\r\n", errStatusLine},
		{"empty-line-first", "GET", line("\r\nHTTP/1.1 200 OK"), errStatusLine},
		{"status-short", "GET", line("HTTP/1.1 20 OK"), errStatusLine},
		{"status-long", "GET", line("HTTP/1.1 2000 OK"), errStatusLine},
		{"status-sign", "GET", line("HTTP/1.1 +20 OK"), errStatusLine},
		{"status-zero", "GET", line("HTTP/1.1 099 OK"), errStatusLine},
		{"status-spaces", "GET", line("HTTP/1.1  200 OK"), errStatusLine},
		{"version", "GET", line("HTTP/2.0 200 OK"), errVersionUnknown},
		{"version-bad", "GET", line("HTTP/1.x 200 OK"), errVersion},
		{"icy", "GET", line("ICY 200 OK"), errStatusLine},
		{"reason-nul", "GET", line("HTTP/1.1 200 O\x00K"), errFieldValue},
		{"reason-cr", "GET", line("HTTP/1.1 200 O\rK"), errBareLine},
		{"lf", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", errBareLine},
		{"both", "GET", ok("Content-Length: 1\r\nTransfer-Encoding: chunked"), errLengthAndCoding},
		{"both-head", "HEAD", ok("Content-Length: 1\r\nTransfer-Encoding: chunked"), errLengthAndCoding},
		{"lengths", "GET", ok("Content-Length: 1\r\nContent-Length: 1"), errLengthTwice},
		{"length-list", "GET", ok("Content-Length: 1,2"), errLength},
		{"coding", "GET", ok("Transfer-Encoding: gzip, chunked"), errCodingUnknown},
		{"coding-old", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", errCodingOld},
		{"fold", "GET", ok("X: a\r\n b"), errFieldFold},
		{"204-length", "GET", "HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\n", errNoContent},
		{"100-chunked", "GET", "HTTP/1.1 100 Go\r\nTransfer-Encoding: chunked\r\n\r\n", errNoContent},
		{"101-no-upgrade", "GET", "HTTP/1.1 101 Go\r\n\r\n", errSwitch},
		{"101-no-connection", "GET", "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\n\r\n", errSwitch},
		{"101-two", "GET", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: a, b\r\n\r\n", errSwitch},
		{"101-h2c", "GET", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", errSwitch},
		{"101-old", "GET", "HTTP/1.0 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", errSwitch},
		{"101-length", "GET", "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n", errNoContent},
		{"connect-length", "CONNECT", ok("Content-Length: 1"), errNoContent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var resp mesh.Response
			var f Framing
			if err := ParseResponse([]byte(tt.head), nil, tt.method, &resp, &f); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v; got %+v %+v", err, tt.want, resp, f)
			}
		})
	}
}
