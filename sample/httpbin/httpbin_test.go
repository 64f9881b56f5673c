package httpbin

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	xws "golang.org/x/net/websocket"

	"cairnproxy.dev/cairn/sample/pod"
)

func newServer(t *testing.T, o Options) *Server {
	t.Helper()
	p, err := pod.New(pod.Options{Name: "httpbin-1"})
	if err != nil {
		t.Fatal(err)
	}
	return New(p, o)
}

// ask sends one request, with headers as name, value pairs.
func ask(s *Server, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.7:1234"
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// shown decodes the JSON of an answer.
func shown(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatalf("answered %d %q: %v", w.Code, w.Body, err)
	}
	return m
}

type list = []any

type object = map[string]any

func TestShow(t *testing.T) {
	s, flat := newServer(t, Options{}), newServer(t, Options{FlatHeaders: true})
	tests := []struct {
		name         string
		s            *Server
		method, path string
		body         string
		header       []string
		want         object
	}{
		{"get", s, "GET", "http://h.test/get?a=1&a=2", "", []string{"X-A", "1", "X-A", "2"}, object{
			"args": object{"a": list{"1", "2"}}, "headers": object{"Host": list{"h.test"}, "X-A": list{"1", "2"}},
			"method": "GET", "origin": "192.0.2.7", "url": "http://h.test/get?a=1&a=2",
		}},
		{"get-flat", flat, "GET", "http://h.test/get?a=1&a=2", "", []string{"X-A", "1", "X-A", "2"}, object{
			"args": object{"a": "1,2"}, "headers": object{"Host": "h.test", "X-A": "1,2"},
			"method": "GET", "origin": "192.0.2.7", "url": "http://h.test/get?a=1&a=2",
		}},
		{"forwarded", s, "GET", "http://h.test/get", "", []string{"X-Forwarded-For", "198.51.100.1, 10.0.0.1", "X-Forwarded-Proto", "https"}, object{
			"args": object{}, "headers": object{"Host": list{"h.test"}, "X-Forwarded-For": list{"198.51.100.1, 10.0.0.1"}, "X-Forwarded-Proto": list{"https"}},
			"method": "GET", "origin": "198.51.100.1", "url": "https://h.test/get",
		}},
		{"anything", s, "PURGE", "http://h.test/anything/at/all", "text", nil, object{
			"args": object{}, "headers": object{"Host": list{"h.test"}}, "method": "PURGE", "origin": "192.0.2.7",
			"url": "http://h.test/anything/at/all", "data": "text", "files": object{}, "form": object{}, "json": nil,
		}},
		{"post-json", s, "POST", "http://h.test/post", `{"a":[1]}`, []string{"Content-Type", "application/json; charset=utf-8"}, object{
			"args": object{}, "headers": object{"Host": list{"h.test"}, "Content-Type": list{"application/json; charset=utf-8"}}, "method": "POST",
			"origin": "192.0.2.7", "url": "http://h.test/post", "data": `{"a":[1]}`, "files": object{}, "form": object{}, "json": object{"a": list{1.0}},
		}},
		{"put-form", flat, "PUT", "http://h.test/put", "a=1&b=2", []string{"Content-Type", "application/x-www-form-urlencoded"}, object{
			"args": object{}, "headers": object{"Host": "h.test", "Content-Type": "application/x-www-form-urlencoded"}, "method": "PUT",
			"origin": "192.0.2.7", "url": "http://h.test/put", "data": "a=1&b=2", "files": object{}, "form": object{"a": "1", "b": "2"}, "json": nil,
		}},
		{"patch-bytes", s, "PATCH", "http://h.test/patch", "\xff", nil, object{
			"args": object{}, "headers": object{"Host": list{"h.test"}}, "method": "PATCH", "origin": "192.0.2.7", "url": "http://h.test/patch",
			"data": "data:application/octet-stream;base64,/w==", "files": object{}, "form": object{}, "json": nil,
		}},
		{"headers", s, "GET", "/headers", "", []string{"X-A", "1"}, object{"headers": object{"Host": list{"example.com"}, "X-A": list{"1"}}}},
		{"ip", s, "GET", "/ip", "", nil, object{"origin": "192.0.2.7"}},
		{"user-agent", s, "GET", "/user-agent", "", []string{"User-Agent", "curl/8"}, object{"user-agent": "curl/8"}},
		{"hostname", s, "GET", "/hostname", "", nil, object{"hostname": "httpbin-1"}},
		{"cookies", s, "GET", "/cookies", "", []string{"Cookie", "a=1; b=2"}, object{"cookies": object{"a": "1", "b": "2"}}},
		{"response-headers", s, "GET", "/response-headers?x-a=1&x-a=2", "", nil, object{"x-a": list{"1", "2"}}},
		{"basic-auth", s, "GET", "/basic-auth/u/p", "", []string{"Authorization", "Basic dTpw"}, object{"authorized": true, "authenticated": true, "user": "u"}},
		{"bearer", s, "GET", "/bearer", "", []string{"Authorization", "Bearer t"}, object{"authenticated": true, "token": "t"}},
		{"delay", s, "GET", "/delay/0", "", nil, object{
			"args": object{}, "headers": object{"Host": list{"example.com"}}, "method": "GET", "origin": "192.0.2.7",
			"url": "http://example.com/delay/0", "data": "", "files": object{}, "form": object{}, "json": nil,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(tt.s, tt.method, tt.path, tt.body, tt.header...)
			if diff := cmp.Diff(tt.want, shown(t, w)); diff != "" || w.Code != 200 {
				t.Errorf("answered %d; (-want +got):\n%s", w.Code, diff)
			}
		})
	}
}

func TestRespond(t *testing.T) {
	s := newServer(t, Options{})
	tests := []struct {
		name, method, path string
		send               []string // headers, as name, value pairs
		status             int
		body               string   // contained
		header             []string // expected, as name, value pairs
	}{
		{name: "index", path: "/", status: 200, body: "<h1>httpbin</h1>", header: []string{"Content-Type", "text/html; charset=utf-8"}},
		{name: "missing", path: "/nothing", status: 404},
		{name: "method", method: "GET", path: "/post", status: 405, header: []string{"Allow", "POST"}},
		{name: "head", method: "HEAD", path: "/get", status: 200},
		{name: "cors", path: "/get", send: []string{"Origin", "http://o.test"}, status: 200, header: []string{"Access-Control-Allow-Origin", "http://o.test"}},

		{name: "teapot", path: "/status/418", status: 418, body: "teapot"},
		{name: "status-put", method: "PUT", path: "/status/503", status: 503},
		{name: "status-301", path: "/status/301", status: 301, header: []string{"Location", "/redirect/1"}},
		{name: "status-304", path: "/status/304", status: 304, header: []string{"Location", ""}},
		{name: "status-401", path: "/status/401", status: 401, header: []string{"Www-Authenticate", `Basic realm="sample"`}},
		{name: "status-weight", path: "/status/200:0,503:1", status: 503},
		{name: "status-bad", path: "/status/99", status: 400},
		{name: "status-bad-weight", path: "/status/200:NaN", status: 400},
		{name: "unstable-always", path: "/unstable?failure_rate=1", status: 500},
		{name: "unstable-never", path: "/unstable?failure_rate=0", status: 200},
		{name: "unstable-bad", path: "/unstable?failure_rate=2", status: 400},

		{name: "delay-bad", path: "/delay/x", status: 400},
		{name: "delay-long", path: "/delay/1000", status: 400},
		{name: "bytes-bad", path: "/bytes/-1", status: 400},
		{name: "bytes-many", path: "/bytes/9999999999", status: 400},
		{name: "bytes-seed-bad", path: "/bytes/1?seed=x", status: 400},
		{name: "bytes", path: "/bytes/10", status: 200, header: []string{"Content-Length", "10"}},
		{name: "stream-bytes", path: "/stream-bytes/10", status: 200, header: []string{"Content-Length", ""}},
		{name: "range", path: "/range/30", status: 200, body: "abcdefghijklmnopqrstuvwxyzabcd", header: []string{"Etag", `"range30"`}},
		{name: "range-part", path: "/range/30", send: []string{"Range", "bytes=25-27"}, status: 206, body: "zab", header: []string{"Content-Range", "bytes 25-27/30"}},
		{name: "range-outside", path: "/range/30", send: []string{"Range", "bytes=30-"}, status: 416},
		{name: "stream-bad", path: "/stream/10001", status: 400},
		{name: "drip", path: "/drip?numbytes=3&duration=0&code=201", status: 201, body: "***"},
		{name: "drip-bad", path: "/drip?code=100", status: 400},
		{name: "base64", path: "/base64/aGVsbG8=", status: 200, body: "hello"},
		{name: "base64-decode", path: "/base64/decode/aGVsbG8", status: 200, body: "hello"},
		{name: "base64-encode", path: "/base64/encode/hello", status: 200, body: "aGVsbG8="},
		{name: "base64-bad", path: "/base64/!", status: 400},

		{name: "redirect-1", path: "/redirect/1", status: 302, header: []string{"Location", "/get"}},
		{name: "redirect-3", path: "/redirect/3", status: 302, header: []string{"Location", "/relative-redirect/2"}},
		{name: "absolute", path: "/absolute-redirect/2", status: 302, header: []string{"Location", "http://example.com/absolute-redirect/1"}},
		{name: "redirect-many", path: "/redirect/101", status: 400},
		{name: "redirect-to", path: "/redirect-to?url=http%3A%2F%2Fx.test%2F&status_code=307", status: 307, header: []string{"Location", "http://x.test/"}},
		{name: "redirect-to-script", path: "/redirect-to?url=javascript%3Aalert(1)", status: 400},
		{name: "redirect-to-none", path: "/redirect-to", status: 400},
		{name: "redirect-to-code", path: "/redirect-to?url=/&status_code=200", status: 400},
		{name: "response-headers", method: "POST", path: "/response-headers?X-A=1&Content-Type=text/plain", status: 200, header: []string{"X-A", "1", "Content-Type", "text/plain"}},
		{name: "response-length", path: "/response-headers?Content-Length=1&Content-Encoding=gzip", status: 200, body: "Content-Length", header: []string{"Content-Encoding", ""}},
		{name: "cache", path: "/cache", status: 200, header: []string{"Etag", `"sample"`}},
		{name: "cache-known", path: "/cache", send: []string{"If-None-Match", "x"}, status: 304},
		{name: "cache-age", path: "/cache/60", status: 200, header: []string{"Cache-Control", "public, max-age=60"}},
		{name: "etag", path: "/etag/a", status: 200, header: []string{"Etag", `"a"`}},
		{name: "etag-known", path: "/etag/a", send: []string{"If-None-Match", `"b", W/"a"`}, status: 304},
		{name: "etag-other", path: "/etag/a", send: []string{"If-Match", `"b"`}, status: 412},
		{name: "etag-any", path: "/etag/a", send: []string{"If-Match", `*`}, status: 200},

		{name: "basic-refused", path: "/basic-auth/u/p", send: []string{"Authorization", "Basic dTpx"}, status: 401, body: `"authorized": false`, header: []string{"Www-Authenticate", `Basic realm="sample"`}},
		{name: "hidden-refused", path: "/hidden-basic-auth/u/p", status: 404, header: []string{"Www-Authenticate", ""}},
		{name: "bearer-refused", path: "/bearer", status: 401, header: []string{"Www-Authenticate", "Bearer"}},

		{name: "html", path: "/html", status: 200, body: "<h1>", header: []string{"Content-Type", "text/html; charset=utf-8"}},
		{name: "json", path: "/json", status: 200, body: "slideshow", header: []string{"Content-Type", "application/json"}},
		{name: "xml", path: "/xml", status: 200, body: "<slideshow", header: []string{"Content-Type", "application/xml"}},
		{name: "robots", path: "/robots.txt", status: 200, body: "Disallow: /deny"},
		{name: "deny", path: "/deny", status: 200},
		{name: "utf8", path: "/encoding/utf8", status: 200, body: "日本語"},
		{name: "cookies-set", path: "/cookies/set?a=1", status: 302, header: []string{"Set-Cookie", "a=1; Path=/; HttpOnly", "Location", "/cookies"}},
		{name: "cookies-delete", path: "/cookies/delete?a", status: 302, header: []string{"Set-Cookie", "a=; Path=/; Max-Age=0; HttpOnly"}},
		{name: "websocket-plain", path: "/websocket/echo", status: 426},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.method == "" {
				tt.method = "GET"
			}
			w := ask(s, tt.method, tt.path, "", tt.send...)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("answered %d %q, want %d with %q", w.Code, w.Body, tt.status, tt.body)
			}
			for i := 0; i < len(tt.header); i += 2 {
				if got := w.Header().Get(tt.header[i]); got != tt.header[i+1] {
					t.Errorf("%s: %q, want %q", tt.header[i], got, tt.header[i+1])
				}
			}
		})
	}
}

func TestBytes(t *testing.T) {
	s := newServer(t, Options{})
	one, two := ask(s, "GET", "/bytes/1000?seed=1", ""), ask(s, "GET", "/bytes/1000?seed=1", "")
	if one.Body.Len() != 1000 || !bytes.Equal(one.Body.Bytes(), two.Body.Bytes()) {
		t.Errorf("%d bytes, want 1000, the same for the same seed", one.Body.Len())
	}
	if other := ask(s, "GET", "/bytes/1000", ""); bytes.Equal(one.Body.Bytes(), other.Body.Bytes()) {
		t.Error("without a seed the bytes are those of seed 1")
	}
}

func TestStream(t *testing.T) {
	w := ask(newServer(t, Options{}), "GET", "/stream/3", "")
	dec := json.NewDecoder(w.Body)
	for i := range 3 {
		var m struct {
			ID  int    `json:"id"`
			URL string `json:"url"`
		}
		if err := dec.Decode(&m); err != nil || m.ID != i || m.URL != "http://example.com/stream/3" {
			t.Errorf("line %d: %+v, %v", i, m, err)
		}
	}
	if dec.More() {
		t.Error("more than three lines")
	}
}

func TestUUID(t *testing.T) {
	got, _ := shown(t, ask(newServer(t, Options{}), "GET", "/uuid", ""))["uuid"].(string)
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got) {
		t.Errorf("uuid %q is not of version 4", got)
	}
}

func TestCompressed(t *testing.T) {
	s := newServer(t, Options{})
	gz, err := gzip.NewReader(ask(s, "GET", "/gzip", "").Body)
	if err != nil {
		t.Fatal(err)
	}
	zl, err := zlib.NewReader(ask(s, "GET", "/deflate", "").Body)
	if err != nil {
		t.Fatal(err)
	}
	for key, r := range map[string]io.Reader{"gzipped": gz, "deflated": zl} {
		var m map[string]any
		if err := json.NewDecoder(r).Decode(&m); err != nil || m[key] != true {
			t.Errorf("%s: %v, %v", key, m, err)
		}
	}
}

func TestMultipart(t *testing.T) {
	var body bytes.Buffer
	mw := multipart.NewWriter(&body)
	if err := mw.WriteField("a", "1"); err != nil {
		t.Fatal(err)
	}
	f, err := mw.CreateFormFile("file", "name.txt")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "content"); err != nil {
		t.Fatal(err)
	}
	mw.Close()
	m := shown(t, ask(newServer(t, Options{}), "POST", "/post", body.String(), "Content-Type", mw.FormDataContentType()))
	if diff := cmp.Diff(object{"a": list{"1"}}, m["form"]); diff != "" {
		t.Errorf("form (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(object{"file": list{"content"}}, m["files"]); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestBadBodies(t *testing.T) {
	s := newServer(t, Options{})
	tests := []struct {
		name, body, contentType string
		want                    int
	}{
		{"large", strings.Repeat("x", maxBody+1), "", http.StatusRequestEntityTooLarge},
		{"form", "%zz", "application/x-www-form-urlencoded", http.StatusBadRequest},
		{"multipart", "x", "multipart/form-data; boundary=y", http.StatusBadRequest},
		{"no-boundary", "x", "multipart/form-data", http.StatusBadRequest},
		{"not-json", "{", "application/json", http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if w := ask(s, "POST", "/post", tt.body, "Content-Type", tt.contentType); w.Code != tt.want {
				t.Errorf("answered %d %q, want %d", w.Code, w.Body, tt.want)
			}
		})
	}
}

func TestPick(t *testing.T) {
	list, err := parseChoices("200:0.5,500:0.25,503:0.25")
	if err != nil {
		t.Fatal(err)
	}
	for x, want := range map[float64]int{0: 200, 0.49: 200, 0.5: 500, 0.74: 500, 0.75: 503, 0.99: 503, 1: 503} {
		if got := pick(list, x); got != want {
			t.Errorf("pick at %v: %d, want %d", x, got, want)
		}
	}
}

func TestWebSocket(t *testing.T) {
	s := newServer(t, Options{})
	srv := httptest.NewServer(s)
	defer srv.Close()
	c, err := xws.Dial("ws"+strings.TrimPrefix(srv.URL, "http")+"/websocket/echo", "", "http://origin.test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got string
	if err := xws.Message.Send(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := xws.Message.Receive(c, &got); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	drained := make(chan struct{})
	go func() { defer close(drained); s.Drain(context.Background()) }()
	if err := xws.Message.Receive(c, &got); !errors.Is(err, io.EOF) {
		t.Errorf("when the server drains: %v, want EOF", err)
	}
	c.Close()
	<-drained
	if w := ask(s, "GET", "/websocket/echo", ""); w.Code != http.StatusServiceUnavailable {
		t.Errorf("after draining: %d, want 503", w.Code)
	}
}

func FuzzParseChoices(f *testing.F) {
	f.Add("200:0.5,500", 0.5)
	f.Fuzz(func(t *testing.T, s string, x float64) {
		list, err := parseChoices(s)
		if err != nil {
			return
		}
		if got := pick(list, x); got < 200 || got > 599 {
			t.Errorf("pick(%q) = %d", s, got)
		}
	})
}
