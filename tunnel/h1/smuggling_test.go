package h1

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// A vector is a byte stream with which two implementations have been made to
// disagree. It is either refused with a status before anything behind the
// trouble is taken for a request, or has exactly one meaning: the requests in
// want, as message.String gives them, each of which net/http must read alike
// from what we received and from what we send on.
type vector struct {
	name, raw string
	want      []string
	refused   int // status; 0 when the stream is good to its end; -1 when it is unfinished
}

const (
	// smuggled is what an attacker hides for the next in line.
	smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
	post     = "POST / HTTP/1.1\r\nHost: a\r\n"
	onePost  = `POST a / "`
)

// codingTricks are spellings of Transfer-Encoding that some have taken for
// chunked and others not. Each stands before a Content-Length as well.
var codingTricks = []struct {
	name, lines string
	alone       int // status without Content-Length
}{
	{"plain", "Transfer-Encoding: chunked", 0},
	{"case", "tRANSFER-eNCODING: cHUNKED", 0},
	{"space-colon", "Transfer-Encoding : chunked", 400},
	{"tab-colon", "Transfer-Encoding\t: chunked", 400},
	{"space-first", " Transfer-Encoding: chunked", 400},
	{"vt-value", "Transfer-Encoding: \x0bchunked", 400},
	{"ff-value", "Transfer-Encoding: \x0cchunked", 400},
	{"nul-value", "Transfer-Encoding: chunked\x00", 400},
	{"nul-name", "Transfer-Encoding\x00: chunked", 400},
	{"high-value", "Transfer-Encoding: \xffchunked", 400},
	{"nbsp-value", "Transfer-Encoding: \xa0chunked", 400},
	{"high-name", "Transfer-Encoding\x85: chunked", 400},
	{"fold", "Transfer-Encoding:\r\n chunked", 400},
	{"fold-tab", "Transfer-Encoding:\r\n\tchunked", 400},
	{"fold-other", "X: y\r\n Transfer-Encoding: chunked", 400},
	{"lf-other", "X: y\nTransfer-Encoding: chunked", 400},
	{"cr-other", "X: y\rTransfer-Encoding: chunked", 400},
	{"lf-end", "Transfer-Encoding: chunked\nX: y", 400},
	{"crcrlf", "Transfer-Encoding: chunked\r\r\nX: y", 400},
	{"quotes", "Transfer-Encoding: \"chunked\"", 400},
	{"single-quotes", "Transfer-Encoding: 'chunked'", 501},
	{"xchunked", "Transfer-Encoding: xchunked", 501},
	{"chunk", "Transfer-Encoding: chunk", 501},
	{"identity", "Transfer-Encoding: identity", 501},
	{"cow", "Transfer-Encoding: cow", 501},
	{"gzip-chunked", "Transfer-Encoding: gzip, chunked", 501},
	{"chunked-identity", "Transfer-Encoding: chunked, identity", 501},
	{"identity-chunked", "Transfer-Encoding: identity, chunked", 501},
	{"chunked-chunked", "Transfer-Encoding: chunked, chunked", 501},
	{"comma-first", "Transfer-Encoding: , chunked", 501},
	{"comma-last", "Transfer-Encoding: chunked,", 501},
	{"semicolon", "Transfer-Encoding: chunked;", 400},
	{"param", "Transfer-Encoding: chunked;a=b", 400},
	{"empty", "Transfer-Encoding:", 400},
	{"twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400},
	{"twice-identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400},
	{"twice-identity-first", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 501},
	{"twice-cow", "Transfer-Encoding: chunked\r\nTransfer-encoding: cow", 400},
	{"twice-empty", "Transfer-Encoding:\r\nTransfer-Encoding: chunked", 400},
	{"underscore", "Transfer_Encoding: chunked", 400},
	{"nominated", "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", 400},
	{"colon-name", ":Transfer-Encoding: chunked", 400},
	{"no-space", "Transfer-Encoding:chunked", 0},
	{"tabs", "Transfer-Encoding:\t\tchunked\t", 0},
}

// lengthTricks are spellings of Content-Length.
var lengthTricks = []struct {
	name, lines string
	status      int
}{
	{"twice", "Content-Length: 5\r\nContent-Length: 6", 400},
	{"twice-same", "Content-Length: 5\r\nContent-Length: 5", 400},
	{"twice-zero", "Content-Length: 0\r\nContent-Length: 5", 400},
	{"list", "Content-Length: 5, 6", 400},
	{"list-same", "Content-Length: 5,5", 400},
	{"plus", "Content-Length: +5", 400},
	{"minus", "Content-Length: -5", 400},
	{"hex", "Content-Length: 0x5", 400},
	{"octal", "Content-Length: 0o5", 400},
	{"underscore", "Content-Length: 0_5", 400},
	{"float", "Content-Length: 5.0", 400},
	{"exponent", "Content-Length: 5e0", 400},
	{"letters", "Content-Length: 5abc", 400},
	{"inner-space", "Content-Length: 5 6", 400},
	{"quotes", "Content-Length: \"5\"", 400},
	{"empty", "Content-Length:", 400},
	{"overflow-32", "Content-Length: 4294967301", -1},
	{"overflow-64", "Content-Length: 18446744073709551621", 400},
	{"fold", "Content-Length:\r\n 5", 400},
	{"space-colon", "Content-Length : 5", 400},
	{"nul", "Content-Length: 5\x00", 400},
	{"vt", "Content-Length: \x0b5", 400},
	{"wide-digit", "Content-Length: \xef\xbc\x95", 400},
	{"underscore-name", "Content_Length: 5", 400},
	{"nominated", "Connection: Content-Length\r\nContent-Length: 5", 400},
	{"cr", "Content-Length: 5\rX: y", 400},
	{"lf", "Content-Length: 5\nX: y", 400},
}

// chunkTricks are chunked bodies whose end is in doubt.
var chunkTricks = []struct {
	name, body string
	status     int
}{
	{"bare-lf-size", "0\n\n", 400},
	{"bare-cr-size", "0\r\r", 400},
	{"lf-after-ext", "1;x\na\r\n0\r\n\r\n", 400},
	{"cr-in-ext", "1;\rx\r\na\r\n0\r\n\r\n", 400},
	{"two-bytes-any", "1\r\naXX0\r\n\r\n", 400},
	{"lf-after-data", "1\r\na\n0\r\n\r\n", 400},
	{"short", "2\r\na\r\n0\r\n\r\n", 400},
	{"long", "1\r\nab\r\n0\r\n\r\n", 400},
	{"plus", "+0\r\n\r\n", 400},
	{"minus", "-0\r\n\r\n", 400},
	{"prefix", "0x0\r\n\r\n", 400},
	{"overflow", "ffffffffffffffff0\r\n\r\n", 400},
	{"overflow-negative", "ffffffffffffffff\r\n\r\n", 400},
	{"space-size", "0 \r\n\r\n", 400},
	{"tab-size", "\t0\r\n\r\n", 400},
	{"nul-size", "0\x00\r\n\r\n", 400},
	{"trailer-lf", "0\r\nX: y\n\r\n", 400},
	{"trailer-fold", "0\r\nX: y\r\n z\r\n\r\n", 400},
	{"trailer-is-request", "0\r\nGET /admin HTTP/1.1\r\n\r\n", 400},
	{"no-last-line", "0\r\n", 400}, // then the smuggled request is a malformed trailer
}

func vectors() []vector {
	vs := []vector{
		{"honest", post + "Content-Length: 3\r\n\r\nabc" + smuggled, []string{onePost + `abc"`, `GET a /admin ""`}, 0},
		{"pipelined", smuggled + "\r\n" + smuggled, []string{`GET a /admin ""`, `GET a /admin ""`}, 0},
		{"get-with-body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", []string{`GET a / "abc"`}, 0},
		{"get-hides-in-body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 34\r\n\r\n" + smuggled, nil, -1},
		{"close-then-more", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + smuggled, []string{`GET a / ""`}, 0},
		{"old-then-more", "GET / HTTP/1.0\r\nHost: a\r\n\r\n" + smuggled, []string{`GET a / ""`}, 0},
		{"old-chunked", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, nil, 400},
		{"upgrade-then-more", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + smuggled, []string{`GET a / ""`}, 0},
		{"upgrade-h2c", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + smuggled, []string{`GET a / ""`, `GET a /admin ""`}, 0},
		{"upgrade-no-connection", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n" + smuggled, []string{`GET a / ""`, `GET a /admin ""`}, 0},
		{"expect-then-more", post + "Content-Length: 3\r\nExpect: 100-continue\r\n\r\nabc", []string{onePost + `abc"`}, 0},
		{"expect-obfuscated", post + "Content-Length: 3\r\nExpect: y 100-continue\r\n\r\nabc", nil, 417},
		{"trailer-length", post + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 34\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n" + smuggled, []string{onePost + `"`, `GET a /admin ""`}, 0},
		{"chunk-ext-hides", post + "Transfer-Encoding: chunked\r\n\r\n3;0\r\nabc\r\n0;3\r\n\r\n" + smuggled, []string{onePost + `abc"`, `GET a /admin ""`}, 0},
		{"chunk-leading-zeros", post + "Transfer-Encoding: chunked\r\n\r\n0000003\r\nabc\r\n000\r\n\r\n", []string{onePost + `abc"`}, 0},
		{"http09-tail", "GET /admin\r\n\r\n", nil, 400},
		{"version-space", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", nil, 400},
		{"version-twice", "GET /admin HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"version-11-zero", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", nil, 400},
		{"version-20", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", nil, 505},
		{"preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", nil, 505},
		{"line-lf", "GET / HTTP/1.1\nHost: a\n\n" + smuggled, nil, 400},
		{"line-lf-inside", "GET / HTTP/1.1\nX: y\r\nHost: a\r\n\r\n", nil, 400},
		{"line-nul", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"line-tab", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"line-vt", "GET /\x0b HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"empty-end-lf", "GET / HTTP/1.1\r\nHost: a\r\n\n" + smuggled, nil, 400},
		{"fold-first-line", "GET / HTTP/1.1\r\n Host: b\r\nHost: a\r\n\r\n", nil, 400},
		{"name-space", "GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", nil, 400},
		{"name-missing-colon", "GET / HTTP/1.1\r\nHost: a\r\nXY\r\n\r\n", nil, 400},
		{"name-request-line", "GET / HTTP/1.1\r\nHost: a\r\nGET /admin HTTP/1.1\r\n\r\n", nil, 400},
		{"hop-connection-host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, host\r\n\r\n", nil, 400},
		{"hop-connection-forwarded", "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For\r\n\r\n", nil, 400},
		{"method-lower", "get / HTTP/1.1\r\nHost: a\r\n\r\n", nil, 501},
		{"method-colon", "GET: / HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"connect", "CONNECT b:80 HTTP/1.1\r\nHost: a\r\n\r\n" + smuggled, nil, 501},
		{"host-twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", nil, 400},
		{"host-twice-case", "GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", nil, 400},
		{"host-space-colon", "GET / HTTP/1.1\r\nHost : b\r\nHost: a\r\n\r\n", nil, 400},
		{"host-fold", "GET / HTTP/1.1\r\nX: y\r\n Host: b\r\nHost: a\r\n\r\n", nil, 400},
		{"host-user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", nil, 400},
		{"host-port-user", "GET / HTTP/1.1\r\nHost: a:80@b\r\n\r\n", nil, 400},
		{"host-port-text", "GET / HTTP/1.1\r\nHost: a:80b\r\n\r\n", nil, 400},
		{"host-slash", "GET / HTTP/1.1\r\nHost: a/../b\r\n\r\n", nil, 400},
		{"host-query", "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", nil, 400},
		{"host-fragment", "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", nil, 400},
		{"host-backslash", "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", nil, 400},
		{"host-comma", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", nil, 400},
		{"host-nul", "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", nil, 400},
		{"host-missing", "GET / HTTP/1.1\r\nX: y\r\n\r\n", nil, 400},
		{"host-empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n", nil, 400},
		{"absolute-vs-host", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET b /x ""`}, 0},
		{"absolute-user", "GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"absolute-scheme", "GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"absolute-scheme-relative", "GET //b/x HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a //b/x ""`}, 0},
		{"absolute-one-slash", "GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"absolute-backslash", "GET http:\\\\b\\ HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"target-at", "GET @b/ HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"target-relative", "GET admin HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"target-space", "GET /x /admin HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"target-fragment", "GET /public#/../admin HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"path-dots", "GET /public/../admin HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a /admin ""`}, 0},
		{"path-escaped-dots", "GET /public/%2e%2E/admin HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a /admin ""`}, 0},
		{"path-backslash", "GET /public\\..\\admin HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a /admin ""`}, 0},
		{"path-escaped-letter", "GET /%61dmin HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a /admin ""`}, 0},
		{"path-double-escape", "GET /%2561dmin HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a /%2561dmin ""`}, 0},
		{"path-nul", "GET /public%00/../admin HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"path-bad-escape", "GET /%6/admin HTTP/1.1\r\nHost: a\r\n\r\n", nil, 400},
		{"path-escaped-crlf", "GET /a%0d%0aX:%20y HTTP/1.1\r\nHost: a\r\n\r\n", []string{`GET a /a%0d%0aX:%20y ""`}, 0},
	}
	for _, e := range codingTricks {
		v := vector{name: "te-" + e.name, raw: post + e.lines + "\r\n\r\n0\r\n\r\n" + smuggled, refused: e.alone}
		if e.alone == 0 {
			v.want = []string{onePost + `"`, `GET a /admin ""`}
		}
		vs = append(vs, v)
		both := e.alone
		if both == 0 {
			both = 400
		}
		vs = append(vs,
			vector{"cl-te-" + e.name, post + "Content-Length: 5\r\n" + e.lines + "\r\n\r\n0\r\n\r\n" + smuggled, nil, both},
			vector{"te-cl-" + e.name, post + e.lines + "\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, nil, both})
	}
	for _, e := range lengthTricks {
		vs = append(vs, vector{"cl-" + e.name, post + e.lines + "\r\n\r\nabcde" + smuggled, nil, e.status})
	}
	for _, e := range chunkTricks {
		vs = append(vs, vector{"chunk-" + e.name, post + "Transfer-Encoding: chunked\r\n\r\n" + e.body + smuggled, nil, e.status})
	}
	return vs
}

func TestSmuggling(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range vectors() {
		if seen[v.name] {
			t.Fatalf("vector %s is there twice", v.name)
		}
		seen[v.name] = true
		t.Run(v.name, func(t *testing.T) {
			msgs, rest, err := readStream([]byte(v.raw))
			var got []string
			for _, m := range msgs {
				got = append(got, m.String())
			}
			if !slices.Equal(got, v.want) {
				t.Errorf("requests %q, want %q", got, v.want)
			}
			switch {
			case v.refused < 0 && !errors.Is(err, ErrUnexpectedEnd):
				t.Errorf("error %v, want an unfinished request", err)
			case v.refused >= 0 && status(err) != v.refused:
				t.Errorf("error %v, want status %d", err, v.refused)
			}
			sameAsNetHTTP(t, []byte(v.raw), msgs, len(rest))
		})
	}
	if len(seen) < 200 {
		t.Errorf("%d vectors", len(seen))
	}
}

// TestSmugglingBackwards sends the same framing tricks as responses: a backend
// must not be able to give one client what belongs to another.
func TestSmugglingBackwards(t *testing.T) {
	refused := func(name, lines string) {
		t.Run(name, func(t *testing.T) {
			head := []byte("HTTP/1.1 200 OK\r\n" + lines + "\r\n\r\n")
			head = head[:FindHeadEnd(head, 0)]
			if msg, err := parseResponse(head, "GET"); err == nil {
				t.Errorf("accepted as %+v", msg)
			}
		})
	}
	for _, e := range codingTricks {
		if e.alone != 0 {
			refused("te-"+e.name, e.lines)
		}
		refused("cl-te-"+e.name, "Content-Length: 5\r\n"+e.lines)
		refused("te-cl-"+e.name, e.lines+"\r\nContent-Length: 5")
	}
	for _, e := range lengthTricks {
		if e.status == 400 && !strings.Contains(e.name, "overflow-32") {
			refused("cl-"+e.name, e.lines)
		}
	}
}
