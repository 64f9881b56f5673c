// Package authz is the filter that enforces authorization policies:
// AuthorizationPolicies and AccessPolicies, whose meaning is package policy's.
//
//	request ──► those that are enforced ──► 403, or on
//	                └─► those in dry run, those that audit ──► counters, access log
package authz

import (
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

// Policies is a compiled set of policies; see policy.Compile.
type Policies = policy.L7

// Watched is a policy in dry run, or one that audits.
type Watched = policy.Watched

// body is all that a refused client is told: which policy it was stands in the
// access log.
const body = "RBAC: access denied"

// Spec is the filter that enforces p. It works at the level of the service, before
// a rule is chosen: requests that match no rule are judged too, and nobody
// learns of routes without being allowed to ask. It works at the level of the rule, too, for the
// policies that are attached to routes. Without policies it has no step; a nil p,
// which was never compiled, refuses everything. r counts what policies say that decide nothing, and may
// be nil.
func Spec(p *Policies, r *Registry) filters.Spec {
	return filters.Spec{Name: "authz", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level == filters.LevelBackend || p.Empty() {
			return filters.Step{}, nil
		}
		if list := p.Watched(); len(list) > 0 {
			return filters.Step{OnRequest: &watchingStep{p, list, r.counters(list)}}, nil
		}
		return filters.Step{OnRequest: step{p}}, nil
	}}
}

type step struct{ policies *Policies }

// Request lets the request pass or answers 403. As in Envoy a refusal has
// details, "rbac_access_denied_matched_policy[…]", and no flag.
func (s step) Request(x *filters.Exchange) filters.Result {
	v := s.policies.DecideAnd(policy.Input{Req: x.Req, Service: x.Service, Now: x.Now}, nil)
	if v.Allowed {
		return filters.Continue
	}
	return x.Answer(403, "", v.Details, body)
}

// watchingStep is step where some policies decide nothing.
type watchingStep struct {
	policies *Policies
	watched  []Watched
	counters []*counters // of each of watched
}

// Request is step.Request, and counts and notes what the others say.
func (s *watchingStep) Request(x *filters.Exchange) filters.Result {
	v := s.policies.DecideAnd(policy.Input{Req: x.Req, Service: x.Service, Now: x.Now}, func(i int, o policy.Outcome) {
		s.counters[i].count(o)
		switch n := s.watched[i].Name; o {
		case policy.Audited:
			note(&x.Notes().Audited, n)
		case policy.WouldDeny:
			note(&x.Notes().WouldDeny, n)
		case policy.WouldAllow:
			note(&x.Notes().WouldAllow, n)
		default:
		}
	})
	if v.Allowed {
		return filters.Continue
	}
	return x.Answer(403, "", v.Details, body)
}

// note keeps the first of several policies that say the same.
func note(at *mesh.Name, n mesh.Name) {
	if *at == (mesh.Name{}) {
		*at = n
	}
}
