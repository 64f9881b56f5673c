package httpbin

import (
	"compress/gzip"
	"compress/zlib"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxBytes, maxLines and maxRedirects bound what a path may ask for.
	maxBytes     = 64 << 20
	maxLines     = 10_000
	maxRedirects = 100
	// maxDelay bounds all waiting within one request.
	maxDelay = 10 * time.Minute
)

// count reads a number of a path or argument, from 0 to most; it answers 400
// and returns false if it is none.
func count(w http.ResponseWriter, s string, most int) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		http.Error(w, fmt.Sprintf("%q is not a number from 0 to %d", s, most), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

// seconds reads a number of seconds ("1", "0.5") or a Go duration.
func seconds(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		d, err = time.ParseDuration(s + "s")
	}
	if err != nil || d < 0 || d > maxDelay {
		return 0, fmt.Errorf("%q is not a number of seconds up to %v", s, maxDelay.Seconds())
	}
	return d, nil
}

// pause waits for d, or until ctx is done and returns its error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// choice is a status and its share of the answers.
type choice struct {
	status int
	weight float64
}

// parseChoices reads "CODE[:WEIGHT],…".
func parseChoices(s string) ([]choice, error) {
	var list []choice
	for e := range strings.SplitSeq(s, ",") {
		code, share, weighted := strings.Cut(e, ":")
		c := choice{weight: 1}
		var err error
		if c.status, err = strconv.Atoi(code); err != nil || c.status < 200 || c.status > 599 {
			return nil, fmt.Errorf("%q is not a status from 200 to 599", code)
		}
		if weighted {
			c.weight, err = strconv.ParseFloat(share, 64)
			if err != nil || !(c.weight >= 0 && c.weight <= 1e6) { // and not NaN
				return nil, fmt.Errorf("%q is not a weight", share)
			}
		}
		list = append(list, c)
	}
	return list, nil
}

// pick returns the status that x, from 0 to 1, falls on.
func pick(list []choice, x float64) int {
	var sum float64
	for _, c := range list {
		sum += c.weight
	}
	x *= sum
	for _, c := range list {
		if x < c.weight {
			return c.status
		}
		x -= c.weight
	}
	return list[len(list)-1].status
}

func status(w http.ResponseWriter, r *http.Request) {
	list, err := parseChoices(r.PathValue("codes"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	code := pick(list, rand.Float64())
	h := w.Header()
	switch {
	case code == http.StatusTeapot:
		h.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "I'm a teapot!\n")
		return
	case code == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Basic realm="sample"`)
	case code >= 301 && code <= 308 && code != http.StatusNotModified && code != 306:
		h.Set("Location", "/redirect/1")
	}
	w.WriteHeader(code)
}

// unstable fails half of the time, or as often as failure_rate says.
func unstable(w http.ResponseWriter, r *http.Request) {
	rate := 0.5
	if v := r.URL.Query().Get("failure_rate"); v != "" {
		var err error
		if rate, err = strconv.ParseFloat(v, 64); err != nil || !(rate >= 0 && rate <= 1) {
			http.Error(w, "failure_rate is not between 0 and 1", http.StatusBadRequest)
			return
		}
	}
	if rand.Float64() < rate {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

func (s *Server) delay(w http.ResponseWriter, r *http.Request) {
	d, err := seconds(r.PathValue("n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if pause(r.Context(), d) == nil {
		s.showBody(w, r)
	}
}

// randomBytes answers bytes by chance, the same for the same ?seed=.
func randomBytes(w http.ResponseWriter, r *http.Request) {
	n, ok := count(w, r.PathValue("n"), maxBytes)
	if !ok {
		return
	}
	seed := rand.Uint64()
	if v := r.URL.Query().Get("seed"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			http.Error(w, "seed is not a number", http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if !strings.HasPrefix(r.URL.Path, "/stream-") {
		w.Header().Set("Content-Length", strconv.Itoa(n))
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, _ = io.CopyN(w, rand.NewChaCha8(key), int64(n)) // until the client has gone
}

// letters is a text of the alphabet over and over, as a file.
type letters struct{ size, at int64 }

func (l *letters) Read(p []byte) (int, error) {
	n := min(int64(len(p)), l.size-l.at)
	if n <= 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = 'a' + byte((l.at+int64(i))%26)
	}
	l.at += n
	return int(n), nil
}

func (l *letters) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += l.at
	case io.SeekEnd:
		offset += l.size
	}
	if offset < 0 {
		return 0, errors.New("seeking to before the beginning")
	}
	l.at = offset
	return offset, nil
}

// ranged answers N letters, or the range of them that is asked for.
func ranged(w http.ResponseWriter, r *http.Request) {
	n, ok := count(w, r.PathValue("n"), maxBytes)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("ETag", fmt.Sprintf(`"range%d"`, n))
	http.ServeContent(w, r, "", time.Time{}, &letters{size: int64(n)})
}

// stream answers N lines of JSON, each the request with its number.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	n, ok := count(w, r.PathValue("n"), maxLines)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	m, enc, rc := s.request(r), json.NewEncoder(w), http.NewResponseController(w)
	for i := range n {
		m["id"] = i
		if enc.Encode(m) != nil || rc.Flush() != nil {
			return
		}
	}
}

// drip answers ?numbytes= one by one over ?duration=, after ?delay=, with ?code=.
func drip(w http.ResponseWriter, r *http.Request) {
	arg := func(name, otherwise string) string {
		if v := r.URL.Query().Get(name); v != "" {
			return v
		}
		return otherwise
	}
	n, ok := count(w, arg("numbytes", "10"), maxLines)
	if !ok {
		return
	}
	code, ok := count(w, arg("code", "200"), 599)
	if !ok {
		return
	}
	wait, err1 := seconds(arg("delay", "0"))
	over, err2 := seconds(arg("duration", "2"))
	if err := errors.Join(err1, err2); err != nil || code < 200 {
		http.Error(w, "delay and duration are seconds, code is a status from 200", http.StatusBadRequest)
		return
	}
	if pause(r.Context(), wait) != nil {
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	w.WriteHeader(code)
	rc := http.NewResponseController(w)
	for i := range n {
		if i > 0 && pause(r.Context(), over/time.Duration(n)) != nil {
			return
		}
		if _, err := io.WriteString(w, "*"); err != nil || rc.Flush() != nil {
			return
		}
	}
}

// base64Decode answers what VALUE, or decode/VALUE, decodes to; encode/VALUE encodes.
func base64Decode(w http.ResponseWriter, r *http.Request) {
	v := r.PathValue("value")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if plain, ok := strings.CutPrefix(v, "encode/"); ok {
		_, _ = io.WriteString(w, base64.URLEncoding.EncodeToString([]byte(plain)))
		return
	}
	v = strings.TrimRight(strings.TrimPrefix(v, "decode/"), "=")
	v = strings.NewReplacer("+", "-", "/", "_").Replace(v)
	b, err := base64.RawURLEncoding.DecodeString(v)
	if err != nil {
		http.Error(w, "this is not base64: "+err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(b)
}

func uuid(w http.ResponseWriter, _ *http.Request) {
	var b [16]byte
	crand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	show(w, map[string]string{"uuid": fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])})
}

func redirect(w http.ResponseWriter, r *http.Request) {
	redirectN(w, r, "", "/relative-redirect/")
}

func absoluteRedirect(w http.ResponseWriter, r *http.Request) {
	redirectN(w, r, "http://"+r.Host, "/absolute-redirect/")
}

// redirectN sends the client N times on, and then to /get.
func redirectN(w http.ResponseWriter, r *http.Request, base, path string) {
	n, ok := count(w, r.PathValue("n"), maxRedirects)
	if !ok {
		return
	}
	to := base + "/get"
	if n > 1 {
		to = base + path + strconv.Itoa(n-1)
	}
	http.Redirect(w, r, to, http.StatusFound)
}

// redirectTo sends the client to ?url= with ?status_code=.
func redirectTo(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	code := http.StatusFound
	if v := q.Get("status_code"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 300 || n > 399 {
			http.Error(w, "status_code is not from 300 to 399", http.StatusBadRequest)
			return
		}
		code = n
	}
	to := q.Get("url")
	if u, err := url.Parse(to); to == "" || err != nil || (u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https") {
		http.Error(w, "url is not where one can be sent", http.StatusBadRequest)
		return
	}
	w.Header().Set("Location", to)
	w.WriteHeader(code)
}

// responseHeaders sets the arguments as headers, and shows them.
func (s *Server) responseHeaders(w http.ResponseWriter, r *http.Request) {
	args := r.URL.Query()
	for k, vs := range args {
		for _, v := range vs {
			w.Header().Add(k, v) // the server drops names and bytes that are no header's
		}
	}
	m := s.values(args)
	// What is asked for about the length or coding of the body would be a lie.
	for _, name := range []string{"Content-Length", "Content-Encoding", "Transfer-Encoding"} {
		w.Header().Del(name)
	}
	ct := w.Header().Get("Content-Type")
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if ct == "" {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(append(b, '\n'))
}

// cache answers 304 to any condition.
func (s *Server) cache(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("If-Modified-Since") != "" || r.Header.Get("If-None-Match") != "" {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Set("ETag", `"sample"`)
	s.showGet(w, r)
}

func (s *Server) cacheControl(w http.ResponseWriter, r *http.Request) {
	n, ok := count(w, r.PathValue("n"), 1<<31-1)
	if !ok {
		return
	}
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", n))
	s.showGet(w, r)
}

// etag answers as a resource with this tag does (RFC 9110 section 13.1).
func (s *Server) etag(w http.ResponseWriter, r *http.Request) {
	tag := `"` + strings.Trim(r.PathValue("tag"), `"`) + `"`
	w.Header().Set("ETag", tag)
	if m := r.Header.Get("If-None-Match"); m != "" && matches(m, tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if m := r.Header.Get("If-Match"); m != "" && !matches(m, tag) {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	s.showGet(w, r)
}

func matches(list, tag string) bool {
	for e := range strings.SplitSeq(list, ",") {
		if e = strings.TrimSpace(e); e == "*" || strings.TrimPrefix(e, "W/") == tag {
			return true
		}
	}
	return false
}

func basicAuth(refused int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user, password, given := r.BasicAuth()
		if given && user == r.PathValue("user") && password == r.PathValue("password") {
			show(w, map[string]any{"authorized": true, "authenticated": true, "user": user})
			return
		}
		if refused == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Basic realm="sample"`)
		}
		showStatus(w, refused, map[string]any{"authorized": false, "authenticated": false, "user": user})
	}
}

func bearer(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	show(w, map[string]any{"authenticated": true, "token": token})
}

func (s *Server) gzip(w http.ResponseWriter, r *http.Request) {
	m := s.request(r)
	m["gzipped"] = true
	compressed(w, "gzip", gzip.NewWriter(w), m)
}

func (s *Server) deflate(w http.ResponseWriter, r *http.Request) {
	m := s.request(r)
	m["deflated"] = true
	compressed(w, "deflate", zlib.NewWriter(w), m)
}

func compressed(w http.ResponseWriter, coding string, to io.WriteCloser, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Encoding", coding)
	if json.NewEncoder(to).Encode(v) == nil {
		to.Close()
	}
}
