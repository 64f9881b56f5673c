// Package cors is the filter behind Gateway API's CORS (GEP-1767): it answers
// preflight requests, and says on responses whether a page of another origin may read
// them.
//
// A preflight is an OPTIONS request with Origin and Access-Control-Request-Method;
// none goes to a backend. One from an origin that is not allowed is answered 204
// without the fields that would allow anything, and fails in the browser. Any
// other request passes, whatever its origin: CORS protects users of browsers, not
// the service. Its response is marked, also if it is the proxy's own, so that a
// page can read the status of an error.
package cors

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Spec is the filter.
var Spec = filters.Spec{Name: "cors", Build: build}

// defaultMaxAge is for how long browsers may remember a preflight, by the specification.
const defaultMaxAge = 5 * time.Second

func build(c filters.BuildContext) (filters.Step, error) {
	r := c.Filters.CORS
	if r == nil {
		return filters.Step{}, nil
	}
	if c.Level == filters.LevelBackend {
		return filters.Step{}, errors.New("CORS is of a rule, not of a backend: move the filter to the rule")
	}
	s := &step{
		credentials: r.Credentials,
		methods:     listOf(r.Methods, r.Credentials), headers: listOf(r.Headers, r.Credentials),
		maxAge: strconv.FormatInt(int64(defaultMaxAge/time.Second), 10),
	}
	// With credentials a "*" would be the name of a field, and expose nothing.
	if expose := listOf(r.Expose, r.Credentials); !expose.echo {
		s.expose = expose.value
	}
	if r.MaxAge > 0 {
		s.maxAge = strconv.FormatInt(int64(r.MaxAge/time.Second), 10)
	}
	for _, text := range r.Origins {
		o, err := parseOrigin(text)
		if err != nil {
			return filters.Step{}, err
		}
		s.any = s.any || text == "*"
		s.origins = append(s.origins, o)
	}
	return filters.Step{OnRequest: s, OnResponse: s, OnLocal: s}, nil
}

type step struct {
	any              bool // every origin
	origins          []origin
	credentials      bool
	methods, headers list
	expose, maxAge   string
}

// list is a field that a preflight is answered with.
type list struct {
	value string // "" for none
	echo  bool   // what was asked for, instead of "*"
}

func listOf(values []string, credentials bool) list {
	if slices.Contains(values, "*") {
		return list{value: "*", echo: credentials}
	}
	return list{value: strings.Join(values, ", ")}
}

// Request answers a preflight, and remembers the origin of another request.
func (s *step) Request(x *filters.Exchange) filters.Result {
	from, ok := x.Req.Fields.Get("origin")
	if !ok {
		return filters.Continue
	}
	method, preflight := x.Req.Fields.Get("access-control-request-method")
	if x.Req.Method != http.MethodOptions || !preflight {
		if s.allows(from) {
			x.Origin = from
		}
		return filters.Continue
	}
	r := x.Answer(204, "", "cors_preflight", "")
	f := &x.Reply.Fields
	f.Add("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
	if !s.allows(from) {
		return r
	}
	s.allow(f, from)
	s.methods.add(f, "access-control-allow-methods", method)
	asked, _ := x.Req.Fields.Get("access-control-request-headers")
	s.headers.add(f, "access-control-allow-headers", asked)
	f.Add("access-control-max-age", s.maxAge)
	return r
}

// add appends the field; asked is what the client would like to hear.
func (l list) add(f *mesh.Fields, name, asked string) {
	value := l.value
	if l.echo {
		value = asked
	}
	if value != "" {
		f.Add(name, value)
	}
}

// allow says that pages of an origin may read what is answered.
func (s *step) allow(f *mesh.Fields, from string) {
	if s.any && !s.credentials {
		f.Set("access-control-allow-origin", "*")
		return
	}
	f.Set("access-control-allow-origin", from)
	if s.credentials {
		f.Set("access-control-allow-credentials", "true")
	}
}

// Response marks a response. What the backend said itself is replaced: the
// route's word counts.
func (s *step) Response(x *filters.Exchange) filters.Result {
	f := &x.Resp.Fields
	if !s.any || s.credentials {
		f.Add("vary", "Origin") // caches must not give it to another origin
	}
	if x.Origin == "" {
		return filters.Continue
	}
	s.allow(f, x.Origin)
	if s.expose != "" {
		f.Set("access-control-expose-headers", s.expose)
	}
	return filters.Continue
}

func (s *step) allows(from string) bool {
	if s.any {
		return true
	}
	for i := range s.origins {
		if s.origins[i].matches(from) {
			return true
		}
	}
	return false
}

// origin is one allowed origin, without the scheme's own port: browsers leave it out.
type origin struct {
	exact        string // scheme://host[:port], in lower case
	head, tail   string // around a "*": what an origin begins and ends with
	wild, hidden bool   // hidden: "*", which is for step.any
}

func parseOrigin(text string) (origin, error) {
	if text == "*" {
		return origin{hidden: true}, nil
	}
	bad := func(why string) (origin, error) {
		return origin{}, fmt.Errorf("CORS origin %q %s; write it like https://www.example.com or https://*.example.com:8443", text, why)
	}
	scheme, rest, ok := strings.Cut(strings.ToLower(text), "://")
	if !ok || scheme != "http" && scheme != "https" {
		return bad("is neither http:// nor https://")
	}
	host, port, hasPort := strings.Cut(rest, ":")
	if hasPort {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("has a port that is none")
		}
	}
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		port = ""
	}
	for i := range len(host) {
		if c := host[i]; c != '*' && c != '-' && c != '.' && c != '_' && !('a' <= c && c <= 'z') && !('0' <= c && c <= '9') {
			return bad("has a host with a character that is not allowed")
		}
	}
	if port != "" {
		port = ":" + port
	}
	before, after, wild := strings.Cut(host, "*")
	switch {
	case host == "":
		return bad("names no host")
	case !wild:
		return origin{exact: scheme + "://" + host + port}, nil
	case before != "" || strings.Contains(after, "*") || after != "" && after[0] != '.':
		return bad("may have one * only, as the leftmost label")
	}
	return origin{wild: true, head: scheme + "://", tail: after + port}, nil
}

// matches compares as browsers write an origin; case does not matter in it.
func (o *origin) matches(from string) bool {
	switch {
	case o.hidden:
		return false
	case !o.wild:
		return strings.EqualFold(from, o.exact)
	case len(from) <= len(o.head)+len(o.tail) || !strings.EqualFold(from[:len(o.head)], o.head) || !strings.EqualFold(from[len(from)-len(o.tail):], o.tail):
		return false
	}
	// The "*" stands for labels: not for a port, nor for anything of a URL.
	for _, c := range []byte(from[len(o.head) : len(from)-len(o.tail)]) {
		if c != '-' && c != '.' && c != '_' && !('a' <= c && c <= 'z') && !('A' <= c && c <= 'Z') && !('0' <= c && c <= '9') {
			return false
		}
	}
	return true
}
