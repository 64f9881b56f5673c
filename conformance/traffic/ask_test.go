package traffic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// ask is one request and what must be answered.
type ask struct {
	path    string // default "/"
	method  string // default GET
	host    string
	headers []string // name, value, ...
	body    string
	svc     string // default the first service of the case
	port    uint16 // default portHTTP
	ns      string // the client's namespace; default that of the case
	account string // the client's service account; default client
	from    netip.Addr
	h2      bool
	timeout time.Duration // default 10 s

	status int      // default 200; any for any
	pod    string   // the pod that answers; "echo-" for one of a service
	want   []string // response headers: "name: value", "name: *", or "-name"
	seen   []string // request headers as the pod saw them
	at     string   // path as the pod saw it
	as     string   // host as the pod saw it
	proto  string   // protocol that the pod was spoken to in
	text   string   // what the body contains
	within time.Duration
	least  time.Duration
}

const anyStatus = -1

// reply is an answer with its body.
type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    []byte
	took    time.Duration
	seen    seen // what the pod said of the request
}

// asks proves that each request is answered as it says.
func asks(list ...ask) func(*trial) error {
	return func(x *trial) error {
		for _, a := range list {
			if _, err := x.check(a); err != nil {
				return err
			}
		}
		return nil
	}
}

// vip returns the address of a service's port.
func (x *trial) vip(name string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(x.vips[cmp.Or(name, x.c.services()[0].name)], cmp.Or(port, portHTTP))
}

// transport is an HTTP client's connections to one service port.
func (x *trial) transport(a ask) *http.Transport {
	tr := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true, MaxIdleConnsPerHost: 256,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return x.dial(ctx, x.expand(cmp.Or(a.ns, x.ns)), cmp.Or(a.account, "client"), a.from, x.vip(a.svc, a.port))
		},
	}
	if a.h2 {
		tr.Protocols.SetUnencryptedHTTP2(true)
	} else {
		tr.Protocols.SetHTTP1(true)
	}
	return tr
}

// send sends a request over a connection of its own.
func (x *trial) send(a ask) (*reply, error) {
	tr := x.transport(a)
	defer tr.CloseIdleConnections()
	return x.sendOver(tr, a)
}

func (x *trial) sendOver(tr http.RoundTripper, a ask) (*reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(a.timeout, 10*time.Second))
	defer cancel()
	var body io.Reader
	if a.body != "" {
		body = strings.NewReader(a.body)
	}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(a.method, "GET"), "http://echo"+cmp.Or(a.path, "/"), body)
	if err != nil {
		return nil, err
	}
	req.Host = cmp.Or(a.host, "echo")
	for i := 0; i+1 < len(a.headers); i += 2 {
		req.Header.Add(a.headers[i], a.headers[i+1])
	}
	begin := time.Now()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &reply{status: resp.StatusCode, header: resp.Header}
	if r.body, err = io.ReadAll(resp.Body); err != nil {
		return nil, fmt.Errorf("reading the body of a %s: %w", resp.Status, err)
	}
	r.trailer, r.took = resp.Trailer, time.Since(begin)
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		json.Unmarshal(r.body, &r.seen) // what is missing shows in the comparison
	}
	return r, nil
}

// check sends a request and compares the answer.
func (x *trial) check(a ask) (*reply, error) {
	r, err := x.send(a)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a, err)
	}
	return r, x.compare(a, r)
}

func (a ask) String() string {
	s := cmp.Or(a.method, "GET") + " " + cmp.Or(a.path, "/")
	if len(a.headers) > 0 {
		s += fmt.Sprintf(" %q", a.headers)
	}
	return s
}

func (x *trial) compare(a ask, r *reply) error {
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if want := cmp.Or(a.status, 200); want != anyStatus && r.status != want {
		bad("status %d, want %d", r.status, want)
	}
	if pod := r.header.Get("X-Pod"); !strings.HasPrefix(pod, a.pod) {
		bad("answered by %q, want %q", pod, a.pod)
	}
	for _, s := range missing(r.header, a.want) {
		bad("response %s", s)
	}
	for _, s := range missing(r.seen.Headers, a.seen) {
		bad("the pod saw %s", s)
	}
	for _, p := range []struct{ what, got, want string }{
		{"path", r.seen.Path, a.at}, {"host", r.seen.Host, a.as}, {"protocol", r.seen.Proto, a.proto},
	} {
		if p.want != "" && p.got != p.want {
			bad("the pod saw %s %q, want %q", p.what, p.got, p.want)
		}
	}
	if !bytes.Contains(r.body, []byte(a.text)) {
		bad("body %.80q has no %q", r.body, a.text)
	}
	if a.within > 0 && r.took > a.within {
		bad("it took %v, at most %v was expected", r.took.Round(time.Millisecond), a.within)
	}
	if r.took < a.least {
		bad("it took %v, at least %v was expected", r.took.Round(time.Millisecond), a.least)
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("%s: %s", a, strings.Join(wrong, "; "))
}

// missing compares headers with wants: "name: value", "name: *" or "-name". Several
// fields of a name count as one with commas.
func missing(h http.Header, want []string) []string {
	var wrong []string
	for _, w := range want {
		if name, ok := strings.CutPrefix(w, "-"); ok {
			if v := h.Values(name); v != nil {
				wrong = append(wrong, fmt.Sprintf("%s: %q, want none", name, v))
			}
			continue
		}
		name, value, _ := strings.Cut(w, ": ")
		got := h.Values(name)
		joined := strings.Join(got, ",")
		if value == "*" && got != nil || normal(joined) == normal(value) {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s: %q, want %q", name, joined, value))
	}
	return wrong
}

func normal(s string) string { return strings.ReplaceAll(s, ", ", ",") }

// eventually repeats check until it is right or the time is over.
func eventually(d time.Duration, check func() error) error {
	end := time.Now().Add(d)
	for {
		err := check()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// spread sends n requests and returns how often each pod answered. Answers
// without a pod count by their status.
func (x *trial) spread(n int, a ask) (map[string]int, error) {
	tr := x.transport(a)
	defer tr.CloseIdleConnections()
	out := map[string]int{}
	for range n {
		r, err := x.sendOver(tr, a)
		if err != nil {
			return nil, err
		}
		out[cmp.Or(r.header.Get("X-Pod"), fmt.Sprint(r.status))]++
	}
	return out, nil
}

// wrongf is a mismatch.
func wrongf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// all runs f n times at once and returns the errors together.
func all(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var out []error
	for range n {
		if err := <-errs; err != nil {
			out = append(out, err)
		}
	}
	return errors.Join(out[:min(len(out), 3)]...)
}

// steps proves one after the other.
func steps(list ...func(*trial) error) func(*trial) error {
	return func(x *trial) error {
		for i, f := range list {
			if err := f(x); err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
		}
		return nil
	}
}
