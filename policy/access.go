package policy

import (
	"fmt"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
)

// compiledAccess is the expressions of an AccessPolicy, or why there are none.
type compiledAccess struct {
	programs []*expr.Program
	invalid  string
}

func compileAccess(p *mesh.AccessPolicy) compiledAccess {
	c := compiledAccess{invalid: p.Invalid}
	if c.invalid != "" {
		return c
	}
	for i := range p.Rules {
		prog, err := expr.Compile(p.Rules[i].When, expr.KindBool)
		if err != nil {
			return compiledAccess{invalid: fmt.Sprintf("rule %d: %v", i, err)}
		}
		c.programs = append(c.programs, prog)
	}
	return c
}

// addAccess adds the rules of p:
//
//	allow     stands with the rules of ALLOW policies; an error does not match
//	deny      refuses what it matches; an error matches
//	require   refuses what it does not match; an error does not hold
//
// A policy in dry run is a unit of its own, so that several versions can stand beside one
// that is enforced.
func (s *set) addAccess(p *mesh.AccessPolicy, c compiledAccess) {
	w := &written{kind: KindAccess, name: p.Name, reason: reasonAllowed, mode: p.Mode, watch: -1}
	s.policies = append(s.policies, w)
	u := &s.enforced
	switch p.Mode {
	case mesh.ModeDryRun:
		s.newWatched(w, false)
		s.dry = append(s.dry, unit{})
		u = &s.dry[len(s.dry)-1]
	case mesh.ModeAudit:
		s.newWatched(w, true)
		if c.invalid != "" {
			w.reason = reasonInvalid
			return
		}
	case mesh.ModeEnforce:
	}
	if c.invalid != "" {
		w.reason = reasonInvalid
		u.refuse(rule{of: w, index: -1, effect: mesh.AccessDeny.String(), reason: reasonInvalid, details: accessDetails(p.Name, "invalid")})
		return
	}
	s.cel = s.cel || len(c.programs) > 0
	for i := range p.Rules {
		in := &p.Rules[i]
		r := rule{of: w, index: i, name: in.Name, effect: in.Effect.String(), when: c.programs[i]}
		id := in.Name
		if id == "" {
			id = fmt.Sprint(i)
		}
		r.details = accessDetails(p.Name, id)
		switch {
		case p.Mode == mesh.ModeAudit:
			r.failing = in.Effect == mesh.AccessDeny
			s.audit.add(r)
		case in.Effect == mesh.AccessAllow:
			if u.allows == nil {
				u.allows = w
			}
			u.allow.add(r)
		case in.Effect == mesh.AccessRequire:
			r.reason, r.unless, r.failing = reasonRequired, true, true
			u.refuse(r)
		default: // what has no meaning refuses, too
			r.reason, r.failing = reasonDenied, true
			u.refuse(r)
		}
	}
}

// accessDetails is the word for an access log that says which rule refused.
func accessDetails(n mesh.Name, rule string) string {
	return fmt.Sprintf("access_denied_matched_policy[ns[%s]-policy[%s]-rule[%s]]", n.Namespace, n.Name, rule)
}

func (u *unit) refuse(r rule) {
	u.denies = true
	u.deny.add(r)
}
