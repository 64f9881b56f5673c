package filters

import (
	"fmt"
	"slices"

	"cairnproxy.dev/cairn/mesh"
)

// RequestStep is a filter's work on a request.
type RequestStep interface {
	Request(*Exchange) Result
}

// ResponseStep is a filter's work on a response's head.
type ResponseStep interface {
	Response(*Exchange) Result
}

// Step is a filter built for one service, rule or backend. Each part may be
// nil, and all are when there is nothing to do.
type Step struct {
	OnRequest  RequestStep
	OnResponse ResponseStep
	// OnLocal is the work on a response that the proxy itself gives.
	OnLocal ResponseStep
}

// Request runs the request's part, if there is one.
func (s Step) Request(x *Exchange) Result {
	if s.OnRequest == nil {
		return Continue
	}
	return s.OnRequest.Request(x)
}

// Response runs the response's part, if there is one.
func (s Step) Response(x *Exchange) Result {
	if s.OnResponse == nil {
		return Continue
	}
	return s.OnResponse.Response(x)
}

// IsZero reports whether there is nothing to do.
func (s Step) IsZero() bool { return s.OnRequest == nil && s.OnResponse == nil && s.OnLocal == nil }

// Level says what a chain is built for. A request meets the three in this order.
type Level uint8

const (
	// LevelService is a service's port: its chain runs before a rule is chosen, so that it also
	// meets requests that no rule matches.
	LevelService Level = iota
	// LevelRule is a rule.
	LevelRule
	// LevelBackend is one backend of a rule.
	LevelBackend
)

// BuildContext is what a filter is built from.
type BuildContext struct {
	Level Level
	// Filters is what the rule or backend asks for; nil asks for nothing.
	Filters *mesh.RouteFilters
	// Requests is the request policy in force: at LevelService that of the service's port, at
	// LevelRule that of the rule over it. nil asks for nothing, and is what LevelBackend has.
	Requests *mesh.RequestPolicy
	// Service and Port tell what is asked for; Service is nil for a workload's own
	// address, and at LevelRule for a route's rule, which several services may share.
	Service *mesh.Service
	Port    uint16
}

// Spec is a filter that can be built.
type Spec struct {
	Name string
	// Build returns the filter's step for a rule. An error says what is wrong
	// with the rule, which is then not served.
	Build func(BuildContext) (Step, error)
}

// Chain is the steps of a service, rule or backend, in order.
type Chain []Step

// Compile builds a chain of specs in their order. Filters that have nothing to
// do are not in it.
func Compile(specs []Spec, c BuildContext) (Chain, error) {
	if c.Filters == nil {
		c.Filters = &mesh.RouteFilters{}
	}
	var chain Chain
	for _, s := range specs {
		step, err := s.Build(c)
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", s.Name, err)
		}
		if !step.IsZero() {
			chain = append(chain, step)
		}
	}
	return chain, nil
}

// Request runs the request steps from position from on: 0 at first, and after
// Park the position that was returned with it. It stops at the first step that
// does not continue.
func (c Chain) Request(x *Exchange, from int) (Result, int) {
	for i := from; i < len(c); i++ {
		if r := c[i].Request(x); r != Continue {
			return r, i + 1
		}
	}
	return Continue, len(c)
}

// Local runs the steps for a response that the proxy itself gives, those of later filters
// first. They change its head and nothing else.
func (c Chain) Local(x *Exchange) {
	for _, s := range slices.Backward(c) {
		if s.OnLocal != nil {
			s.OnLocal.Response(x)
		}
	}
}

// Response runs the response steps, those of later filters first, from position
// from on, which counts as in Request.
func (c Chain) Response(x *Exchange, from int) (Result, int) {
	for i := from; i < len(c); i++ {
		if r := c[len(c)-1-i].Response(x); r != Continue {
			return r, i + 1
		}
	}
	return Continue, len(c)
}
