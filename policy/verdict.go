package policy

import "cairnproxy.dev/cairn/mesh"

// Verdict is a decision and its cause.
type Verdict struct {
	Allowed bool
	// Kind is that of Policy: KindAuthorization, KindAccess or KindPeer.
	Kind string
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
	// Denied is true when they would have refused, by Policy's rule Rule. Rule is -1 where none of
	// the policies that allow something matches; Policy is the first of these then.
	Denied bool
	Policy mesh.Name
	Rule   int
}

// Kinds of policies.
const (
	KindAuthorization = "AuthorizationPolicy"
	KindAccess        = "AccessPolicy"
	KindPeer          = "PeerAuthentication"
)

const (
	reasonNoPolicy     = "no policy applies"
	reasonNotDenied    = "no policy refuses it and no policy has to allow it"
	reasonAllowed      = "allowed by policy"
	reasonDenied       = "explicitly denied by policy"
	reasonRequired     = "what a policy requires does not hold"
	reasonNoneAllows   = "allow policies exist, but none allowed"
	reasonInvalid      = "the policy is invalid and refuses everything that it is bound to"
	reasonUnknown      = "a policy that is bound to the workload is not known"
	reasonStrict       = "plain text, but PeerAuthentication demands mutual TLS"
	reasonNoProvider   = "the provider of a CUSTOM policy cannot be asked"
	reasonCustomL4     = "a CUSTOM policy matches, and nobody can be asked about a connection"
	reasonNotCompiled  = "no policies were compiled"
	detailsNone        = "rbac_access_denied_matched_policy[none]"
	detailsNotCompiled = "rbac_access_denied_matched_policy[not-compiled]"
)

// notCompiled is the verdict of a nil set.
var notCompiled = Verdict{Rule: -1, Reason: reasonNotCompiled, Details: detailsNotCompiled, DryRun: DryRun{Rule: -1}}

// written is a policy as its author knows it.
type written struct {
	kind   string
	name   mesh.Name
	action string // as the manifest has it, "" where each rule has its own
	reason string // what a verdict says when it decides
	mode   mesh.AccessMode
	// watch is its place in the list of policies in dry run and audit; -1 for one that is enforced.
	watch int
}

// set is a compiled set of policies.
type set struct {
	trusted  uint8 // proxies whose X-Forwarded-For is believed
	enforced unit
	dry      []unit // each is judged by itself
	audit    group
	custom   []custom

	policies []*written
	watched  []Watched
	// never are rules that cannot match; they are kept to be told of.
	never []rule
	// cel says that some rule is an expression.
	cel bool
}

// unit is policies that decide together: a rule of deny that matches refuses; otherwise, where there
// are policies that allow something, one of their rules must match.
type unit struct {
	deny, allow group
	// allows is the first policy that allows something, which it may do with no rule at all.
	allows *written
	denies bool // there is a policy that may refuse, if with no rule
}

// custom is the rules that choose what one provider is asked about.
type custom struct {
	provider *mesh.ExtAuthz
	rules    group
}

func (u *unit) empty() bool { return !u.denies && u.allows == nil }

func (s *set) empty() bool {
	return s.enforced.empty() && len(s.dry) == 0 && len(s.audit.rules) == 0 && len(s.custom) == 0
}

// done builds the indexes, once all policies are in.
func (s *set) done() {
	s.enforced.done()
	for i := range s.dry {
		s.dry[i].done()
	}
	s.audit.done()
	for i := range s.custom {
		s.custom[i].rules.done()
	}
}

func (u *unit) done() {
	u.deny.done()
	u.allow.done()
}

// decide says whether u lets pass what f is about, and by which rule; nil for none.
func (u *unit) decide(f *facts) (allowed bool, by *rule) {
	if r := u.deny.match(f); r != nil {
		return false, r
	}
	if u.allows == nil {
		return true, nil
	}
	by = u.allow.match(f)
	return by != nil, by
}

// decide decides, into v, which is empty. told, where it is not nil, hears of every policy in dry run and audit.
func (s *set) decide(f *facts, told func(watched int, o Outcome), v *Verdict) {
	v.Rule, v.DryRun.Rule = -1, -1
	var by *rule
	v.Allowed, by = s.enforced.decide(f)
	switch {
	case by != nil && v.Allowed:
		v.Kind, v.Policy, v.Rule, v.Reason = by.of.kind, by.of.name, by.index, by.of.reason
	case by != nil:
		v.Kind, v.Policy, v.Rule, v.Reason, v.Details = by.of.kind, by.of.name, by.index, by.reason, by.details
	case !v.Allowed:
		v.Reason, v.Details = reasonNoneAllows, detailsNone
	case s.enforced.denies:
		v.Reason = reasonNotDenied
	default:
		v.Reason = reasonNoPolicy
	}
	if len(s.watched) > 0 {
		s.watch(f, v, told)
	}
}
