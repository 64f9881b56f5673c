package object

import (
	"cmp"
	"reflect"
	"slices"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Types of conditions and reasons, in Gateway API's words.
const (
	conditionAccepted  = string(gwv1.RouteConditionAccepted)
	conditionResolved  = string(gwv1.RouteConditionResolvedRefs)
	conditionPartial   = string(gwv1.RouteConditionPartiallyInvalid)
	conditionConflict  = "Conflicted"
	conditionWaypoints = "ResolvedWaypoints" // Istio's

	reasonUnsupported  = string(gwv1.RouteReasonUnsupportedValue)
	reasonIncompatible = string(gwv1.RouteReasonIncompatibleFilters)
	reasonNoParent     = string(gwv1.RouteReasonNoMatchingParent)
	reasonNotAllowed   = string(gwv1.RouteReasonNotAllowedByListeners)
	reasonNoHostname   = string(gwv1.RouteReasonNoMatchingListenerHostname)
	reasonNotFound     = string(gwv1.RouteReasonBackendNotFound)
	reasonNotPermitted = string(gwv1.RouteReasonRefNotPermitted)
	reasonInvalidKind  = string(gwv1.RouteReasonInvalidKind)
	reasonProtocol     = string(gwv1.RouteReasonUnsupportedProtocol)
	reasonConflicted   = "Conflicted"
	reasonNoWaypoint   = "WaypointMissing"
)

// goodCondition is a condition that holds.
func goodCondition(typ string) mesh.Condition {
	return mesh.Condition{Type: typ, True: true, Reason: typ}
}

// badCondition is one that does not, and says why.
func badCondition(typ, reason, message string) mesh.Condition {
	return mesh.Condition{Type: typ, Reason: reason, Message: message}
}

// setStatus files what became of o; the last one counts. What is published is of
// the last translation where it says the same.
func (t *translator) setStatus(o *Object, parents []mesh.ParentStatus) {
	key := objectKey{o.Kind, o.Name}
	s := &mesh.Status{Kind: o.Kind.Kind, Object: o.Name, Parents: parents}
	if old := t.past.statuses[key]; old != nil && reflect.DeepEqual(old, s) {
		s = old
	}
	t.statuses[key] = s
}

// finishStatuses publishes the statuses in their order.
func (t *translator) finishStatuses() {
	t.parts.Statuses = make([]*mesh.Status, 0, len(t.statuses))
	for _, s := range t.statuses {
		t.parts.Statuses = append(t.parts.Statuses, s)
	}
	slices.SortFunc(t.parts.Statuses, func(a, b *mesh.Status) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Name, b.Object.Name))
	})
	if len(t.parts.Statuses) == 0 {
		t.parts.Statuses = nil
	}
	t.past.statuses = t.statuses
}
