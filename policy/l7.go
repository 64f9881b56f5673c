package policy

import (
	"slices"
	"time"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
)

// L7 is the compiled set of policies attached to one service, to a waypoint, or to a route.
// The zero L7 allows everything; a nil *L7 refuses everything.
type L7 struct {
	set set
	l4  L4
}

// Input is what a decision about a request is made from. Only Req must be there.
type Input struct {
	Req *mesh.Request
	// Service is what the request is for; nil for a workload's own address.
	Service *mesh.Service
	// Now is request.time; the time of the decision where it is zero.
	Now time.Time
}

// CompileL7 compiles AuthorizationPolicies, which all apply. Of
// patterns with "*" a leading star is a suffix, a trailing one a prefix, "*"
// alone presence. Paths may be templates of {*} and {**}.
func CompileL7(policies []*mesh.AuthorizationPolicy) *L7 {
	return Compile(Attached{Authorization: policies})
}

// Compile compiles policies, which all apply: Attachments chooses them.
func Compile(a Attached) *L7 { return compile(a, 0, compileAccess) }

func compile(a Attached, trusted uint8, access func(*mesh.AccessPolicy) compiledAccess) *L7 {
	l := &L7{}
	l.set.trusted = trusted
	// All AuthorizationPolicies in dry run decide together, as Istio has it.
	dry := &unit{}
	for _, p := range a.Authorization {
		l.l4.addAuthorization(p, "")
		l.set.addAuthorization(p, dry)
	}
	if !dry.empty() {
		l.set.dry = append(l.set.dry, *dry)
	}
	for _, p := range a.Access {
		programs := access(p)
		l.set.addAccess(p, programs)
		l.l4.set.addAccess(p, programs)
	}
	l.set.done()
	l.l4.done()
	return l
}

// addAuthorization compiles p. dry is for the policies in dry run.
func (s *set) addAuthorization(p *mesh.AuthorizationPolicy, dry *unit) {
	w := &written{kind: KindAuthorization, name: p.Name, action: p.Action.String(), reason: actionReason(p.Action), watch: -1}
	s.policies = append(s.policies, w)
	if p.Invalid != "" {
		w.reason = reasonInvalid
	}
	to := s.place(w, p.Action, p.DryRun, dry, p.Provider, p.Invalid != "")
	if to == nil {
		return
	}
	if p.Invalid != "" {
		to.add(rule{of: w, index: 0, reason: w.reason, details: details(p.Name, 0)})
		return
	}
	for i := range p.Rules {
		b := l7Builder{deny: failsMatching(p.Action), namespace: p.Name.Namespace, trusted: s.trusted}
		r, ok := b.rule(&p.Rules[i])
		r.of, r.index, r.reason, r.details = w, i, w.reason, details(p.Name, i)
		if ok {
			to.add(r)
		} else {
			s.never = append(s.never, r)
		}
	}
}

// place returns the group that a policy's rules belong to; nil for none.
func (s *set) place(w *written, action mesh.Action, dryRun bool, dry *unit, provider *mesh.ExtAuthz, invalid bool) *group {
	u := &s.enforced
	switch {
	case action == mesh.ActionAudit:
		w.mode = mesh.ModeAudit
		s.newWatched(w, true)
		if invalid {
			return nil // it would not refuse anything if it were understood
		}
		return &s.audit
	case dryRun:
		u, w.mode = dry, mesh.ModeDryRun
		s.newWatched(w, false)
	case action == mesh.ActionCustom && !invalid && provider != nil && provider.Broken == "":
		return s.providerGroup(provider)
	}
	if action == mesh.ActionAllow && !invalid {
		if u.allows == nil {
			u.allows = w
		}
		return &u.allow
	}
	if action == mesh.ActionCustom && !invalid {
		w.reason = reasonNoProvider
	}
	u.denies = true
	return &u.deny
}

// providerGroup returns the rules that choose what a provider is asked about.
func (s *set) providerGroup(p *mesh.ExtAuthz) *group {
	i := slices.IndexFunc(s.custom, func(c custom) bool { return c.provider == p || c.provider.Name == p.Name && p.Name != "" })
	if i < 0 {
		i = len(s.custom)
		s.custom = append(s.custom, custom{provider: p})
	}
	return &s.custom[i].rules
}

// failsMatching reports whether a rule of that action matches where it cannot be evaluated.
func failsMatching(a mesh.Action) bool { return a == mesh.ActionDeny || a == mesh.ActionCustom }

// Empty reports whether there is nothing to enforce, to watch or to ask.
func (l *L7) Empty() bool { return l != nil && l.set.empty() }

// Providers returns whom policies of action CUSTOM ask, in the order in which they are asked. The list must not be
// written to.
func (l *L7) Providers() []*mesh.ExtAuthz {
	if l == nil {
		return nil
	}
	var out []*mesh.ExtAuthz
	for i := range l.set.custom {
		out = append(out, l.set.custom[i].provider)
	}
	return out
}

// Custom reports whether the provider at that place of Providers is to be asked about a request. Those
// whose answer is no refuse it; then comes Decide. Policies whose provider is missing or
// broken are not among them: Decide refuses what they match.
func (l *L7) Custom(in Input, provider int) bool {
	if l == nil || provider >= len(l.set.custom) {
		return false
	}
	var f facts
	l.fill(&f, &in)
	return l.set.custom[provider].rules.match(&f) != nil
}

// Decide decides about a request, of which nothing is known beside it. It is DecideAnd.
func (l *L7) Decide(r *mesh.Request) Verdict { return l.DecideAnd(Input{Req: r}, nil) }

// DecideAnd decides about a request, and tells what each policy that decides nothing says: by
// its place in Watched. told may be nil. It allocates where an expression does, and when the
// request's peer has an identity but no Principal.
func (l *L7) DecideAnd(in Input, told func(watched int, o Outcome)) (v Verdict) {
	if l == nil {
		return notCompiled
	}
	var f facts
	l.fill(&f, &in)
	l.set.decide(&f, told, &v)
	return v
}

// fill fills f, which is empty, in place: it is too large to be handed around.
func (l *L7) fill(f *facts, in *Input) {
	r := in.Req
	f.peer, f.principal, f.source = r.Peer.Identity, r.Peer.Principal, r.Peer.Addr.Addr()
	f.destination, f.request = r.Destination, r
	if f.principal == "" {
		f.principal = f.peer.Principal()
	}
	if l.set.cel {
		f.input = expr.Input{Req: r, Service: in.Service, Now: in.Now}
	}
}

// DecideL4 decides about a connection that is passed through unopened: an ALLOW
// rule that looks at the request never matches, and a DENY rule refuses without
// looking at it.
func (l *L7) DecideL4(in L4Facts) Verdict {
	if l == nil {
		return notCompiled
	}
	return l.l4.Decide(in)
}
