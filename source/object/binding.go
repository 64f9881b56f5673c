package object

import "cairnproxy.dev/cairn/mesh"

// Condition and reasons of objects that name a waypoint, in Istio's words.
const (
	conditionBound     = "istio.io/WaypointBound"
	reasonWaypointGone = "WaypointMissing"
)

// absentWaypoint tells of a waypoint that an object names and that does not
// exist, and returns one that stands for it. What names it stays bound: its
// traffic is refused until the waypoint is there, because it would otherwise go
// without the policies that it is meant to meet, by nothing but a typing error. All
// else is served.
func (t *translator) absentWaypoint(o *Object, path string, at mesh.Name) *waypoint {
	message := "waypoint " + at.String() + " does not exist; add a Gateway of class cairn-waypoint by that name, or remove the label"
	if t.gateways[at] != nil {
		message = "Gateway " + at.String() + " is not a waypoint; name one of class cairn-waypoint, or remove the label"
	}
	message += " (meanwhile traffic is refused, unless the label " + labelBinding + " is permissive)"
	t.unresolved(o, path, reasonWaypointGone, "%s", message)
	t.setStatus(o, []mesh.ParentStatus{{
		Parent:     mesh.ParentRef{Group: "gateway.networking.k8s.io", Kind: "Gateway", Name: at},
		Conditions: []mesh.Condition{badCondition(conditionBound, reasonWaypointGone, message)},
	}})
	w := t.absentWps[at]
	if w == nil {
		w = &waypoint{absent: true, model: &mesh.Waypoint{Name: at}, ref: &mesh.WaypointRef{Name: at}}
		t.absentWps[at] = w
	}
	return w
}

// noteSharedAccounts tells of waypoints whose service account pods use that are no instances
// of them: such pods are taken for the waypoint wherever nothing may go around it.
func (t *translator) noteSharedAccounts() {
	if len(t.waypoints) == 0 {
		return
	}
	told := map[*waypoint]bool{}
	for _, x := range t.parts.Workloads {
		w := t.waypoints[mesh.Name{Namespace: x.Namespace, Name: x.ServiceAccount}]
		if x.IsWaypoint || w == nil || told[w] {
			continue
		}
		told[w] = true
		t.note(w.obj, "pod %s/%s runs under the waypoint's service account %s, and so may go around the waypoint as if it were one; give it another account, or the Gateway another name", x.Namespace, x.Name, x.ServiceAccount)
	}
}

// permissive reads the label that says whether traffic may go around an object's waypoint:
// the object's own, else that of the namespace ns. Whatever is not "permissive" is strict.
func (t *translator) permissive(o *Object, path string, labels map[string]string, ns string) bool {
	switch value, said := labels[labelBinding]; {
	case !said:
		return ns != "" && t.namespace(ns).permissive
	case value == "permissive":
		return true
	case value != "strict":
		t.bad(o, path+"["+labelBinding+"]", "%q is not known; use strict, which refuses what would go around the waypoint, or permissive", clip(value))
	}
	return false
}
