package extauthz

import (
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/policy"
)

// Custom is the filter that asks the providers of CUSTOM policies, one after the other, about what these
// match. It works at the level of the service. Without such policies it has no step. A nil r, for
// chains that are compiled only to be looked at, has none either.
func Custom(p *policy.L7, r *Registry) filters.Spec {
	return filters.Spec{Name: "extauthz", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level != filters.LevelService || r == nil {
			return filters.Step{}, nil
		}
		list := p.Providers()
		if len(list) == 0 {
			return filters.Step{}, nil
		}
		s := &customStep{policies: p}
		for _, m := range list {
			s.providers = append(s.providers, r.provider(m))
		}
		return filters.Step{OnRequest: s, OnResponse: responseStep{}, OnLocal: responseStep{}}, nil
	}}
}

// Route is the filter that asks whom a rule, or a backend, names in its filter ExternalAuth.
func Route(r *Registry) filters.Spec {
	return filters.Spec{Name: "externalauth", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level == filters.LevelService || c.Filters.ExternalAuth == nil || r == nil {
			return filters.Step{}, nil
		}
		return filters.Step{OnRequest: routeStep{r.provider(c.Filters.ExternalAuth)}, OnResponse: responseStep{}, OnLocal: responseStep{}}, nil
	}}
}

type customStep struct {
	policies  *policy.L7
	providers []*provider // as Providers has them
}

// Request lets the request pass, answers it, or asks.
func (s *customStep) Request(x *filters.Exchange) filters.Result { return s.from(x, 0) }

// from asks the providers from position i on.
func (s *customStep) from(x *filters.Exchange, i int) filters.Result {
	for ; i < len(s.providers); i++ {
		if !s.policies.Custom(policy.Input{Req: x.Req, Service: x.Service, Now: x.Now}, i) {
			continue
		}
		return s.ask(x, i)
	}
	return filters.Continue
}

// ask asks one provider, and then those that follow. It is a function of its own so that what nobody is asked
// about makes no closure.
func (s *customStep) ask(x *filters.Exchange, i int) filters.Result {
	return s.providers[i].ask(x, func(x *filters.Exchange) filters.Result { return s.from(x, i+1) })
}

type routeStep struct{ *provider }

// Request asks.
func (s routeStep) Request(x *filters.Exchange) filters.Result { return s.ask(x, goOn) }

func goOn(*filters.Exchange) filters.Result { return filters.Continue }

// responseStep edits the response as providers have asked for. Which of several does it makes
// no difference: the edits are done once.
type responseStep struct{}

// Response edits the head of the endpoint's response, or of ours.
func (responseStep) Response(x *filters.Exchange) filters.Result {
	if n := x.Noted(); n != nil {
		for i := range n.ResponseEdits {
			n.ResponseEdits[i].Apply(&x.Resp.Fields)
		}
		n.ResponseEdits = nil
	}
	return filters.Continue
}
