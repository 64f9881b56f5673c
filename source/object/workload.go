package object

import (
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// elem is the path of a list's element.
func elem(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func sortedNames[V any](m map[mesh.Name]V) []mesh.Name {
	return slices.SortedFunc(maps.Keys(m), func(a, b mesh.Name) int { return strings.Compare(a.String(), b.String()) })
}

func (t *translator) gatherWorkloads(objects []*Object) {
	for _, o := range objects {
		switch v := o.Value.(type) {
		case *pod:
			t.gatherPod(o, v)
		case *appsv1.Deployment:
			t.gatherDeployment(o, v)
		case *WorkloadEntry:
			t.gatherWorkloadEntry(o, v)
		}
	}
}

// podUID is the name that istiod gives a pod's workload.
func (t *translator) podUID(n mesh.Name) string {
	return t.opts.ClusterID + "//Pod/" + n.Namespace + "/" + n.Name
}

func (t *translator) gatherPod(o *Object, p *pod) {
	if p.over {
		return
	}
	ready, node := t.podReady(o.Name, p), t.nodeOf(o.Name, &p.template)
	if w := t.remembered(o, p, ready, node); w != nil {
		t.addPod(w, &p.template, "")
		return
	}
	said, notices := t.said, len(t.notices)
	for _, f := range p.faults {
		t.bad(o, f.path, "%s", f.message)
	}
	w := t.podTemplate(o, "", &p.template, p.owner, p.ownerKind)
	t.placePod(&w, o.Name, node)
	w.Ready = ready
	if w.Addresses = p.addresses; !p.addressed {
		t.allocatePod(&w)
	}
	if len(w.Addresses) == 0 {
		w.Ready = false // nobody can reach it
	}
	made := t.keepPod(o, p, &w, t.quiet(said, notices))
	t.addPod(made, &p.template, "")
}

// podTemplate makes the workload that all pods of one template have in common.
// prefix is "" for a Pod and "spec.template." for a Deployment; owner and kind
// are what telemetry calls the workload.
func (t *translator) podTemplate(o *Object, prefix string, tmpl *template, owner, kind string) mesh.Workload {
	ns, labels := o.Name.Namespace, tmpl.labels
	w := mesh.Workload{
		Namespace: ns, ServiceAccount: tmpl.account, TrustDomain: t.opts.TrustDomain,
		Network: t.opts.Network, ClusterID: t.opts.ClusterID, HostNetwork: tmpl.hostNetwork,
		Labels: labels, Capacity: 1, Ready: true, Origin: o.Origin,
		WorkloadName: owner, WorkloadType: kind, NamedPorts: tmpl.named,
	}
	w.CanonicalName, w.CanonicalRevision = canonical(labels, owner)

	labelPath := prefix + "metadata.labels"
	mode := t.dataplaneMode(o, labelPath, labels)
	ambient := mode == "ambient" || mode == "" && t.namespace(ns).ambient
	if (ambient && !tmpl.sidecar || labels[labelTunnel] == "http") && !tmpl.hostNetwork {
		w.Protocol = mesh.TunnelHBONE
	}
	w.Services = t.servicesOf(ns, labels, w.NamedPorts, nil)
	if own := t.waypoints[mesh.Name{Namespace: ns, Name: labels[labelGatewayName]}]; own != nil {
		w.IsWaypoint = true
		if mode != "ambient" {
			w.Protocol = mesh.TunnelNone // it listens on the HBONE port itself
		}
		t.waypointUses(own, o, labelPath, labels)
		return w
	}
	t.bindWorkload(&w, o, labelPath, labels)
	return w
}

// bindWorkload finds the waypoint of a workload: by its own label, else the
// one of its service account, else its namespace's.
func (t *translator) bindWorkload(w *mesh.Workload, o *Object, path string, labels map[string]string) {
	wp, said := t.boundWaypoint(o, path, labels, w.Namespace)
	w.WaypointOptional = t.permissive(o, path, labels, w.Namespace)
	if !said {
		if acc := t.accountWps[mesh.Name{Namespace: w.Namespace, Name: w.ServiceAccount}]; acc != nil && acc.model.For != mesh.WaypointForNone {
			w.Waypoint, w.ServiceAccountWaypoint = acc.ref, true
			return
		}
		wp = t.namespace(w.Namespace).waypoint
	}
	switch {
	case wp == nil:
	case wp.serves(mesh.WaypointForWorkload), said && wp.absent:
		w.Waypoint = wp.ref
	case said && wp.model.For != mesh.WaypointForNone:
		t.note(o, "waypoint %s takes traffic to services only: it does not serve this workload (set its label %s to workload or all)", wp.model.Name, labelWaypointFor)
	}
}

func (t *translator) checkContainers(o *Object, path string, list []corev1.Container) {
	if len(list) == 0 {
		t.bad(o, path, "a pod needs a container; add one")
	}
	for i := range list {
		for j, p := range list[i].Ports {
			at := elem(elem(path, i)+".ports", j)
			t.port(o, at+".containerPort", int64(p.ContainerPort))
			t.tcp(o, at+".protocol", p.Protocol)
		}
	}
}

func namedPorts(spec *corev1.PodSpec) map[string]uint16 {
	var named map[string]uint16
	for i := range spec.Containers {
		for _, p := range spec.Containers[i].Ports {
			if p.Name == "" || p.Protocol != "" && p.Protocol != corev1.ProtocolTCP || p.ContainerPort < 1 || p.ContainerPort > 65535 {
				continue
			}
			if named == nil {
				named = map[string]uint16{}
			}
			if _, dup := named[p.Name]; !dup {
				named[p.Name] = uint16(p.ContainerPort)
			}
		}
	}
	return named
}

// canonical reads the names that telemetry gives a workload.
func canonical(labels map[string]string, name string) (service, revision string) {
	service, revision = name, "latest"
	for _, k := range []string{"app", "app.kubernetes.io/name", "service.istio.io/canonical-name"} {
		if v := labels[k]; v != "" {
			service = v
		}
	}
	for _, k := range []string{"version", "app.kubernetes.io/version", "service.istio.io/canonical-revision"} {
		if v := labels[k]; v != "" {
			revision = v
		}
	}
	return service, revision
}

// ownerOf names what a pod belongs to.
func ownerOf(p *corev1.Pod) (name, kind string) {
	for _, ref := range p.OwnerReferences {
		if ref.Controller == nil || !*ref.Controller {
			continue
		}
		switch ref.Kind {
		case "ReplicaSet":
			if hash := p.Labels["pod-template-hash"]; hash != "" && strings.HasSuffix(ref.Name, "-"+hash) {
				return strings.TrimSuffix(ref.Name, "-"+hash), "deployment"
			}
		case "Job":
			// A CronJob names its Jobs NAME-MINUTES.
			if i := strings.LastIndexByte(ref.Name, '-'); i > 0 && len(ref.Name)-i > 8 && strings.Trim(ref.Name[i+1:], "0123456789") == "" {
				return ref.Name[:i], "cronjob"
			}
			return ref.Name, "job"
		}
		return ref.Name, "pod"
	}
	return p.Name, "pod"
}

// placePod sets what differs between the pods of a template.
func (t *translator) placePod(w *mesh.Workload, n mesh.Name, node string) {
	w.Name, w.UID = n.Name, t.podUID(n)
	w.Node = node
	t.locate(w, w.Labels)
}

// nodeOf is the node of a pod; whoever runs the pods names it where the pod does not.
func (t *translator) nodeOf(n mesh.Name, tmpl *template) string {
	if tmpl.node == "" && t.opts.Node != nil {
		return t.opts.Node(n)
	}
	return tmpl.node
}

// locate finds where a workload is: by its istio-locality label, else its node's labels.
func (t *translator) locate(w *mesh.Workload, labels map[string]string) {
	if l := labels["istio-locality"]; l != "" {
		parts := append(strings.SplitN(l, ".", 3), "", "")
		w.Region, w.Zone, w.Subzone = parts[0], parts[1], parts[2]
		return
	}
	if node := t.nodes[w.Node]; node != nil {
		w.Region = node.Labels["topology.kubernetes.io/region"]
		w.Zone = node.Labels["topology.kubernetes.io/zone"]
		w.Subzone = node.Labels["topology.istio.io/subzone"]
	}
}

// podReady reads a pod's status, or asks whoever runs the pods when it has none.
func (t *translator) podReady(n mesh.Name, p *pod) bool {
	switch {
	case p.ready != "":
		return p.ready == corev1.ConditionTrue
	case p.phase != "":
		return p.phase == corev1.PodRunning
	}
	return t.opts.NotReady == nil || !t.opts.NotReady(n)
}

func (t *translator) allocatePod(w *mesh.Workload) {
	if t.opts.Allocator == nil {
		return
	}
	if a := t.opts.Allocator.Pod(mesh.Name{Namespace: w.Namespace, Name: w.Name}); a.IsValid() {
		w.Addresses = []netip.Addr{a}
	}
}

func (t *translator) addPod(w *mesh.Workload, tmpl *template, owner string) {
	t.parts.Workloads = append(t.parts.Workloads, w)
	if w.IsWaypoint {
		wp := t.waypoints[mesh.Name{Namespace: w.Namespace, Name: w.Labels[labelGatewayName]}]
		wp.pods = append(wp.pods, w)
	}
	t.pods = append(t.pods, newPod(w, tmpl, owner))
}

const (
	maxReplicas = 10_000  // of one Deployment
	maxExpanded = 200_000 // pods of all Deployments together
)

func (t *translator) gatherDeployment(o *Object, d *appsv1.Deployment) {
	tmpl := &d.Spec.Template
	n := int32(1)
	if d.Spec.Replicas != nil {
		n = *d.Spec.Replicas
	}
	switch {
	case n < 0:
		t.bad(o, "spec.replicas", "%d pods cannot be; use 0 or more", n)
		return
	case n > maxReplicas:
		t.bad(o, "spec.replicas", "%d pods are more than the %d that one Deployment may have here; use fewer", n, maxReplicas)
		return
	case t.expanded+int(n) > maxExpanded:
		t.bad(o, "spec.replicas", "all Deployments together have more than %d pods; use fewer", maxExpanded)
		return
	}
	t.expanded += int(n)
	t.checkSelector(o, d.Spec.Selector, tmpl.Labels)
	t.checkLabels(o, "spec.template.metadata.labels", tmpl.Labels)
	hash := templateHash(tmpl)
	labels := maps.Clone(tmpl.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["pod-template-hash"] = hash
	read := t.readTemplate(o, "spec.template.", labels, tmpl.Annotations, &tmpl.Spec, nil)
	base := t.podTemplate(o, "spec.template.", &read, o.Name.Name, "deployment")
	for i := range int(n) {
		w := base
		name := mesh.Name{Namespace: o.Name.Namespace, Name: podName(o.Name.Name, hash, i)}
		t.placePod(&w, name, t.nodeOf(name, &read))
		w.Ready = t.opts.NotReady == nil || !t.opts.NotReady(name)
		t.allocatePod(&w)
		if len(w.Addresses) == 0 {
			w.Ready = false // nobody can reach it
		}
		t.addPod(&w, &read, o.Name.Name)
	}
}

// checkSelector holds a Deployment to choosing its own pods.
func (t *translator) checkSelector(o *Object, sel *metav1.LabelSelector, labels map[string]string) {
	const path = "spec.selector"
	if sel == nil || len(sel.MatchLabels)+len(sel.MatchExpressions) == 0 {
		t.bad(o, path, "the selector is missing; add matchLabels that equal the template's labels")
		return
	}
	s, err := metav1.LabelSelectorAsSelector(sel)
	if err != nil {
		t.bad(o, path, "the selector is not valid (%s); correct it", err)
		return
	}
	if !s.Matches(nsLabels{labels: labels}) {
		t.bad(o, path, "it does not match the labels of spec.template; make them agree")
	}
}

// nameLetters make up the random-looking parts of pod names: no vowels, so that
// no words appear, and nothing that is easily mistaken.
const nameLetters = "bcdfghjklmnpqrstvwxz2456789"

func letters(h uint64, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = nameLetters[h%uint64(len(nameLetters))]
		h /= uint64(len(nameLetters))
	}
	return string(b)
}

// shortHash is a hash as it stands in names.
func shortHash(parts ...string) string {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return letters(h.Sum64(), 8)
}

// podName is NAME-HASH-SUFFIX, as a ReplicaSet names pods, and the same at
// every reload. Long names are cut to leave room for both parts.
func podName(name, hash string, index int) string {
	const most = 63 - 1 - 8 - 1 - 5
	if len(name) > most {
		name = strings.TrimRight(name[:most], "-.")
	}
	h := fnv.New64a()
	h.Write([]byte(name + "/" + hash + "/" + strconv.Itoa(index)))
	return name + "-" + hash + "-" + letters(h.Sum64(), 5)
}
