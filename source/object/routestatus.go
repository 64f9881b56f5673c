package object

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// routeConditions says what a route's own text is worth, at whichever parent: what the
// trail holds from the place own on is about its rules, of which routes were made.
func (t *translator) routeConditions(own int, routes []*mesh.Route) []mesh.Condition {
	accepted, resolved := goodCondition(conditionAccepted), goodCondition(conditionResolved)
	if i := slices.IndexFunc(t.trail[own:], func(p pending) bool { return p.served }); i >= 0 {
		p := t.trail[own+i]
		resolved = badCondition(conditionResolved, p.reason, p.path+": "+p.message)
	}
	invalid := map[int]pending{} // rules, by their first problem
	for _, p := range t.trail[own:] {
		if i, ok := ruleOf(p.path); ok && !p.served {
			if _, known := invalid[i]; !known {
				invalid[i] = p
			}
		}
	}
	switch {
	case own > 0:
		p := t.trail[0]
		accepted = badCondition(conditionAccepted, p.reason, p.path+": "+p.message)
	case len(invalid) > 0 && len(invalid) == len(routes):
		accepted = badCondition(conditionAccepted, invalid[0].reason, invalid[0].path+": "+invalid[0].message)
	case len(invalid) > 0:
		var list []string
		for i := range routes {
			if p, ok := invalid[i]; ok {
				list = append(list, fmt.Sprintf("rules[%d] (%s: %s)", i, p.path, p.message))
			}
		}
		return []mesh.Condition{accepted, resolved, {
			Type: conditionPartial, True: true, Reason: reasonUnsupported,
			Message: "Dropped Rule, which answers 500: " + strings.Join(list, "; "),
		}}
	}
	return []mesh.Condition{accepted, resolved}
}

// ruleOf returns the index of the rule that a path like "spec.rules[3].matches[0]" is about.
func ruleOf(path string) (int, bool) {
	rest, ok := strings.CutPrefix(path, "spec.rules[")
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, "]")
	i, err := strconv.Atoi(digits)
	return i, err == nil
}

// status is what became of the route at p, whose text is worth what common says.
func (p *parent) status(common []mesh.Condition) mesh.ParentStatus {
	out := mesh.ParentStatus{Parent: p.ref, Conditions: slices.Clone(common)}
	if p.refused.Type != "" {
		out.Conditions = append([]mesh.Condition{p.refused}, common[1:2]...)
	}
	if p.unserved {
		out.Conditions = append(out.Conditions, badCondition(conditionWaypoints, reasonNoWaypoint,
			fmt.Sprintf("traffic to %s %s passes no waypoint: the route has no effect; label it or its namespace %s", p.ref.Kind, p.ref.Name, labelWaypoint)))
	}
	return out
}
