package filters

import (
	"fmt"

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

// Step is a filter built for one rule; either part may be nil, and both are
// when there is nothing to do.
type Step struct {
	Request  RequestStep
	Response ResponseStep
}

// Level says what a chain is built for.
type Level uint8

const (
	// LevelRule is a rule, or no rule at all for requests that none matches.
	LevelRule Level = iota
	// LevelBackend is one backend of a rule; its chain runs after the rule's.
	LevelBackend
)

// BuildContext is what a filter is built from.
type BuildContext struct {
	Level Level
	// Filters is what the rule or backend asks for; nil asks for nothing.
	Filters *mesh.RouteFilters
}

// Spec is a filter that can be built.
type Spec struct {
	Name string
	// Build returns the filter's step for a rule. An error says what is wrong
	// with the rule, which is then not served.
	Build func(BuildContext) (Step, error)
}

// Chain is the steps of one rule or backend. A nil Chain has none.
type Chain struct {
	request  []RequestStep
	response []ResponseStep
}

// Compile builds a chain of specs in their order.
func Compile(specs []Spec, c BuildContext) (*Chain, error) {
	if c.Filters == nil {
		c.Filters = &mesh.RouteFilters{}
	}
	chain := &Chain{}
	for _, s := range specs {
		step, err := s.Build(c)
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", s.Name, err)
		}
		if step.Request != nil {
			chain.request = append(chain.request, step.Request)
		}
		if step.Response != nil {
			chain.response = append(chain.response, step.Response)
		}
	}
	return chain, nil
}

// Len returns how many request and response steps there are.
func (c *Chain) Len() (request, response int) {
	if c == nil {
		return 0, 0
	}
	return len(c.request), len(c.response)
}

// Request runs the request steps from position from on: 0 at first, and after
// Park the position that was returned with it. It stops at the first step that
// does not continue.
func (c *Chain) Request(x *Exchange, from int) (Result, int) {
	if c == nil {
		return Continue, 0
	}
	for i := from; i < len(c.request); i++ {
		if r := c.request[i].Request(x); r != Continue {
			return r, i + 1
		}
	}
	return Continue, len(c.request)
}

// Response runs the response steps, those of later filters first, from position
// from on, which counts as in Request.
func (c *Chain) Response(x *Exchange, from int) (Result, int) {
	if c == nil {
		return Continue, 0
	}
	for i := from; i < len(c.response); i++ {
		if r := c.response[len(c.response)-1-i].Response(x); r != Continue {
			return r, i + 1
		}
	}
	return Continue, len(c.response)
}
