package object

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Allocator gives addresses to what the manifests give none. An invalid Addr
// means "none". The same name must always get the same address.
type Allocator interface {
	// Service is asked for a Service by its name, and for a ServiceEntry's host
	// by that host.
	Service(n mesh.Name) netip.Addr
	Pod(n mesh.Name) netip.Addr
	// Waypoint is asked for a waypoint by its Gateway's name.
	Waypoint(n mesh.Name) netip.Addr
}

// Options says what the objects themselves do not.
type Options struct {
	// TrustDomain, ClusterDomain ("cluster.local" where empty), RootNamespace
	// ("istio-system"), ClusterID ("Kubernetes") and Network ("") are the mesh's.
	TrustDomain, ClusterDomain, RootNamespace, ClusterID, Network string
	// Enrol makes every namespace ambient that carries no istio.io/dataplane-mode label.
	Enrol bool
	// Allocator gives addresses where the objects give none; nil gives none.
	Allocator Allocator
	// Node names the node of a pod that names none; nil leaves it empty.
	Node func(pod mesh.Name) string
	// NotReady says that a pod without a status is not ready; nil means all are.
	NotReady func(pod mesh.Name) bool
}

func (o Options) withDefaults() Options {
	set := func(p *string, def string) {
		if *p == "" {
			*p = def
		}
	}
	set(&o.TrustDomain, mesh.DefaultTrustDomain)
	set(&o.ClusterDomain, "cluster.local")
	set(&o.RootNamespace, "istio-system")
	set(&o.ClusterID, "Kubernetes")
	return o
}

// Result is what Translate makes of objects.
type Result struct {
	Parts mesh.Parts
	// Pods are the pods, for whoever starts them.
	Pods     []Pod
	Notices  []Notice
	Problems []source.Problem
}

// Translate turns all objects of a mesh into its model. It only reads them.
func Translate(objects []*Object, opts Options) Result {
	return NewTranslator(opts).Translate(objects)
}

// Translator translates the objects of one mesh again and again. What it made
// of a pod or a service, it uses again for as long as nothing has changed that
// went into it. It is for one goroutine at a time.
type Translator struct {
	opts Options
	past past
}

// NewTranslator returns a Translator that has seen nothing yet.
func NewTranslator(opts Options) *Translator { return &Translator{opts: opts.withDefaults()} }

// Translate turns all objects of a mesh into its model. It only reads them.
func (tr *Translator) Translate(objects []*Object) Result {
	t := &translator{
		opts: tr.opts, past: &tr.past,
		byKey:      make(map[objectKey]*Object, len(objects)),
		namespaces: map[string]*namespace{},
		nodes:      map[string]*corev1.Node{},
		classes:    map[string]*Object{},
		accounts:   map[mesh.Name]*Object{},
		waypoints:  map[mesh.Name]*waypoint{},
		gateways:   map[mesh.Name]*Object{},
		accountWps: map[mesh.Name]*waypoint{},
		absentWps:  map[mesh.Name]*waypoint{},
		services:   map[mesh.Name]*service{},
		byHost:     map[mesh.ServiceKey]*service{},
		statuses:   map[objectKey]*mesh.Status{},
	}
	t.parts.TrustDomain, t.parts.ClusterDomain = t.opts.TrustDomain, t.opts.ClusterDomain
	t.parts.RootNamespace, t.parts.ClusterID, t.parts.Network = t.opts.RootNamespace, t.opts.ClusterID, t.opts.Network

	objects = t.index(objects)
	t.past.look(objects)
	t.readMeshConfig()
	t.aliasTrustDomains()
	t.checkReading()
	t.reserve(objects)
	t.gatherWaypoints(objects) // before whatever may name one
	t.bindNamespaces()
	t.gatherServices(objects)
	t.indexSelectors()
	t.gatherWorkloads(objects)
	t.finishWaypoints()
	t.indexAccounts()
	t.translateTraffic(objects)
	t.translateRoutes(objects)
	t.translatePolicies(objects)
	t.noteElsewhere()
	t.finishStatuses()
	return Result{Parts: t.parts, Pods: t.pods, Notices: slices.Compact(t.notices), Problems: t.problems()}
}

// reserve makes room for what the objects will become, lest growing take the
// time that the translation itself does.
func (t *translator) reserve(objects []*Object) {
	pods, services := 0, 0
	for _, o := range objects {
		switch o.Value.(type) {
		case *pod:
			pods++
		case *serviceObject:
			services++
		}
	}
	t.parts.Workloads = slices.Grow(t.parts.Workloads, pods)
	t.pods = slices.Grow(t.pods, pods)
	t.parts.Services = slices.Grow(t.parts.Services, services)
	t.serviceSeq = slices.Grow(t.serviceSeq, services)
}

type objectKey struct {
	kind *Kind
	name mesh.Name
}

// translator is one run of Translate.
type translator struct {
	report
	opts Options
	past *past
	mesh meshConfig
	// providers are those that policies of action CUSTOM have asked for.
	providers map[string]*mesh.ExtAuthz
	parts     mesh.Parts
	pods      []Pod

	byKey      map[objectKey]*Object
	namespaces map[string]*namespace
	nodes      map[string]*corev1.Node
	classes    map[string]*Object // GatewayClass
	accounts   map[mesh.Name]*Object
	gateways   map[mesh.Name]*Object
	waypoints  map[mesh.Name]*waypoint
	accountWps map[mesh.Name]*waypoint // by namespace and service account
	absentWps  map[mesh.Name]*waypoint // those that are named and do not exist
	serviceSeq []*service
	services   map[mesh.Name]*service // Kubernetes Services
	entries    []*entry               // ServiceEntries
	byHost     map[mesh.ServiceKey]*service
	selectors  map[selectorKey][]*service
	shared     map[string]map[mesh.ServiceKey]map[uint16]uint16 // by the services' numbers
	byAccount  map[mesh.ServiceKey]map[mesh.Name]bool           // the waypoints that serve an endpoint for its account
	grants     []*Object
	statuses   map[objectKey]*mesh.Status
	traffic    traffic
	celSeen    map[celCheck]error
	expanded   int // pods made from Deployments so far
}

// namespace is what a namespace says about the objects in it. There is one for
// every namespace that an object is in, whether or not it is written down.
type namespace struct {
	obj        *Object // nil when not written down
	labels     map[string]string
	ambient    bool
	waypoint   *waypoint // by istio.io/use-waypoint, nil for none
	permissive bool      // by the label of waypoint bindings
}

// index refuses names that are bad or taken, and fills the maps of what others
// refer to. It returns the objects that remain.
func (t *translator) index(objects []*Object) []*Object {
	kept := make([]*Object, 0, len(objects))
	for _, o := range objects {
		if o.flaws != nil {
			for _, f := range o.flaws.faults {
				t.bad(o, f.path, "%s", f.message)
			}
			if o.flaws.nameless {
				continue
			}
		}
		key := objectKey{o.Kind, o.Name}
		if first := t.byKey[key]; first != nil {
			t.bad(o, "metadata.name", "%s is defined twice: here and at %s:%d; keep one of them", o, first.Origin.File, first.Origin.Line)
			continue
		}
		t.byKey[key] = o
		kept = append(kept, o)
		switch v := o.Value.(type) {
		case *corev1.Namespace:
			t.namespaces[o.Name.Name] = &namespace{obj: o, labels: v.Labels}
		case *corev1.Node:
			t.nodes[o.Name.Name] = v
		case *gwv1.GatewayClass:
			t.classes[o.Name.Name] = o
		case *corev1.ServiceAccount:
			t.accounts[o.Name] = o
		case *gwv1.Gateway:
			t.gateways[o.Name] = o
		case *gwv1.ReferenceGrant:
			t.grants = append(t.grants, o)
			t.checkGrant(o, v)
		}
	}
	for _, o := range kept {
		if ns := o.Name.Namespace; ns != "" && t.namespaces[ns] == nil {
			t.namespaces[ns] = &namespace{}
		}
	}
	return kept
}

// namespace returns what is known of a namespace, never nil.
func (t *translator) namespace(name string) *namespace {
	if ns := t.namespaces[name]; ns != nil {
		return ns
	}
	return &namespace{}
}

// bindNamespaces reads the labels that enrol namespaces and bind waypoints.
func (t *translator) bindNamespaces() {
	for _, name := range sortedKeys(t.namespaces) {
		ns := t.namespaces[name]
		ns.ambient = t.opts.Enrol
		if ns.obj == nil {
			continue
		}
		switch mode := t.dataplaneMode(ns.obj, "metadata.labels", ns.labels); mode {
		case "ambient", "none":
			ns.ambient = mode == "ambient"
		}
		ns.waypoint, _ = t.boundWaypoint(ns.obj, "metadata.labels", ns.labels, name)
		ns.permissive = t.permissive(ns.obj, "metadata.labels", ns.labels, "")
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// dataplaneMode returns the istio.io/dataplane-mode label: "ambient", "none"
// or "" for absent; anything else is a problem.
func (t *translator) dataplaneMode(o *Object, path string, labels map[string]string) string {
	mode, ok := labels[labelMode]
	switch {
	case !ok || mode == "ambient" || mode == "none":
		return mode
	default:
		t.bad(o, path+"["+labelMode+"]", "%q is not a mode of the data plane; use ambient or none", mode)
		return ""
	}
}
