package object

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"cairnproxy.dev/cairn/mesh"
	corev1 "k8s.io/api/core/v1"
)

// pod is what is kept of a Pod. There may be 100,000 of them, and the published
// type takes kilobytes for each, nearly all of it for fields that nobody reads here.
type pod struct {
	template
	owner, ownerKind string // what telemetry calls the workload
	over             bool   // it has run to its end
	phase            corev1.PodPhase
	ready            corev1.ConditionStatus // of the condition Ready, "" for none
	addresses        []netip.Addr
	addressed        bool // its status names an address, if perhaps a bad one
	made             atomic.Pointer[madePod]
	// faults are what is wrong beside the metadata, found once and for all.
	faults []fault
}

// template is what is kept of a pod's metadata and spec.
type template struct {
	labels        map[string]string
	account, node string
	hostNetwork   bool
	sidecar       bool
	named         map[string]uint16 // ports that have names
	containers    []Container
	fields        []envField
}

// envField is a variable whose value is a field of the pod itself.
type envField struct {
	container, variable int
	path                string
}

// newPodObject takes from a Pod what the translation reads.
func newPodObject(o *Object, p *corev1.Pod, in *interner) *pod {
	out := &pod{phase: p.Status.Phase, over: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed}
	if out.over {
		return out
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.ready = c.Status
			break
		}
	}
	out.owner, out.ownerKind = ownerOf(p)
	out.owner = in.text(out.owner)
	var t translator // gathers what is wrong
	out.template = t.readTemplate(o, "", p.Labels, p.Annotations, &p.Spec, in)
	out.addressed = p.Status.PodIP != "" || len(p.Status.PodIPs) > 0
	add := func(path, text string) {
		if a, ok := t.addr(o, path, text); ok && !slices.Contains(out.addresses, a) {
			out.addresses = append(out.addresses, a)
		}
	}
	if p.Status.PodIP != "" {
		add("status.podIP", p.Status.PodIP)
	}
	for i, ip := range p.Status.PodIPs {
		add(elem("status.podIPs", i)+".ip", ip.IP)
	}
	for _, x := range t.pending {
		out.faults = append(out.faults, fault{x.path, x.message})
	}
	return out
}

// readTemplate reads the metadata and spec that the pods of a Deployment, or a
// single pod, are made from. prefix is where spec is: "" or "spec.template.".
func (t *translator) readTemplate(o *Object, prefix string, labels, annotations map[string]string, spec *corev1.PodSpec, in *interner) template {
	out := template{
		labels: in.labels(labels), account: in.text(spec.ServiceAccountName), node: in.text(spec.NodeName),
		hostNetwork: spec.HostNetwork, named: namedPorts(spec), containers: make([]Container, len(spec.Containers)),
	}
	_, out.sidecar = annotations["sidecar.istio.io/status"]
	if out.account == "" {
		out.account = "default"
	} else if !isSubdomain(out.account) {
		t.bad(o, prefix+"spec.serviceAccountName", "%q is not the name of a service account; correct it", clip(out.account))
	}
	t.checkContainers(o, prefix+"spec.containers", spec.Containers)
	for i := range spec.Containers {
		c := &spec.Containers[i]
		x := Container{Name: in.text(c.Name), Image: in.text(c.Image), Command: c.Command, Args: c.Args, WorkingDir: c.WorkingDir}
		for _, e := range c.Env {
			switch {
			case e.ValueFrom == nil:
				x.Env = append(x.Env, EnvVar{in.text(e.Name), in.text(e.Value)})
			case e.ValueFrom.FieldRef != nil:
				out.fields = append(out.fields, envField{i, len(x.Env), e.ValueFrom.FieldRef.FieldPath})
				x.Env = append(x.Env, EnvVar{Name: e.Name})
			}
		}
		for _, p := range c.Ports {
			x.Ports = append(x.Ports, ContainerPort{Name: in.text(p.Name), Port: uint16(p.ContainerPort), UDP: p.Protocol == corev1.ProtocolUDP})
		}
		out.containers[i] = x
	}
	out.containers = in.containers(out.containers)
	return out
}

// of returns the containers as they are in pod w. Pods share them unless a
// variable of theirs tells the pod's own fields.
func (t *template) of(w *mesh.Workload) []Container {
	if len(t.fields) == 0 {
		return t.containers
	}
	out := slices.Clone(t.containers)
	for i := range out {
		out[i].Env = slices.Clone(out[i].Env)
	}
	for _, f := range slices.Backward(t.fields) { // from the end: what has no value is taken out
		env := &out[f.container].Env
		if v, ok := podField(w, f.path); ok {
			(*env)[f.variable].Value = v
		} else {
			*env = slices.Delete(*env, f.variable, f.variable+1)
		}
	}
	return out
}

// podField is the value of a field that a variable may name.
func podField(w *mesh.Workload, path string) (string, bool) {
	if key, ok := strings.CutPrefix(path, "metadata.labels['"); ok {
		return w.Labels[strings.TrimSuffix(key, "']")], true
	}
	switch path {
	case "metadata.name":
		return w.Name, true
	case "metadata.namespace":
		return w.Namespace, true
	case "spec.nodeName":
		return w.Node, true
	case "spec.serviceAccountName":
		return w.ServiceAccount, true
	case "status.podIP":
		if len(w.Addresses) > 0 {
			return w.Addresses[0].String(), true
		}
	}
	return "", false
}

// interner lets the objects of one file share strings and labels that are equal:
// the pods of a service differ in little but their names. nil shares nothing.
type interner struct {
	texts map[string]string
	maps  map[string]map[string]string
	lists map[string][]Container
	key   []byte
	names []string
}

func newInterner() *interner {
	return &interner{texts: map[string]string{}, maps: map[string]map[string]string{}, lists: map[string][]Container{}}
}

func (in *interner) text(s string) string {
	if in == nil || s == "" {
		return s
	}
	if known, ok := in.texts[s]; ok {
		return known
	}
	in.texts[s] = s
	return s
}

// containers returns a list that equals list and must not be written to.
func (in *interner) containers(list []Container) []Container {
	if in == nil {
		return list
	}
	key := fmt.Sprintf("%#v", list)
	if known, ok := in.lists[key]; ok {
		return known
	}
	in.lists[key] = list
	return list
}

// labels returns a map that equals m and must not be written to.
func (in *interner) labels(m map[string]string) map[string]string {
	if in == nil || len(m) == 0 {
		return m
	}
	in.names, in.key = in.names[:0], in.key[:0]
	for k := range m {
		in.names = append(in.names, k)
	}
	slices.Sort(in.names)
	for _, k := range in.names {
		in.key = append(append(append(append(in.key, k...), 0), m[k]...), 0)
	}
	if known, ok := in.maps[string(in.key)]; ok {
		return known
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[in.text(k)] = in.text(v)
	}
	in.maps[string(in.key)] = out
	return out
}
