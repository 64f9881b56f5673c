package explain

import (
	"fmt"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// Of puts together what a waypoint says of a request: of a recorded one, took is its record.
func Of(q *Question, took *decision.Record, w *Waypoint) *Explanation {
	e := &Explanation{Request: *q, Record: took, Waypoint: w, Configuration: fmt.Sprintf("in force now, version %d", w.Version)}
	if took != nil {
		if uint32(took.Config) == uint32(w.Version) {
			e.Configuration = fmt.Sprintf("version %d, which served the request and is in force", w.Version)
		} else {
			e.Configuration = fmt.Sprintf("in force now, version %d; the request was served by version %d", w.Version, took.Config)
		}
	}
	e.Outcome = w.Outcome()
	if took != nil && RefusedBefore(took) {
		e.Outcome = fmt.Sprintf("answered %d before policies were asked: %s", took.Status, took.Details)
	}
	e.notes()
	return e
}

// Outcome is what a waypoint does with a request, in a line.
func (w *Waypoint) Outcome() string {
	refused := w.Policies != nil && !w.Policies.Allowed
	switch {
	case w.Status != 0:
		return fmt.Sprintf("answered %d by the waypoint: %s", w.Status, w.Why)
	case refused:
		return "refused: " + w.Why
	case w.Route == nil:
		return "passed on as bytes"
	}
	for _, d := range []*Decision{w.Policies, w.Route.Policies} {
		if d != nil && len(d.Ask) > 0 {
			return "passed on to a backend, if " + strings.Join(d.Ask, " and ") + " allows it"
		}
	}
	var to []string
	for _, b := range w.Route.Backends {
		if b.Weight > 0 {
			to = append(to, fmt.Sprintf("%s:%d", b.Service, b.Port))
		}
	}
	return "passed on to " + strings.Join(to, " or ")
}

// Refused reports whether authorization refuses the request.
func (w *Waypoint) Refused() bool {
	return w.Policies != nil && !w.Policies.Allowed || w.Route != nil && w.Route.Policies != nil && !w.Route.Policies.Allowed
}

// By is the rule by which a waypoint refuses or allows a request, "" for none.
func (w *Waypoint) By() string {
	if w.Route != nil && w.Route.Policies != nil && (w.Policies == nil || w.Policies.Allowed) {
		if d := w.Route.Policies; !d.Allowed || w.Policies == nil {
			return d.by()
		}
	}
	if w.Policies == nil {
		return ""
	}
	return w.Policies.by()
}

func (d *Decision) by() string {
	if d.By == "" {
		return d.Reason
	}
	return d.By
}

// Unknown are the header fields that the decision depends on and that q, which is from a record, does not have.
func (w *Waypoint) Unknown(q *Question) []string {
	out := w.Policies.unknown(q)
	if w.Route != nil {
		out = append(out, w.Route.Policies.unknown(q)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// RefusedThen reports whether a recorded request was refused by authorization.
func RefusedThen(r *decision.Record) bool {
	return r.Status == 403 && (strings.HasPrefix(r.Details, "rbac_access_denied") || strings.HasPrefix(r.Details, "access_denied_matched_policy"))
}

// RefusedBefore reports whether a recorded request was refused before any policy judged it: for its token, or by an
// external service.
func RefusedBefore(r *decision.Record) bool {
	return r.Local && r.Status >= 400 && (strings.HasPrefix(r.Details, "jwt_authn") || strings.HasPrefix(r.Details, "ext_authz"))
}

// notes says what a reader has to know beside the answer.
func (e *Explanation) notes() {
	w, took := e.Waypoint, e.Record
	note := func(format string, args ...any) { e.Notes = append(e.Notes, fmt.Sprintf(format, args...)) }
	if names := w.Unknown(&e.Request); len(names) > 0 {
		note("policies look at what the record does not have: %s. They are judged as if it had not been there", strings.ReplaceAll(strings.Join(names, ", "), policy.TokenField, "a token"))
	}
	if names := e.Request.routeFields(w.Route); len(names) > 0 {
		note("routes look at header fields that the record does not have: %s", strings.Join(names, ", "))
	}
	if took != nil {
		switch then, now := RefusedThen(took), w.Refused(); {
		case took.Cut:
			note("a text was too long for the record and is cut: what was asked may have been another path")
		case RefusedBefore(took):
			note("policies and routes are shown as if they had been asked")
		case then && !now:
			note("it was refused then (%s), and would be let pass by what is known of it now", took.Details)
		case !then && now && took.Status != 403:
			note("it was let pass then (%d), and would be refused by what is known of it now", took.Status)
		}
	}
}

// routeFields are the header fields that routes look at and q does not know.
func (q *Question) routeFields(r *Route) (out []string) {
	if r == nil {
		return nil
	}
	for _, t := range r.Tried {
		for _, name := range t.Fields {
			if !q.knows(name) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}
