// Package rewrite is the filter behind Gateway API's URLRewrite: it changes the
// host and the path of a request on its way to the backend. The query stays.
package rewrite

import (
	"errors"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Spec is the filter.
var Spec = filters.Spec{Name: "rewrite", Build: build}

func build(c filters.BuildContext) (filters.Step, error) {
	r := c.Filters.Rewrite
	if r == nil || r.Hostname == "" && r.Path == nil {
		return filters.Step{}, nil
	}
	if c.Filters.Redirect != nil {
		return filters.Step{}, errors.New("a URLRewrite cannot stand beside a RequestRedirect")
	}
	if err := filters.CheckHostname(r.Hostname); err != nil {
		return filters.Step{}, err
	}
	if err := filters.CheckPath(r.Path); err != nil {
		return filters.Step{}, err
	}
	return filters.Step{OnRequest: &step{host: r.Hostname, path: r.Path}}, nil
}

type step struct {
	host string // "" keeps
	path *mesh.PathEdit
}

// Request rewrites. MatchedPrefix is 0 afterwards: what it counted is gone.
func (s *step) Request(x *filters.Exchange) filters.Result {
	if s.host != "" {
		x.Req.Authority, x.Req.Host = s.host, s.host
	}
	if s.path != nil {
		x.Req.Path = x.EditedPath(s.path)
		x.MatchedPrefix = 0
	}
	return filters.Continue
}
