// Package authz is the filter that enforces AuthorizationPolicies.
package authz

import (
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/policy"
)

// Policies is a compiled set of policies; see policy.CompileL7.
type Policies = policy.L7

// body is all that a refused client is told: which policy it was stands in the
// access log.
const body = "RBAC: access denied"

// Spec is the filter that enforces p. It works at the level of the service, before
// a rule is chosen: requests that match no rule are judged too, and nobody
// learns of routes without being allowed to ask. Without policies it has no step; a nil p,
// which was never compiled, refuses everything.
func Spec(p *Policies) filters.Spec {
	return filters.Spec{Name: "authz", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level != filters.LevelService || p.Empty() {
			return filters.Step{}, nil
		}
		return filters.Step{OnRequest: step{p}}, nil
	}}
}

type step struct{ policies *Policies }

// Request lets the request pass or answers 403. As in Envoy a refusal has
// details, "rbac_access_denied_matched_policy[…]", and no flag.
func (s step) Request(x *filters.Exchange) filters.Result {
	v := s.policies.Decide(x.Req)
	if v.DryRun.Denied {
		x.Notes().WouldDeny = v.DryRun.Policy
	}
	if v.Allowed {
		return filters.Continue
	}
	return x.Answer(403, "", v.Details, body)
}
