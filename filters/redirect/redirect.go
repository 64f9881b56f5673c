// Package redirect is the filter behind Gateway API's RequestRedirect: it
// answers with a Location and never asks a backend.
package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Spec is the filter.
var Spec = filters.Spec{Name: "redirect", Build: build}

func build(c filters.BuildContext) (filters.Step, error) {
	r := c.Filters.Redirect
	if r == nil {
		return filters.Step{}, nil
	}
	if c.Level == filters.LevelBackend {
		return filters.Step{}, errors.New("a backend cannot redirect: move the filter to the rule")
	}
	s := &step{scheme: strings.ToLower(r.Scheme), host: r.Hostname, port: r.Port, path: r.Path, status: r.Status}
	switch s.status {
	case 0:
		s.status = 302
	case 301, 302, 303, 307, 308:
	default:
		return filters.Step{}, fmt.Errorf("status %d is not one of 301, 302, 303, 307 and 308", s.status)
	}
	if s.scheme != "" && wellKnown(s.scheme) == 0 {
		return filters.Step{}, fmt.Errorf("scheme %q is neither http nor https", r.Scheme)
	}
	if err := filters.CheckHostname(s.host); err != nil {
		return filters.Step{}, err
	}
	if err := filters.CheckPath(s.path); err != nil {
		return filters.Step{}, err
	}
	return filters.Step{OnRequest: s}, nil
}

type step struct {
	scheme string // "" keeps
	host   string // "" keeps
	port   uint16 // 0 follows the scheme, or the listener
	path   *mesh.PathEdit
	status int
}

// Request answers. The client's method and body do not matter to it.
func (s *step) Request(x *filters.Exchange) filters.Result {
	path := s.location(x)
	r := x.Answer(s.status, "", "direct_response", "")
	x.Reply.Fields.Add("location", path)
	return r
}

// location builds the URL that the client is sent to.
func (s *step) location(x *filters.Exchange) string {
	r := x.Req
	path := x.EditedPath(s.path)
	scheme := s.scheme
	if scheme == "" {
		if scheme = r.Scheme; wellKnown(scheme) == 0 {
			scheme = "http" // the client's word is not taken for anything else
		}
	}
	b := x.Append()
	if host := s.target(r); host != "" || r.Destination.IsValid() {
		b = append(b, scheme...)
		b = append(b, "://"...)
		b = appendHost(b, host, r.Destination.Addr())
		if port := s.targetPort(r); port != 0 && port != wellKnown(scheme) {
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(port), 10)
		}
	} else if strings.HasPrefix(path, "//") {
		b = append(b, "/."...) // a reference that begins with // would name a host
	}
	b = append(b, path...)
	if r.HasQuery {
		b = append(b, '?')
		b = append(b, r.Query...)
	}
	return x.Text(b)
}

// target is the host to go to: the rule's, else the one that the client asked for.
func (s *step) target(r *mesh.Request) string {
	if s.host != "" {
		return s.host
	}
	return r.Host
}

// appendHost writes host, or the address that the client dialled when it named none.
func appendHost(b []byte, host string, dialled netip.Addr) []byte {
	switch {
	case host == "" && dialled.Is6():
		return append(dialled.AppendTo(append(b, '[')), ']')
	case host == "":
		return dialled.AppendTo(b)
	case host[0] != '[' && strings.IndexByte(host, ':') >= 0:
		return append(append(append(b, '['), host...), ']')
	}
	return append(b, host...)
}

// targetPort follows Gateway API: the rule's port, else the well-known one of the
// rule's scheme, else the listener's, which for a mesh is the service's.
func (s *step) targetPort(r *mesh.Request) uint16 {
	switch {
	case s.port != 0:
		return s.port
	case s.scheme != "":
		return wellKnown(s.scheme)
	}
	return r.Destination.Port()
}

func wellKnown(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}
