package bookinfo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cairnproxy.dev/cairn/sample/pod"
)

// backend is a service that this one calls.
type backend struct {
	name    string
	base    string // "http://details:9080"
	client  *http.Client
	timeout time.Duration
}

// newClient returns the client for a service's calls. It opens a connection per
// call, as the programs that it stands in for do: where nothing but the node
// proxy balances, and so once per connection, each page is a new draw. A
// redirect is an answer like any other.
func newClient(p *pod.Pod) *http.Client {
	tr := p.Transport()
	tr.DisableKeepAlives = true
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newBackend returns the service name as the environment says where it is.
func newBackend(name string, getenv func(string) string, client *http.Client, timeout time.Duration) (*backend, error) {
	env := strings.ToUpper(name)
	host, port := name, "9080"
	if h := getenv(env + "_HOSTNAME"); h != "" {
		host = h
	}
	if d := getenv("SERVICES_DOMAIN"); d != "" {
		host += "." + d
	}
	if p := getenv(env + "_SERVICE_PORT"); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%s_SERVICE_PORT is %q, which is not a port", env, p)
		}
		port = p
	}
	return &backend{name: name, base: "http://" + net.JoinHostPort(host, port), client: client, timeout: timeout}, nil
}

// answer is what came of one call.
type answer struct {
	Service string
	// Status is the backend's, or 504 or 502 where none came.
	Status int
	// Reason says what went wrong, for people; empty if nothing did. It may
	// quote the backend.
	Reason string
	Took   time.Duration
	Hops   []hop
	body   []byte
}

// OK reports whether the backend answered 200 and what it said could be read.
func (a *answer) OK() bool { return a.Reason == "" }

// get calls the backend for r's sake and decodes the JSON it answers into v.
func (b *backend) get(ctx context.Context, r http.Header, path string, v any) *answer {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	a := &answer{Service: b.name}
	start := time.Now()
	err := b.fetch(ctx, r, path, a)
	a.Took = time.Since(start)
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		a.Status, a.Reason = http.StatusGatewayTimeout, fmt.Sprintf("no answer within %s", b.timeout)
	case err != nil:
		if where, ok := errors.AsType[*url.Error](err); ok {
			err = where.Err // the URL, the page says itself
		}
		a.Status, a.Reason = http.StatusBadGateway, err.Error()
	case a.Status != http.StatusOK:
		a.Reason = strings.TrimSpace(http.StatusText(a.Status) + " " + excerpt(a.body))
	default:
		if err := json.Unmarshal(a.body, v); err != nil {
			a.Status, a.Reason = http.StatusBadGateway, "the answer is not the JSON it should be: "+err.Error()
		}
	}
	return a
}

// fetch fills in a's status, body and hops.
func (b *backend) fetch(ctx context.Context, h http.Header, path string, a *answer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+path, nil)
	if err != nil {
		return fmt.Errorf("calling %s: %w", b.name, err)
	}
	propagate(req.Header, h)
	resp, err := b.client.Do(req)
	if err != nil {
		return err // a *url.Error, which says which URL
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	a.Hops = parseHops(resp.Header.Values("X-Served-By"))
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return fmt.Errorf("reading what %s answered: %w", b.name, err)
	}
	if len(a.body) > maxBody {
		return fmt.Errorf("%s answered more than %d bytes", b.name, maxBody)
	}
	return nil
}

// excerpt returns the beginning of an error's body, in parentheses, if it is a
// line of text, such as a proxy's "RBAC: access denied".
func excerpt(body []byte) string {
	s, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if s == "" || s[0] == '<' || !utf8.ValidString(s) {
		return ""
	}
	if r := []rune(s); len(r) > 120 {
		s = string(r[:120]) + "…"
	}
	return "(" + s + ")"
}
