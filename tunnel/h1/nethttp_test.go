package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// sameAsNetHTTP asserts that net/http reads the same requests: from raw, which
// we accepted as msgs, and from what we would send on for them.
//
// Differences that are meant: net/http does not normalise paths, keeps the case
// of hosts, knows nothing of field names in lower case, and reads the target of
// OPTIONS in absolute form without a path as "". rest is how many bytes stand
// behind the last request.
func sameAsNetHTTP(t *testing.T, raw []byte, msgs []*message, rest int) {
	t.Helper()
	if len(msgs) == 0 {
		return
	}
	var sent []byte
	for _, m := range msgs {
		sent = m.write(sent)
	}
	compareStream(t, "received", raw, msgs, rest, false)
	if slices.ContainsFunc(msgs, func(m *message) bool { return m.req.Authority == "" }) {
		return // HTTP/1.0 without Host: the proxy has to supply one
	}
	compareStream(t, "sent", sent, msgs, 0, true)
	again, left, err := readStream(sent)
	if err != nil || len(again) != len(msgs) {
		t.Fatalf("sent %q, which we read as %d requests with %q behind, error %v", sent, len(again), left, err)
	}
	for i, m := range msgs {
		if got, want := string(again[i].write(nil)), string(m.write(nil)); got != want {
			t.Fatalf("sent %q, read back as %q", want, got)
		}
	}
}

func compareStream(t *testing.T, what string, raw []byte, msgs []*message, rest int, ours bool) {
	t.Helper()
	raw = raw[skipEmptyLines(raw):]
	r := bufio.NewReader(bytes.NewReader(raw))
	for _, m := range msgs {
		for p, _ := r.Peek(2); string(p) == "\r\n"; p, _ = r.Peek(2) {
			_, _ = r.Discard(2)
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatalf("net/http refuses what was %s in %q: %v", what, raw, err)
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatalf("net/http refuses the body that was %s in %q: %v", what, raw, err)
		}
		compare(t, m, req, string(body), ours)
	}
	if left, _ := io.ReadAll(r); len(left) != rest {
		t.Fatalf("net/http finds %d bytes, %q, behind what was %s in %q, we find %d", len(left), left, what, raw, rest)
	}
}

// compare asserts that req is m.
func compare(t *testing.T, m *message, req *http.Request, body string, ours bool) {
	t.Helper()
	check := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: net/http reads %#v, we %#v", what, got, want)
		}
	}
	check("method", req.Method, m.req.Method)
	check("host", strings.ToLower(req.Host), m.req.Authority)
	check("body", body, m.body)
	path := req.RequestURI
	if !strings.HasPrefix(path, "/") && path != "*" { // absolute
		path = req.RequestURI[len(req.URL.Scheme)+len("://")+len(req.Host):]
	}
	path, query, hasQuery := strings.Cut(path, "?")
	if path == "" && req.Method == http.MethodOptions && !hasQuery {
		path = "*"
	}
	if path == "" {
		path = "/"
	}
	if path != "*" {
		normal, err := NormalizePath([]byte(path))
		check("path error", err, nil)
		if ours {
			check("path sent", path, string(normal))
		}
		path = string(normal)
	}
	check("path", path, m.req.Path)
	check("query", query, m.req.Query)
	check("has query", hasQuery, m.req.HasQuery)
	if m.framing.Length >= 0 {
		check("length", req.ContentLength, m.framing.Length)
	}
	check("chunked", len(req.TransferEncoding) == 1, m.framing.Length == Chunked)
	if !ours {
		check("close", req.Close, m.framing.Close)
	}
	for _, f := range m.req.Fields {
		if f.Name == "trailer" { // taken out by net/http
			continue
		}
		check("values of "+f.Name, strings.Join(req.Header[http.CanonicalHeaderKey(f.Name)], "|"), joined(m.req.Fields, f.Name))
	}
	for _, f := range m.trailer {
		check("trailers of "+f.Name, strings.Join(req.Trailer[http.CanonicalHeaderKey(f.Name)], "|"), joined(m.trailer, f.Name))
	}
}

func joined(fs mesh.Fields, name string) string {
	var vs []string
	for _, f := range fs {
		if f.Name == name {
			vs = append(vs, f.Value)
		}
	}
	return strings.Join(vs, "|")
}

// reply is one response as this codec understands it.
type reply struct {
	resp    mesh.Response
	framing Framing
}

func parseResponse(head []byte, method string) (*reply, error) {
	r := new(reply)
	return r, ParseResponse(head, nil, method, &r.resp, &r.framing)
}
