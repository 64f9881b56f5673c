package h1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/mesh"
)

// FuzzRequest: every request that we accept is read alike by net/http, with the
// same end, from what came and from what we send on; and it does not matter in
// what pieces the head came.
func FuzzRequest(f *testing.F) {
	for _, v := range vectors() {
		f.Add([]byte(v.raw))
	}
	f.Add([]byte(benchRequest))
	f.Fuzz(func(t *testing.T, raw []byte) {
		whole, from := FindHeadEnd(raw, 0), 0
		for n := range len(raw) + 1 {
			if got := FindHeadEnd(raw[:n], from); got >= 0 {
				if got != whole || got != n {
					t.Fatalf("head of %q ends at %d with %d bytes, at %d with all", raw, got, n, whole)
				}
				break
			}
			from = n
		}
		msgs, rest, _ := readStream(raw)
		for _, m := range msgs {
			if m.req.Fields.Has("trailer") && m.framing.Length == Chunked {
				// net/http refuses some values of Trailer; nothing hangs on it.
				return
			}
		}
		sameAsNetHTTP(t, raw, msgs, len(rest))
	})
}

// FuzzResponse: every response that we accept is read alike by net/http.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		benchResponse, "HTTP/1.1 200 OK\r\n\r\nabc", "HTTP/1.0 200\r\nContent-Length: 1\r\n\r\nab", "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\nmore", "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\nHTTP/1.1",
		"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nabc", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	} {
		for i := range 3 {
			f.Add([]byte(s), byte(i))
		}
	}
	for _, e := range codingTricks {
		f.Add([]byte("HTTP/1.1 200 OK\r\n"+e.lines+"\r\n\r\n0\r\n\r\n"), byte(0))
	}
	for _, e := range lengthTricks {
		f.Add([]byte("HTTP/1.1 200 OK\r\n"+e.lines+"\r\n\r\nabcdef"), byte(0))
	}
	f.Fuzz(func(t *testing.T, raw []byte, which byte) {
		method := []string{"GET", "HEAD", "CONNECT"}[which%3]
		b := bytes.Clone(raw)
		n := FindHeadEnd(b, 0)
		if n < 0 {
			return
		}
		got, err := parseResponse(b[:n], method)
		if err != nil || got.resp.Fields.Has("trailer") {
			return
		}
		var body Body
		body.Reset(got.framing, nil)
		content, rest, end := readBody(&body, b[n:])
		r := bufio.NewReader(bytes.NewReader(raw))
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", raw, err)
		}
		if resp.StatusCode != got.resp.Status {
			t.Fatalf("status %d, net/http %d", got.resp.Status, resp.StatusCode)
		}
		for _, f := range got.resp.Fields {
			if theirs, ours := strings.Join(resp.Header[http.CanonicalHeaderKey(f.Name)], "|"), joined(got.resp.Fields, f.Name); theirs != ours {
				t.Fatalf("field %s: net/http reads %q, we %q", f.Name, theirs, ours)
			}
		}
		theirs, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if end == nil {
			left, _ := io.ReadAll(r)
			if err != nil || string(theirs) != content || string(left) != rest {
				t.Fatalf("of %q net/http reads %q, leaves %q (%v); we read %q, leave %q", raw, theirs, left, err, content, rest)
			}
		}
		out := AppendResponse(nil, &got.resp, got.framing)
		if again, err := parseResponse(bytes.Clone(out), method); err != nil || again.framing != got.framing || !slices.Equal(again.resp.Fields, got.resp.Fields) {
			// An HTTP/1.0 backend's keep-alive is not repeated by HTTP/1.1.
			if err != nil || !got.framing.KeepAlive10 {
				t.Fatalf("%q was sent as %q and read back as %+v, %v; want %+v", raw, out, again, err, got)
			}
		}
	})
}

// readBody reads b to its end; err is nil when the body ended as it should.
func readBody(body *Body, b []byte) (content, rest string, err error) {
	for {
		data, n, done, err := body.Next(b)
		if err != nil {
			return content, "", err
		}
		content += string(data)
		if b = b[n:]; done || len(b) == 0 {
			return content, string(b), body.End()
		}
	}
}

// FuzzChunk: pieces do not matter, and net/http decodes the same.
func FuzzChunk(f *testing.F) {
	for _, e := range chunkTricks {
		f.Add([]byte(e.body+smuggled), uint32(3))
	}
	for _, s := range []string{"3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\nGET", "1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0000\r\nGrpc-Status: 0\r\nHost: a\r\n\r\n", "4\r\n\r\n\r\n\r\n0\r\n\r\n"} {
		f.Add([]byte(s), uint32(1))
	}
	lim := &Limits{MaxTrailer: 64, MaxFields: 3}
	f.Fuzz(func(t *testing.T, raw []byte, seed uint32) {
		data, trailers, rest, done, err := decode(bytes.Clone(raw), len(raw)+1, lim)
		for _, step := range []int{1, 1 + int(seed%7), 1 + int(seed%61)} {
			d2, t2, r2, done2, err2 := decode(bytes.Clone(raw), step, lim)
			if d2 != data || done2 != done || !errors.Is(err2, err) || done && !bytes.Equal(r2, rest) || !cmp.Equal(t2, trailers) {
				t.Fatalf("%q by %d: %q %v %q %v %v; whole: %q %v %q %v %v", raw, step, d2, t2, r2, done2, err2, data, trailers, rest, done, err)
			}
		}
		if !done {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if err != nil || string(theirs) != data {
			t.Fatalf("%q: net/http reads %q, %v; we %q", raw, theirs, err, data)
		}
		var d Body
		d.Reset(Framing{Length: Chunked}, nil)
		again, left, err := readBody(&d, AppendLastChunk(AppendChunk(nil, theirs), trailers))
		if err != nil || again != data || left != "" || !slices.Equal(d.Trailers(), trailers) {
			t.Fatalf("%q: written and read back as %q, %q, %v, %v", raw, again, left, d.Trailers(), err)
		}
	})
}

// FuzzAppend: whatever stands in a Request, one head comes out, with the framing
// that was asked for, and no field that was not there.
func FuzzAppend(f *testing.F) {
	f.Add("GET", "a:80", "/b", "c=d", true, "x-a", "v", int64(0), uint8(0))
	f.Add("GET / HTTP/1.1\r\n", "a\r\nx: y", "/ HTTP/1.1\r\n\r\n", "\r\n", true, "x\r\ny", "v\r\n\r\nGET", int64(-1), uint8(255))
	f.Add("POST", "", "*", "#", true, "Content-Length", "5", int64(7), uint8(3))
	f.Add("OPTIONS", "[::1]", "*", "", false, "TRANSFER-ENCODING", "chunked", int64(-2), uint8(4))
	f.Fuzz(func(t *testing.T, method, authority, path, query string, hasQuery bool, name, value string, length int64, flags uint8) {
		req := mesh.Request{
			Method: method, Authority: authority, Path: path, Query: query, HasQuery: hasQuery,
			Fields: mesh.Fields{{Name: name, Value: value}},
		}
		fr := Framing{Length: length, Close: flags&1 != 0, Trailers: flags&2 != 0, Expect100: flags&4 != 0}
		if flags&8 != 0 {
			fr.Upgrade = value
		}
		out := AppendRequest(nil, &req, fr)
		if n := FindHeadEnd(out, 0); n != len(out) {
			t.Fatalf("%q: head ends at %d of %d", out, n, len(out))
		}
		checkLines(t, out)
		var got mesh.Request
		var gf Framing
		if err := ParseRequest(bytes.Clone(out), nil, &got, &gf); err == nil {
			wantLength := max(length, Chunked)
			if gf.Length != wantLength || gf.Close != fr.Close || gf.Trailers != fr.Trailers || len(got.Fields) > 1 || got.Method != method && got.Method != "INVALID" {
				t.Fatalf("%q: read back as %+v, %+v", out, got, gf)
			}
			if _, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out))); err != nil && name != "trailer" {
				t.Fatalf("%q: net/http refuses: %v", out, err)
			}
		}
		resp := mesh.Response{Status: int(length), Fields: req.Fields}
		out = AppendResponse(nil, &resp, fr)
		if n := FindHeadEnd(out, 0); n != len(out) {
			t.Fatalf("%q: head ends at %d of %d", out, n, len(out))
		}
		checkLines(t, out)
		checkLines(t, AppendLastChunk(nil, req.Fields))
	})
}

// checkLines asserts that every line but the last has something in it and that
// CR and LF stand only together.
func checkLines(t *testing.T, out []byte) {
	t.Helper()
	lines := strings.Split(string(out), "\r\n")
	for i, l := range lines {
		if strings.ContainsAny(l, "\r\n\x00") || (l == "") != (i >= len(lines)-2) {
			t.Fatalf("line %d of %q", i, out)
		}
	}
	if len(lines) > 10 { // first line, host, field, five of framing, and the end
		t.Fatalf("%d lines in %q", len(lines), out)
	}
}
