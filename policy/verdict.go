package policy

import "cairnproxy.dev/cairn/mesh"

// Verdict is a decision and its cause.
type Verdict struct {
	Allowed bool
	// Policy decided, by its rule Rule (index in the policy). Policy is zero and
	// Rule -1 when it was the absence of a match that decided.
	Policy mesh.Name
	Rule   int
	// Reason says why in a few words, for logs. It is static text.
	Reason string
	// Details is the cause in the words of Envoy's response_code_details, set
	// when the request is refused. It is built once, at compile time.
	Details string
	// DryRun is what the policies in dry run would have done.
	DryRun DryRun
}

// DryRun is the decision of the policies in dry run by themselves.
type DryRun struct {
	// Denied is true when they would have refused, by Policy's rule Rule, or,
	// with Policy zero and Rule -1, because no ALLOW policy matches.
	Denied bool
	Policy mesh.Name
	Rule   int
}

const (
	reasonNoPolicy     = "no policy applies"
	reasonNotDenied    = "no DENY policy matches and there is no ALLOW policy"
	reasonAllowed      = "allowed by policy"
	reasonDenied       = "explicitly denied by policy"
	reasonNoneAllows   = "allow policies exist, but none allowed"
	reasonInvalid      = "the policy is invalid and refuses everything that it is bound to"
	reasonUnknown      = "a policy that is bound to the workload is not known"
	reasonStrict       = "plain text, but PeerAuthentication demands mutual TLS"
	reasonNotCompiled  = "no policies were compiled"
	detailsNone        = "rbac_access_denied_matched_policy[none]"
	detailsNotCompiled = "rbac_access_denied_matched_policy[not-compiled]"
)

// set is a compiled set of policies, in the order in which they are asked.
type set struct {
	denyDry, deny, allowDry, allow []compiled
}

// compiled is one policy.
type compiled struct {
	name   mesh.Name
	reason string
	rules  []rule
	// index finds candidates among many rules; nil for few.
	index *index
}

// rule matches when every clause does.
type rule struct {
	index   int // in the policy as written
	details string
	clauses []clause
}

// clause matches when one of its alternatives does. A clause without alternatives never matches.
type clause []alternative

// alternative matches when all of its checks hold.
type alternative []check

func (s *set) empty() bool {
	return len(s.denyDry)+len(s.deny)+len(s.allowDry)+len(s.allow) == 0
}

func (s *set) add(c compiled, action mesh.Action, dryRun bool) {
	c.index = newIndex(c.rules)
	switch {
	case action == mesh.ActionDeny && dryRun:
		s.denyDry = append(s.denyDry, c)
	case action == mesh.ActionDeny:
		s.deny = append(s.deny, c)
	case dryRun:
		s.allowDry = append(s.allowDry, c)
	default:
		s.allow = append(s.allow, c)
	}
}

func (s *set) decide(f *facts) Verdict {
	v := Verdict{Allowed: true, Rule: -1, Reason: reasonNoPolicy, DryRun: DryRun{Rule: -1}}
	if len(s.denyDry)+len(s.allowDry) > 0 {
		v.DryRun = s.dryRun(f)
	}
	if p, r := match(s.deny, f); p != nil {
		v.Allowed, v.Policy, v.Rule, v.Reason, v.Details = false, p.name, r.index, p.reason, r.details
		return v
	}
	if len(s.allow) == 0 {
		if len(s.deny) > 0 {
			v.Reason = reasonNotDenied
		}
		return v
	}
	if p, r := match(s.allow, f); p != nil {
		v.Policy, v.Rule, v.Reason = p.name, r.index, p.reason
		return v
	}
	v.Allowed, v.Reason, v.Details = false, reasonNoneAllows, detailsNone
	return v
}

func (s *set) dryRun(f *facts) DryRun {
	if p, r := match(s.denyDry, f); p != nil {
		return DryRun{Denied: true, Policy: p.name, Rule: r.index}
	}
	if len(s.allowDry) == 0 {
		return DryRun{Rule: -1}
	}
	if p, r := match(s.allowDry, f); p != nil {
		return DryRun{Policy: p.name, Rule: r.index}
	}
	return DryRun{Denied: true, Rule: -1}
}

// match returns the first policy that has a matching rule, and that rule.
func match(list []compiled, f *facts) (*compiled, *rule) {
	for i := range list {
		if r := list[i].match(f); r != nil {
			return &list[i], r
		}
	}
	return nil, nil
}

// match returns the first rule that matches, or nil.
func (c *compiled) match(f *facts) *rule {
	if c.index != nil && c.index.serves(f) {
		return c.index.match(c.rules, f)
	}
	for j := range c.rules {
		if c.rules[j].match(f) {
			return &c.rules[j]
		}
	}
	return nil
}

func (r *rule) match(f *facts) bool {
	for _, c := range r.clauses {
		if !c.match(f) {
			return false
		}
	}
	return true
}

func (c clause) match(f *facts) bool {
	for _, a := range c {
		if a.match(f) {
			return true
		}
	}
	return false
}

func (a alternative) match(f *facts) bool {
	for i := range a {
		if !a[i].holds(f) {
			return false
		}
	}
	return true
}
