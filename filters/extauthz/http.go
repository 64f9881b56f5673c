package extauthz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/remote"
	"cairnproxy.dev/cairn/mesh"
)

// headersToRemove is Envoy's way for a service asked by HTTP to take fields out of the request.
const headersToRemove = "x-envoy-auth-headers-to-remove"

// httpRequest makes the question about a request: the same method, host, path and Authorization, what is
// listed, and the body if there is to be one. It keeps nothing of the request's memory.
func (p *provider) httpRequest(ctx context.Context, x *filters.Exchange, body []byte, whole bool) (*http.Request, error) {
	r := x.Req
	q := &http.Request{
		Method: strings.Clone(r.Method), URL: p.url(r), Host: strings.Clone(r.Authority), Header: http.Header{
			"User-Agent": {""},
			// Not sent: it lets the transport ask again where a connection that was idle turns out to be closed.
			"X-Idempotency-Key": nil,
		},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if q.Method == http.MethodConnect {
		q.Method = http.MethodGet // the service is asked for no tunnel
	}
	var bad string
	put := func(name, value string) {
		if !isName(name) || !isValue(value) {
			bad = name
		}
		key := strings.Clone(http.CanonicalHeaderKey(name)) // which may be name itself
		if key == "User-Agent" && q.Header.Get(key) == "" {
			q.Header.Del(key)
		}
		q.Header[key] = append(q.Header[key], strings.Clone(value))
	}
	for _, f := range r.Fields {
		if (f.Name == "authorization" || p.request.has(f.Name)) && !ours(f.Name) && f.Name != partialBody {
			put(f.Name, f.Value)
		}
	}
	if len(body) > 0 {
		put(partialBody, yesNo(!whole))
		q.ContentLength = int64(len(body))
		body = append([]byte(nil), body...)
		q.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		q.Body, _ = q.GetBody()
	}
	for _, f := range p.AddHeaders {
		q.Header.Del(f.Name)
	}
	for _, f := range p.AddHeaders {
		put(f.Name, f.Value)
	}
	switch {
	case bad != "":
		return nil, fmt.Errorf("the request's field %q cannot be sent", bad)
	case !isHost(q.Host) || !isValue(r.Path) || !isValue(r.Query):
		return nil, errors.New("the request's host or path cannot be sent")
	}
	return q.WithContext(ctx), nil
}

// isHost reports whether net/http sends s as it is.
func isHost(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!$%&'()*+,-.:;=[]_~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// url is the request's target behind the prefix, byte by byte. Where that cannot be, since it
// would look like a host, it is what means the same.
func (p *provider) url(r *mesh.Request) *url.URL {
	path := r.Path
	if !strings.HasPrefix(path, "/") { // the "*" of OPTIONS
		path = "/"
	}
	path = strings.TrimSuffix(p.PathPrefix, "/") + path
	u := &url.URL{Scheme: "http", Host: "service", RawQuery: strings.Clone(r.Query), ForceQuery: r.HasQuery && r.Query == ""}
	if !strings.HasPrefix(path, "//") {
		u.Opaque = strings.Clone(path)
		return u
	}
	u.RawPath = strings.Clone(path)
	var err error
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		u.Path = u.RawPath
	}
	return u
}

// askHTTP asks, and reads the answer: 200 lets pass, 5xx is none, all else refuses.
func (p *provider) askHTTP(q *http.Request) (answer, error) {
	resp, err := p.service.RoundTrip(q)
	if err != nil {
		return answer{}, fmt.Errorf("asking %s: %w", p.Service, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, remote.MaxAnswer+1))
	if err != nil {
		return answer{}, fmt.Errorf("asking %s: %w", p.Service, err)
	}
	return p.readResponse(resp.StatusCode, resp.Header, body)
}

func (p *provider) readResponse(status int, h http.Header, body []byte) (a answer, err error) {
	var e edits
	switch {
	case len(body) > remote.MaxAnswer:
		return a, fmt.Errorf("asking %s: the answer is longer than %d bytes", p.Service, remote.MaxAnswer)
	case status >= 500:
		return a, nil
	case status != http.StatusOK:
		a.verdict, a.status, a.body = denied, status, string(body)
		if status < 200 || status > 599 {
			a.status = http.StatusForbidden
		}
		return a, a.fields(&e, &a.reply, h, func(name string) bool {
			return !p.deny.anything || p.deny.has(name) || name == "www-authenticate" || name == "location"
		})
	}
	a.verdict = allowed
	for _, list := range h.Values(headersToRemove) {
		for name := range strings.SplitSeq(list, ",") {
			a.removes(strings.TrimSpace(name))
		}
	}
	if len(a.remove) > maxFields {
		return a, errInvalid
	}
	if err := a.fields(&e, &a.request, h, p.allow.passes); err != nil {
		return a, err
	}
	return a, a.fields(&e, &a.response, h, p.down.passes)
}

// passes reports whether a field of an answer that allows goes on: by its name, or by "*" unless
// it describes the answer's own body.
func (n *names) passes(name string) bool {
	switch name {
	case "content-type", "content-encoding", "content-language", "date", "server", headersToRemove:
		return n.whole[name]
	}
	return n.has(name)
}

// fields collects the fields of an answer that are wanted. The first of a name is in place of those
// that are there.
func (*answer) fields(e *edits, to *[]filters.FieldEdit, h http.Header, wanted func(string) bool) error {
	for key, values := range h {
		name := strings.ToLower(key)
		if !wanted(name) {
			continue
		}
		for i, v := range values {
			how := filters.Append
			if i == 0 {
				how = filters.Overwrite
			}
			if err := e.add(to, name, v, how); err != nil {
				return err
			}
		}
	}
	return nil
}

// removes notes a field that is to be taken out of the request.
func (a *answer) removes(name string) {
	if name = strings.ToLower(name); name != "" && !ours(name) {
		a.remove = append(a.remove, name)
	}
}
