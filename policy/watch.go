package policy

import "cairnproxy.dev/cairn/mesh"

// Watched is a policy that decides nothing: one in dry run, or one that audits.
type Watched struct {
	Kind  string
	Name  mesh.Name
	Audit bool
}

// Outcome is what a watched policy says of a request, beside what was done with it.
type Outcome uint8

const (
	// Audited: a rule of a policy that audits matches.
	Audited Outcome = iota
	// AgreedAllow and AgreedDeny: a policy in dry run says what was done.
	AgreedAllow
	AgreedDeny
	// WouldDeny: the request was allowed, and the policy refuses it.
	WouldDeny
	// WouldAllow: the request was refused, and the policy allows it.
	WouldAllow
)

// Disagrees reports whether the policy says something else than was done.
func (o Outcome) Disagrees() bool { return o == WouldDeny || o == WouldAllow }

// Watched returns the policies that decide nothing. DecideAnd tells of them by their place in
// this list, which must not be written to.
func (l *L7) Watched() []Watched {
	if l == nil {
		return nil
	}
	return l.set.watched
}

// Connections returns the same policies as they are asked about connections; nil of a nil set, which refuses. Its Watched
// is a list of its own.
func (l *L7) Connections() *L4 {
	if l == nil {
		return nil
	}
	return &l.l4
}

// Watched is L7.Watched, of what DecideAnd tells of.
func (l *L4) Watched() []Watched {
	if l == nil {
		return nil
	}
	return l.set.watched
}

// newWatched files w as a policy that decides nothing.
func (s *set) newWatched(w *written, audit bool) {
	w.watch = len(s.watched)
	s.watched = append(s.watched, Watched{Kind: w.kind, Name: w.name, Audit: audit})
}

// watch asks the policies that decide nothing. What is in dry run is judged unit by unit: a unit
// that has nothing to say, because none of its rules refuses and none has to allow, agrees.
func (s *set) watch(f *facts, v *Verdict, told func(int, Outcome)) {
	for i := range s.dry {
		u := &s.dry[i]
		allowed, by := u.decide(f)
		w, n := u.allows, -1
		if by != nil {
			w, n = by.of, by.index
		}
		if !allowed && !v.DryRun.Denied {
			v.DryRun = DryRun{Denied: true, Policy: w.name, Rule: n}
		} else if by != nil && v.DryRun.Policy == (mesh.Name{}) {
			v.DryRun.Policy, v.DryRun.Rule = w.name, n
		}
		if told == nil || w == nil {
			continue
		}
		switch {
		case allowed && v.Allowed:
			told(w.watch, AgreedAllow)
		case allowed:
			told(w.watch, WouldAllow)
		case v.Allowed:
			told(w.watch, WouldDeny)
		default:
			told(w.watch, AgreedDeny)
		}
	}
	if told == nil {
		return
	}
	last := -1
	for i := range s.audit.rules {
		if r := &s.audit.rules[i]; r.of.watch != last && r.match(f) {
			last = r.of.watch
			told(last, Audited)
		}
	}
}
