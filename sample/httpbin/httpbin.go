package httpbin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"cairnproxy.dev/cairn/sample/pod"
	"cairnproxy.dev/cairn/sample/websocket"
)

const (
	// maxBody bounds a request body that is shown, or decoded as a form.
	maxBody = 1 << 20
	// maxMemory is how much of a multipart form is parsed.
	maxMemory = maxBody
)

// Options choose how things are shown.
type Options struct {
	// FlatHeaders shows each header, argument and form field as one string with
	// commas, as httpbin in Python does. Otherwise each is a list.
	FlatHeaders bool
}

// Server is the httpbin of one pod, an http.Handler. Build it with New.
type Server struct {
	pod  *pod.Pod
	flat bool
	mux  *http.ServeMux

	sockets *websocket.Endpoint
}

// New returns the httpbin of p.
func New(p *pod.Pod, o Options) *Server {
	s := &Server{pod: p, flat: o.FlatHeaders, mux: http.NewServeMux(), sockets: websocket.NewEndpoint()}
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /{$}":       index,
		"GET /get":       s.showGet,
		"POST /post":     s.showBody,
		"PUT /put":       s.showBody,
		"PATCH /patch":   s.showBody,
		"DELETE /delete": s.showBody,
		"/anything":      s.showBody,
		"/anything/":     s.showBody,

		"GET /headers":           s.headers,
		"GET /ip":                func(w http.ResponseWriter, r *http.Request) { show(w, map[string]any{"origin": origin(r)}) },
		"GET /user-agent":        func(w http.ResponseWriter, r *http.Request) { show(w, map[string]any{"user-agent": r.UserAgent()}) },
		"GET /hostname":          func(w http.ResponseWriter, r *http.Request) { show(w, map[string]any{"hostname": p.Name()}) },
		"GET /uuid":              uuid,
		"GET /cookies":           cookies,
		"GET /cookies/set":       setCookies,
		"GET /cookies/delete":    deleteCookies,
		"/status/{codes}":        status,
		"/unstable":              unstable,
		"/delay/{n}":             s.delay,
		"GET /bytes/{n}":         randomBytes,
		"GET /stream-bytes/{n}":  randomBytes,
		"GET /range/{n}":         ranged,
		"GET /stream/{n}":        s.stream,
		"GET /drip":              drip,
		"GET /base64/{value...}": base64Decode,

		"/redirect/{n}":          redirect,
		"/relative-redirect/{n}": redirect,
		"/absolute-redirect/{n}": absoluteRedirect,
		"/redirect-to":           redirectTo,
		"/response-headers":      s.responseHeaders,
		"GET /cache":             s.cache,
		"GET /cache/{n}":         s.cacheControl,
		"GET /etag/{tag}":        s.etag,

		"/basic-auth/{user}/{password}":        basicAuth(http.StatusUnauthorized),
		"/hidden-basic-auth/{user}/{password}": basicAuth(http.StatusNotFound),
		"/bearer":                              bearer,

		"GET /gzip":          s.gzip,
		"GET /deflate":       s.deflate,
		"GET /html":          fixed("text/html; charset=utf-8", htmlPage),
		"GET /json":          fixed("application/json", jsonPage),
		"GET /xml":           fixed("application/xml", xmlPage),
		"GET /robots.txt":    fixed("text/plain", "User-agent: *\nDisallow: /deny\n"),
		"GET /deny":          fixed("text/plain", "You were asked not to come here.\n"),
		"GET /encoding/utf8": fixed("text/html; charset=utf-8", utf8Page),
		"/websocket/echo":    s.sockets.ServeHTTP,
	} {
		s.mux.HandleFunc(pattern, h)
	}
	return s
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// As every httpbin does, for pages that try it out in a browser.
	if o := r.Header.Get("Origin"); o != "" {
		w.Header().Set("Access-Control-Allow-Origin", o)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
	s.mux.ServeHTTP(w, r)
}

// Drain ends WebSockets and returns when they have ended or ctx is done.
func (s *Server) Drain(ctx context.Context) { s.sockets.Drain(ctx) }

// values shows a header or form in the family's way.
func (s *Server) values(h map[string][]string) map[string]any {
	m := make(map[string]any, len(h))
	for k, v := range h {
		if s.flat {
			m[k] = strings.Join(v, ",")
		} else {
			m[k] = v
		}
	}
	return m
}

// requestHeaders returns r's headers with Host among them, where httpbin shows it.
func (s *Server) requestHeaders(r *http.Request) map[string]any {
	m := s.values(r.Header)
	if s.flat {
		m["Host"] = r.Host
	} else {
		m["Host"] = []string{r.Host}
	}
	return m
}

func (s *Server) headers(w http.ResponseWriter, r *http.Request) {
	show(w, map[string]any{"headers": s.requestHeaders(r)})
}

// request returns what all of /get, /post and so on show.
func (s *Server) request(r *http.Request) map[string]any {
	return map[string]any{
		"args":    s.values(r.URL.Query()),
		"headers": s.requestHeaders(r),
		"method":  r.Method,
		"origin":  origin(r),
		"url":     fullURL(r),
	}
}

func (s *Server) showGet(w http.ResponseWriter, r *http.Request) { show(w, s.request(r)) }

// showBody shows the request with its body: as text or a data URL, and decoded
// where it is a form or JSON.
func (s *Server) showBody(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, fmt.Sprintf("bodies of more than %d bytes are not shown", maxBody), http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		http.Error(w, "reading the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	m := s.request(r)
	m["files"], m["form"], m["json"] = map[string]any{}, map[string]any{}, nil
	m["data"] = dataOf(body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	switch kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) {
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			http.Error(w, "reading the form: "+err.Error(), http.StatusBadRequest)
			return
		}
		m["form"] = s.values(form)
	case "multipart/form-data":
		if err := s.multipart(r, m); err != nil {
			http.Error(w, "reading the form: "+err.Error(), http.StatusBadRequest)
			return
		}
	case "application/json":
		var v any
		if json.Unmarshal(body, &v) == nil {
			m["json"] = v
		}
	}
	show(w, m)
}

// multipart adds the fields and files of r's form to m.
func (s *Server) multipart(r *http.Request, m map[string]any) error {
	if err := r.ParseMultipartForm(maxMemory); err != nil {
		return err
	}
	defer func() { _ = r.MultipartForm.RemoveAll() }() // only memory: maxMemory holds the largest body
	m["form"] = s.values(r.MultipartForm.Value)
	files := make(map[string][]string)
	for name, hs := range r.MultipartForm.File {
		for _, h := range hs {
			f, err := h.Open()
			if err != nil {
				return err
			}
			b, err := io.ReadAll(f)
			f.Close()
			if err != nil {
				return err
			}
			files[name] = append(files[name], dataOf(b))
		}
	}
	m["files"] = s.values(files)
	return nil
}

// origin returns the client's address as the request tells it.
func origin(r *http.Request) string {
	if f := r.Header.Get("X-Forwarded-For"); f != "" {
		first, _, _ := strings.Cut(f, ",")
		return strings.TrimSpace(first)
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// fullURL returns the URL that the client asked for, as far as it is known here.
func fullURL(r *http.Request) string {
	u := *r.URL
	u.Scheme, u.Host = "http", r.Host
	if p := r.Header.Get("X-Forwarded-Proto"); p == "https" {
		u.Scheme = p
	}
	return u.String()
}

// dataOf shows b as it is if it is text, or else as a data URL.
func dataOf(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return dataURL(b)
}

// show answers v as JSON, in the way people read it.
func show(w http.ResponseWriter, v any) { showStatus(w, http.StatusOK, v) }

func showStatus(w http.ResponseWriter, status int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that has gone away has nobody to tell
}

func index(w http.ResponseWriter, r *http.Request) {
	fixed("text/html; charset=utf-8", indexPage)(w, r)
}

func fixed(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}
