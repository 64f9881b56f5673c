package object

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// waypointClasses are the Gateway classes that make waypoints without a
// GatewayClass object; waypointControllers make a class one that does.
var (
	waypointClasses     = []string{"cairn-waypoint", "istio-waypoint"}
	waypointControllers = []string{"cairnproxy.dev/waypoint-controller", "istio.io/mesh-controller"}
)

// waypoint is a Gateway of a waypoint class.
type waypoint struct {
	obj      *Object
	gw       *gwv1.Gateway
	listener *gwv1.Listener
	model    *mesh.Waypoint
	ref      *mesh.WaypointRef // shared by all that it serves
	// pods are those that carry its gateway-name label.
	pods []*mesh.Workload
	// uses is the waypoint that the Gateway, its Service or its pods name by
	// label, with the object and field that does, to find cycles.
	uses     *waypoint
	usesObj  *Object
	usesPath string
	// absent stands for a waypoint that is named and does not exist.
	absent bool
}

// serves reports whether a waypoint takes traffic to services or to workloads.
func (w *waypoint) serves(kind mesh.WaypointFor) bool {
	return w.model.For == kind || w.model.For == mesh.WaypointForAll
}

func (t *translator) isWaypointClass(class string) bool {
	if o := t.classes[class]; o != nil {
		return slices.Contains(waypointControllers, string(o.Value.(*gwv1.GatewayClass).Spec.ControllerName))
	}
	return slices.Contains(waypointClasses, class)
}

func (t *translator) gatherWaypoints(objects []*Object) {
	for _, o := range objects {
		if gw, ok := o.Value.(*gwv1.Gateway); ok {
			t.gatherWaypoint(o, gw)
		}
	}
	for _, name := range sortedNames(t.waypoints) {
		w := t.waypoints[name]
		t.waypointUses(w, w.obj, "metadata.labels", w.obj.meta().GetLabels())
	}
}

func (t *translator) gatherWaypoint(o *Object, gw *gwv1.Gateway) {
	class := string(gw.Spec.GatewayClassName)
	if !t.isWaypointClass(class) {
		if class == "" {
			t.bad(o, "spec.gatewayClassName", "the Gateway has no class; use cairn-waypoint")
		} else {
			t.note(o, "its class %q is not a waypoint's: it is not run", class)
		}
		return
	}
	w := &waypoint{obj: o, gw: gw, model: &mesh.Waypoint{
		Name: o.Name, Class: class,
		Identity: mesh.Identity{TrustDomain: t.opts.TrustDomain, Namespace: o.Name.Namespace, ServiceAccount: o.Name.Name},
		Origin:   o.Origin,
	}}
	t.waypointListener(w)
	w.model.For = t.waypointFor(w)
	t.readWaypoint(w)
	w.ref = &mesh.WaypointRef{Name: o.Name, Port: w.model.Port}
	t.waypoints[o.Name] = w
	t.parts.Waypoints = append(t.parts.Waypoints, w.model)

	sa, ok := gw.Annotations[annotationForSA]
	if !ok {
		return
	}
	path := "metadata.annotations[" + annotationForSA + "]"
	if !isSubdomain(sa) {
		t.bad(o, path, "%q is not the name of a service account; name one of namespace %s", clip(sa), o.Name.Namespace)
		return
	}
	w.model.ForServiceAccount = sa
	account := mesh.Name{Namespace: o.Name.Namespace, Name: sa}
	if first := t.accountWps[account]; first != nil {
		t.bad(o, path, "service account %s is served by %s already (%s:%d); keep one of the two", account, first.obj, first.obj.Origin.File, first.obj.Origin.Line)
		return
	}
	t.accountWps[account] = w
}

// waypointListener reads the HBONE listener, which must be the only one.
func (t *translator) waypointListener(w *waypoint) {
	const remedy = "give it one listener: name mesh, port 15008, protocol HBONE"
	w.model.Port = 15008
	if len(w.gw.Spec.Listeners) == 0 {
		t.bad(w.obj, "spec.listeners", "a waypoint needs a listener; %s", remedy)
		return
	}
	for i := range w.gw.Spec.Listeners {
		l, path := &w.gw.Spec.Listeners[i], elem("spec.listeners", i)
		switch {
		case l.Protocol != "HBONE":
			t.bad(w.obj, path+".protocol", "protocol %q is not a waypoint's; %s", clip(string(l.Protocol)), remedy)
		case w.listener != nil:
			t.bad(w.obj, path, "a waypoint has one listener; remove this one")
		default:
			w.listener = l
			if p := t.port(w.obj, path+".port", int64(l.Port)); p != 0 {
				w.model.Port = p
			}
		}
		t.checkAllowed(w.obj, path+".allowedRoutes.namespaces", l)
	}
}

func (t *translator) checkAllowed(o *Object, path string, l *gwv1.Listener) {
	if l.AllowedRoutes == nil || l.AllowedRoutes.Namespaces == nil || l.AllowedRoutes.Namespaces.From == nil {
		return
	}
	ns := l.AllowedRoutes.Namespaces
	switch *ns.From {
	case gwv1.NamespacesFromSame, gwv1.NamespacesFromAll, gwv1.NamespacesFromNone:
	case gwv1.NamespacesFromSelector:
		if ns.Selector == nil {
			t.bad(o, path+".selector", "from: Selector needs a selector; add one")
			return
		}
		if _, err := metav1.LabelSelectorAsSelector(ns.Selector); err != nil {
			t.bad(o, path+".selector", "the selector is not valid (%s); correct it", err)
		}
	default:
		t.bad(o, path+".from", "%q is not known; use Same, All, Selector or None", clip(string(*ns.From)))
	}
}

func (t *translator) waypointFor(w *waypoint) mesh.WaypointFor {
	o, path := w.obj, "metadata.labels["+labelWaypointFor+"]"
	value, ok := w.gw.Labels[labelWaypointFor]
	if class := t.classes[w.model.Class]; !ok && class != nil {
		o = class
		value, ok = class.meta().GetLabels()[labelWaypointFor]
	}
	switch value {
	case "service":
		return mesh.WaypointForService
	case "workload":
		return mesh.WaypointForWorkload
	case "all":
		return mesh.WaypointForAll
	case "none":
		return mesh.WaypointForNone
	}
	if ok {
		t.bad(o, path, "%q is not known; use service, workload, all or none", clip(value))
	}
	if w.gw.Annotations[annotationForSA] != "" {
		return mesh.WaypointForAll // it serves workloads, however they are addressed
	}
	return mesh.WaypointForService
}

// boundWaypoint reads the istio.io/use-waypoint label of an object in
// namespace ns. said is true when the label is there, if only to opt out.
func (t *translator) boundWaypoint(o *Object, path string, labels map[string]string, ns string) (w *waypoint, said bool) {
	name, ok := labels[labelWaypoint]
	if !ok {
		if _, stray := labels[labelWaypointNS]; stray {
			t.bad(o, path+"["+labelWaypointNS+"]", "the label has no effect without %s; add that or remove this", labelWaypoint)
		}
		return nil, false
	}
	if name == "none" {
		return nil, true
	}
	path += "[" + labelWaypoint + "]"
	at := mesh.Name{Namespace: ns, Name: name}
	if other := labels[labelWaypointNS]; other != "" {
		at.Namespace = other
	}
	w = t.waypoints[at]
	switch {
	case w == nil:
		return t.absentWaypoint(o, path, at), true
	case w.model.ForServiceAccount != "" && o != w.obj:
		t.bad(o, path, "waypoint %s serves the workloads of service account %s and nothing else; remove its %s annotation or this label", at, w.model.ForServiceAccount, annotationForSA)
		return nil, true
	case at.Namespace != ns && !t.admits(w, ns):
		t.bad(o, path, "waypoint %s does not admit namespace %s; allow it in the Gateway's listener (allowedRoutes.namespaces)", at, ns)
		return nil, true
	}
	return w, true
}

// admits reports whether a waypoint may be used from another namespace.
func (t *translator) admits(w *waypoint, ns string) bool {
	if w.listener == nil || w.listener.AllowedRoutes == nil || w.listener.AllowedRoutes.Namespaces == nil || w.listener.AllowedRoutes.Namespaces.From == nil {
		return false
	}
	allowed := w.listener.AllowedRoutes.Namespaces
	switch *allowed.From {
	case gwv1.NamespacesFromAll:
		return true
	case gwv1.NamespacesFromSelector:
		sel, err := metav1.LabelSelectorAsSelector(allowed.Selector)
		return err == nil && allowed.Selector != nil && sel.Matches(nsLabels{ns, t.namespace(ns).labels})
	default:
		return false
	}
}

// nsLabels are a namespace's labels with the one that Kubernetes adds.
type nsLabels struct {
	name   string
	labels map[string]string
}

func (l nsLabels) Lookup(k string) (string, bool) {
	if k == "kubernetes.io/metadata.name" {
		return l.name, true
	}
	v, ok := l.labels[k]
	return v, ok
}

func (l nsLabels) Has(k string) bool { _, ok := l.Lookup(k); return ok }

func (l nsLabels) Get(k string) string { v, _ := l.Lookup(k); return v }

// waypointUses notes that the waypoint itself, by its Gateway, Service or pods,
// is bound to a waypoint.
func (t *translator) waypointUses(w *waypoint, o *Object, path string, labels map[string]string) {
	if used, _ := t.boundWaypoint(o, path, labels, w.obj.Name.Namespace); used != nil && w.uses == nil {
		w.uses, w.usesObj, w.usesPath = used, o, path+"["+labelWaypoint+"]"
	}
}

// finishWaypoints refuses cycles, checks service accounts and gives addresses.
func (t *translator) finishWaypoints() {
	for _, name := range sortedNames(t.waypoints) {
		w := t.waypoints[name]
		if w.uses != nil {
			if w.cyclic() {
				t.bad(w.usesObj, w.usesPath, "waypoint %s would be served by itself by way of %s; remove the label", name, w.uses.model.Name)
			} else {
				t.note(w.usesObj, "a waypoint is not served by another: its label %s is ignored", labelWaypoint)
			}
		}
		t.waypointAddresses(w)
	}
	t.noteSharedAccounts()
	for _, account := range sortedNames(t.accountWps) {
		w := t.accountWps[account]
		used := slices.ContainsFunc(t.parts.Workloads, func(x *mesh.Workload) bool {
			return x.Namespace == account.Namespace && x.ServiceAccount == account.Name
		})
		path := "metadata.annotations[" + annotationForSA + "]"
		if own := t.waypoints[account]; own != nil {
			t.bad(w.obj, path, "%s is the account of waypoint %s itself, which would serve itself; name another account", account, own.model.Name)
		} else if !used && t.accounts[account] == nil {
			t.bad(w.obj, path, "service account %s does not exist and no pod uses it; correct the name or add it", account)
		}
	}
}

// indexAccounts finds the services that have an endpoint which a waypoint
// serves for its service account.
func (t *translator) indexAccounts() {
	if len(t.accountWps) == 0 {
		return
	}
	t.byAccount = map[mesh.ServiceKey]map[mesh.Name]bool{}
	for _, x := range t.parts.Workloads {
		if !x.ServiceAccountWaypoint {
			continue
		}
		for k := range x.Services {
			if t.byAccount[k] == nil {
				t.byAccount[k] = map[mesh.Name]bool{}
			}
			t.byAccount[k][x.Waypoint.Name] = true
		}
	}
}

func (w *waypoint) cyclic() bool {
	seen := map[*waypoint]bool{}
	for x := w.uses; x != nil && !seen[x]; x = x.uses {
		if x == w {
			return true
		}
		seen[x] = true
	}
	return false
}

// waypointAddresses finds where a waypoint's instances listen: the Gateway's
// own addresses, else its pods', else its Service's, else an allocated one. A
// waypoint without pods gets one workload that stands for its instances.
func (t *translator) waypointAddresses(w *waypoint) {
	m := w.model
	for i, a := range w.gw.Spec.Addresses {
		t.gatewayAddress(w, elem("spec.addresses", i), a.Type, a.Value)
	}
	for i, a := range w.gw.Status.Addresses {
		t.gatewayAddress(w, elem("status.addresses", i), a.Type, a.Value)
	}
	if len(m.Addresses) == 0 {
		for _, p := range w.pods {
			if p.Ready {
				m.Addresses = append(m.Addresses, p.Addresses...)
			}
		}
	}
	if svc := t.services[m.Name]; len(m.Addresses) == 0 && svc != nil {
		m.Addresses = slices.Clone(svc.model.VIPs)
	}
	if len(m.Addresses) == 0 && t.opts.Allocator != nil {
		if a := t.opts.Allocator.Waypoint(m.Name); a.IsValid() {
			m.Addresses = []netip.Addr{a}
		}
	}
	if len(w.pods) == 0 {
		t.waypointWorkload(w)
	}
}

func (t *translator) gatewayAddress(w *waypoint, path string, kind *gwv1.AddressType, value string) {
	if kind != nil && *kind != gwv1.IPAddressType {
		if *kind != gwv1.HostnameAddressType && *kind != gwv1.NamedAddressType {
			t.bad(w.obj, path+".type", "%q is not a type of address; use IPAddress", clip(string(*kind)))
		}
		return
	}
	if value == "" {
		return // asks for any address
	}
	if a, ok := t.addr(w.obj, path+".value", value); ok && !slices.Contains(w.model.Addresses, a) {
		w.model.Addresses = append(w.model.Addresses, a)
	}
}

func (t *translator) waypointWorkload(w *waypoint) {
	n := w.obj.Name
	pod := mesh.Name{Namespace: n.Namespace, Name: podName(n.Name, shortHash(w.model.Class, n.Namespace), 0)}
	x := &mesh.Workload{
		UID: t.podUID(pod), Name: pod.Name, Namespace: n.Namespace,
		ServiceAccount: n.Name, TrustDomain: t.opts.TrustDomain,
		Addresses: slices.Clone(w.model.Addresses), Network: t.opts.Network, ClusterID: t.opts.ClusterID,
		Labels:        map[string]string{labelGatewayName: n.Name},
		CanonicalName: n.Name, CanonicalRevision: "latest", WorkloadName: n.Name, WorkloadType: "deployment",
		Ready: true, Capacity: 1, IsWaypoint: true, Origin: w.obj.Origin,
	}
	if t.opts.Node != nil {
		x.Node = t.opts.Node(pod)
	}
	t.locate(x, w.gw.Labels)
	t.parts.Workloads = append(t.parts.Workloads, x)
}
