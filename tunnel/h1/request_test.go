package h1

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cairnproxy.dev/cairn/mesh"
)

var sameAddr = cmpopts.EquateComparable(netip.AddrPort{})

func TestParseRequest(t *testing.T) {
	type want struct {
		req mesh.Request
		f   Framing
	}
	get := func(authority, host, path string) mesh.Request {
		return mesh.Request{Method: "GET", Scheme: "http", Authority: authority, Host: host, Path: path, Proto: 1, MinorVersion: 1}
	}
	with := func(r mesh.Request, change func(*mesh.Request)) mesh.Request { change(&r); return r }
	tests := []struct {
		name, head string
		want       want
	}{
		{"plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", want{req: get("a", "a", "/")}},
		{"empty-line-first", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", want{req: get("a", "a", "/")}},
		{"host-port", "GET / HTTP/1.1\r\nhOsT:\tReviews.Default:9080 \r\n\r\n", want{req: get("reviews.default:9080", "reviews.default", "/")}},
		{"host-ipv6", "GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n", want{req: get("[2001:db8::1]:80", "[2001:db8::1]", "/")}},
		{"query", "GET /a?b=/../c&d=%zz? HTTP/1.1\r\nHost: a\r\n\r\n", want{req: with(get("a", "a", "/a"), func(r *mesh.Request) {
			r.Query, r.HasQuery = "b=/../c&d=%zz?", true
		})}},
		{"empty-query", "GET /a? HTTP/1.1\r\nHost: a\r\n\r\n", want{req: with(get("a", "a", "/a"), func(r *mesh.Request) { r.HasQuery = true })}},
		{"normalised", "GET /x/../%61\\.\\b HTTP/1.1\r\nHost: a\r\n\r\n", want{req: get("a", "a", "/a/b")}},
		{
			"fields", "GET / HTTP/1.1\r\nHost: a\r\nX-A:  1 \t\r\nx-empty:\r\nX-Utf: \xc3\xa9\r\nCookie: a=b\r\ncookie: c\r\n\r\n",
			want{req: with(get("a", "a", "/"), func(r *mesh.Request) {
				r.Fields = mesh.Fields{{Name: "x-a", Value: "1"}, {Name: "x-empty"}, {Name: "x-utf", Value: "\xc3\xa9"}, {Name: "cookie", Value: "a=b"}, {Name: "cookie", Value: "c"}}
			})},
		},
		{
			"hop-by-hop", "GET / HTTP/1.1\r\nConnection: x-a,\tX-B ,, close\r\nX-A: 1\r\nx-c: 3\r\nHost: a\r\nX-b: 2\r\nx-a: 4\r\nKeep-Alive: 5\r\n" +
				"Proxy-Connection: close\r\nTE: gzip, Trailers\r\nUpgrade: websocket\r\n\r\n",
			want{req: with(get("a", "a", "/"), func(r *mesh.Request) { r.Fields = mesh.Fields{{Name: "x-c", Value: "3"}} }), f: Framing{Close: true, Trailers: true}},
		},
		{
			"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0012\r\nExpect: 100-Continue\r\n\r\n",
			want{req: with(get("a", "a", "/"), func(r *mesh.Request) { r.Method = "POST" }), f: Framing{Length: 12, Expect100: true}},
		},
		{"length-largest", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n", want{req: get("a", "a", "/"), f: Framing{Length: 1<<63 - 1}}},
		{"expect-without-content", "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", want{req: get("a", "a", "/")}},
		{"chunked", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n", want{req: get("a", "a", "/"), f: Framing{Length: Chunked}}},
		{
			"upgrade", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n",
			want{req: with(get("a", "a", "/"), func(r *mesh.Request) { r.Fields = mesh.Fields{{Name: "sec-websocket-key", Value: "x"}} }), f: Framing{Upgrade: "websocket"}},
		},
		{"upgrade-version", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", want{req: get("a", "a", "/"), f: Framing{Upgrade: "spdy/3.1"}}},
		{"upgrade-h2c", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n", want{req: get("a", "a", "/")}},
		{"upgrade-list", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", want{req: get("a", "a", "/")}},
		{
			"upgrade-with-content", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
			want{req: get("a", "a", "/"), f: Framing{Length: 1}},
		},
		{"absolute", "GET hTTp://B.c:81?x HTTP/1.1\r\nHost: a\r\n\r\n", want{req: with(get("b.c:81", "b.c", "/"), func(r *mesh.Request) { r.Query, r.HasQuery = "x", true })}},
		{"absolute-https", "GET https://b/./c HTTP/1.1\r\nHost: a\r\n\r\n", want{req: with(get("b", "b", "/c"), func(r *mesh.Request) { r.Scheme = "https" })}},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", want{req: with(get("a", "a", "*"), func(r *mesh.Request) { r.Method = "OPTIONS" })}},
		{"asterisk-absolute", "OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n", want{req: with(get("b", "b", "*"), func(r *mesh.Request) { r.Method = "OPTIONS" })}},
		{"old", "GET / HTTP/1.0\r\n\r\n", want{req: with(get("", "", "/"), func(r *mesh.Request) { r.MinorVersion = 0 }), f: Framing{Close: true}}},
		{
			"old-keep-alive", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nUpgrade: x\r\nHost: a\r\n\r\n",
			want{req: with(get("a", "a", "/"), func(r *mesh.Request) { r.MinorVersion = 0 }), f: Framing{KeepAlive10: true}},
		},
		{
			"close-wins", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nConnection: close\r\n\r\n",
			want{req: with(get("", "", "/"), func(r *mesh.Request) { r.MinorVersion = 0 }), f: Framing{Close: true}},
		},
	}
	// One request is reused for all, so that nothing of an earlier one may show.
	var got want
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			head := []byte(tt.head)
			if n := FindHeadEnd(head, 0); n != len(head) {
				t.Fatalf("FindHeadEnd = %d, want %d", n, len(head))
			}
			if err := ParseRequest(head, nil, &got.req, &got.f); err != nil {
				t.Fatal(err)
			}
			if len(got.req.Fields) == 0 {
				got.req.Fields = nil
			}
			if diff := cmp.Diff(tt.want.req, got.req, sameAddr); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want.f, got.f); diff != "" {
				t.Errorf("framing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	line := func(s string) string { return s + "\r\nHost: a\r\n\r\n" }
	field := func(s string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + s + "\r\n\r\n" }
	host := func(s string) string { return "GET / HTTP/1.1\r\nHost: " + s + "\r\n\r\n" }
	tests := []struct {
		name, head string
		want       error
	}{
		{"nothing", "", errHeadEnd},
		{"only-empty-lines", "\r\n\r\n", errRequestLine},
		{"many-empty-lines", strings.Repeat("\r\n", 9) + line("GET / HTTP/1.1"), errRequestLine},
		{"two-heads", line("GET / HTTP/1.1") + line("GET / HTTP/1.1"), errHeadEnd},
		{"unfinished", "GET / HTTP/1.1\r\nHost: a\r\n", errBareLine},
		{"http09", "GET /\r\n\r\n", errRequestLine},
		{"no-target", line("GET  HTTP/1.1"), errRequestLine},
		{"two-spaces", line("GET  / HTTP/1.1"), errRequestLine},
		{"two-spaces-after", line("GET /  HTTP/1.1"), errVersion},
		{"space-at-end", line("GET / HTTP/1.1 "), errVersion},
		{"space-first", line(" GET / HTTP/1.1"), errMethod},
		{"tab", line("GET\t/ HTTP/1.1"), errMethod},
		{"version-lower", line("GET / http/1.1"), errVersion},
		{"version-short", line("GET / HTTP/1"), errVersion},
		{"version-long", line("GET / HTTP/1.10"), errVersion},
		{"version-12", line("GET / HTTP/1.2"), errVersionUnknown},
		{"version-20", line("PRI * HTTP/2.0"), errVersionUnknown},
		{"method-byte", line("G(T / HTTP/1.1"), errMethod},
		{"method-long", line(strings.Repeat("A", 33) + " / HTTP/1.1"), errMethodUnknown},
		{"method-lower", line("get / HTTP/1.1"), errMethodUnknown},
		{"connect", line("CONNECT a:443 HTTP/1.1"), errConnect},
		{"connect-path", line("CONNECT / HTTP/1.1"), errConnect},
		{"target-authority", line("GET a:443 HTTP/1.1"), errTarget},
		{"target-relative", line("GET a/b HTTP/1.1"), errTarget},
		{"target-asterisk", line("GET * HTTP/1.1"), errTarget},
		{"target-asterisk-more", line("OPTIONS *?a HTTP/1.1"), errTarget},
		{"target-nul", line("GET /\x00 HTTP/1.1"), errTargetByte},
		{"target-high", line("GET /\xc3\xa9 HTTP/1.1"), errTargetByte},
		{"target-fragment", line("GET /a#b HTTP/1.1"), errTargetByte},
		{"target-query-fragment", line("GET /a?b#c HTTP/1.1"), errTargetByte},
		{"target-query-del", line("GET /a?b\x7f HTTP/1.1"), errTargetByte},
		{"target-nul-escape", line("GET /a%00 HTTP/1.1"), errEscape},
		{"target-bad-escape", line("GET /a%4 HTTP/1.1"), errEscape},
		{"absolute-scheme", line("GET ftp://a/ HTTP/1.1"), errScheme},
		{"absolute-empty", line("GET http:///a HTTP/1.1"), errAuthority},
		{"absolute-user", line("GET http://u:p@a/ HTTP/1.1"), errUserinfo},
		{"absolute-backslash", line("GET http://a\\b/ HTTP/1.1"), errAuthority},
		{"absolute-fragment", line("GET http://a#b HTTP/1.1"), errAuthority},
		{"absolute-without-host", "GET http://a/ HTTP/1.1\r\n\r\n", errHostMissing},
		{"absolute-bad-host", "GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n", errAuthority},
		{"host-missing", "GET / HTTP/1.1\r\n\r\n", errHostMissing},
		{"host-empty", host(""), errAuthority},
		{"host-twice", host("a\r\nHost: a"), errHostTwice},
		{"host-list", host("a, b"), errAuthority},
		{"host-comma", host("a,b"), errAuthority},
		{"host-user", host("u@a"), errUserinfo},
		{"host-user-port", host("u:1@a"), errUserinfo},
		{"host-path", host("a/b"), errAuthority},
		{"host-escape", host("%61"), errAuthority},
		{"host-high", host("\xc3\xa9"), errAuthority},
		{"host-port-only", host(":80"), errAuthority},
		{"host-port-empty", host("a:"), errAuthority},
		{"host-port-large", host("a:65536"), errAuthority},
		{"host-port-long", host("a:000080"), errAuthority},
		{"host-port-sign", host("a:+80"), errAuthority},
		{"host-ipv6-bare", host("::1"), errAuthority},
		{"host-ipv6-open", host("[::1"), errAuthority},
		{"host-ipv6-zone", host("[fe80::1%25eth0]"), errAuthority},
		{"host-ipv6-v4", host("[1.2.3.4]"), errAuthority},
		{"host-ipv6-more", host("[::1]a"), errAuthority},
		{"fold", field("X: a\r\n b"), errFieldFold},
		{"fold-tab", field("X: a\r\n\tb: c"), errFieldFold},
		{"fold-first", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", errFieldFold},
		{"space-colon", field("X : a"), errFieldName},
		{"tab-colon", field("X\t: a"), errFieldName},
		{"name-empty", field(": a"), errFieldName},
		{"name-none", field("abc"), errBareLine},
		{"name-byte", field("X[]: a"), errFieldName},
		{"name-high", field("X\xe9: a"), errFieldName},
		{"name-nul", field("X\x00: a"), errFieldName},
		{"value-nul", field("X: a\x00b"), errFieldValue},
		{"value-vt", field("X: \x0b"), errFieldValue},
		{"value-del", field("X: a\x7f"), errFieldValue},
		{"bare-lf", field("X: a\nY: b"), errBareLine},
		{"bare-cr", field("X: a\rY: b"), errBareLine},
		{"cr-cr-lf", field("X: a\r"), errBareLine},
		{"lf-line", "GET / HTTP/1.1\nHost: a\r\n\r\n", errBareLine},
		{"lf-all", "GET / HTTP/1.1\nHost: a\n\n", errBareLine},
		{"lf-end", "GET / HTTP/1.1\r\nHost: a\r\n\n", errBareLine},
		{"cr-line", "GET / HTTP/1.1\rHost: a\r\n\r\n", errBareLine},
		{"length-twice", field("Content-Length: 1\r\nContent-Length: 2"), errLengthTwice},
		{"length-same", field("Content-Length: 1\r\nContent-Length: 1"), errLengthTwice},
		{"length-list", field("Content-Length: 1, 1"), errLength},
		{"length-plus", field("Content-Length: +1"), errLength},
		{"length-minus", field("Content-Length: -1"), errLength},
		{"length-hex", field("Content-Length: 0x1"), errLength},
		{"length-empty", field("Content-Length:"), errLength},
		{"length-large", field("Content-Length: 9223372036854775808"), errLength},
		{"length-long", field("Content-Length: 00000000000000000001"), errLength},
		{"length-space", field("Content-Length: 1 1"), errLength},
		{"both", field("Content-Length: 1\r\nTransfer-Encoding: chunked"), errLengthAndCoding},
		{"both-zero", field("Transfer-Encoding: chunked\r\nContent-Length: 0"), errLengthAndCoding},
		{"coding-twice", field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), errCoding},
		{"coding-list", field("Transfer-Encoding: gzip, chunked"), errCodingUnknown},
		{"coding-identity", field("Transfer-Encoding: identity"), errCodingUnknown},
		{"coding-empty", field("Transfer-Encoding:"), errCoding},
		{"coding-quoted", field("Transfer-Encoding: \"chunked\""), errCoding},
		{"coding-param", field("Transfer-Encoding: chunked;q=1"), errCoding},
		{"coding-old", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", errCodingOld},
		{"underscore-length", field("Content_Length: 1"), errFramingAlias},
		{"expect", field("Expect: 200-ok"), errExpect},
		{"connection-byte", field("Connection: a b"), errConnection},
		{"connection-many", field("Connection: " + strings.Repeat("a,", 17)), errConnection},
		{"connection-host", field("Connection: Host"), errNominated},
		{"connection-forwarded", field("Connection: close, X-Forwarded-For"), errNominated},
		{"many-fields", field(strings.Repeat("a: b\r\n", 99) + "a: b"), errFieldCount},
		{"large", field("a: " + strings.Repeat("b", 60<<10)), errHeadSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var req mesh.Request
			var f Framing
			if err := ParseRequest([]byte(tt.head), nil, &req, &f); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v; got %+v", err, tt.want, req)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	const head = "GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\nb: 2\r\n\r\n"
	tests := []struct {
		name string
		lim  *Limits
		want error
	}{
		{"none", nil, nil},
		{"zero", &Limits{}, nil},
		{"head-just", &Limits{MaxHead: len(head)}, nil},
		{"head", &Limits{MaxHead: len(head) - 1}, errHeadSize},
		{"fields-just", &Limits{MaxFields: 3}, nil},
		{"fields", &Limits{MaxFields: 2}, errFieldCount},
		{"underscore", &Limits{RefuseUnderscores: true}, errUnderscore},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var req mesh.Request
			var f Framing
			if err := ParseRequest([]byte(head), tt.lim, &req, &f); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestHeadTooLarge(t *testing.T) {
	lim := &Limits{MaxHead: 10}
	for in, want := range map[string]error{
		"GET / HTTP":             nil,
		"GET / HTTP/":            errTargetSize,
		"\r\n\r\nGET / HTTP/":    errTargetSize,
		"GET / HTTP/1.1\r\nHos ": errHeadSize,
	} {
		if got := HeadTooLarge([]byte(in), lim); !errors.Is(got, want) {
			t.Errorf("HeadTooLarge(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestFindHeadEnd(t *testing.T) {
	tests := []struct {
		name, in string
		want     int
	}{
		{"empty", "", -1},
		{"line", "GET / HTTP/1.1\r\n", -1},
		{"almost", "GET / HTTP/1.1\r\n\r", -1},
		{"end", "GET / HTTP/1.1\r\n\r\n", 18},
		{"more", "GET / HTTP/1.1\r\n\r\nabc\r\n\r\n", 18},
		{"empty-lines", "\r\n\r\n", -1},
		{"empty-lines-first", "\r\n\r\nA\r\n\r\n", 9},
		{"empty-lines-many", strings.Repeat("\r\n", 8), 12},
		{"lf-lf", "a\n\nb", 3},
		{"lf-crlf", "a\n\r\nb", 4},
		{"cr-inside", "a\r\n\rb\r\n", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := []byte(tt.in)
			if got := FindHeadEnd(b, 0); got != tt.want {
				t.Errorf("whole: %d, want %d", got, tt.want)
			}
			got := -1
			for n := 0; n <= len(b) && got < 0; n++ {
				got = FindHeadEnd(b[:n], max(0, n-1))
			}
			if got != tt.want {
				t.Errorf("byte by byte: %d, want %d", got, tt.want)
			}
		})
	}
}
