package object

import (
	"reflect"

	"cairnproxy.dev/cairn/mesh"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwx "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// API groups that Cairn reads.
const (
	groupCore     = ""
	groupApps     = "apps"
	groupGateway  = "gateway.networking.k8s.io"
	groupNet      = "networking.istio.io"
	groupSecurity = "security.istio.io"
	groupGatewayX = "gateway.networking.x-k8s.io"
	groupPolicy   = "policy.cairnproxy.dev" // Cairn's own kinds
)

// Kind is one kind of object that Cairn uses.
type Kind struct {
	Group, Kind string
	versions    []string
	clusterWide bool
	value       func() any // a new, empty object
}

// kinds lists what Cairn uses. A new kind is one line here and the code in
// translate.go that looks at it.
var kinds = []*Kind{
	{groupCore, "Namespace", []string{"v1"}, true, func() any { return new(corev1.Namespace) }},
	{groupCore, "Node", []string{"v1"}, true, func() any { return new(corev1.Node) }},
	{groupCore, "Service", []string{"v1"}, false, func() any { return new(corev1.Service) }},
	{groupCore, "ServiceAccount", []string{"v1"}, false, func() any { return new(corev1.ServiceAccount) }},
	{groupCore, "ConfigMap", []string{"v1"}, false, func() any { return new(corev1.ConfigMap) }},
	{groupCore, "Secret", []string{"v1"}, false, func() any { return new(corev1.Secret) }},
	{groupCore, "Pod", []string{"v1"}, false, func() any { return new(corev1.Pod) }},
	{groupApps, "Deployment", []string{"v1"}, false, func() any { return new(appsv1.Deployment) }},
	{groupGateway, "Gateway", []string{"v1", "v1beta1"}, false, func() any { return new(gwv1.Gateway) }},
	{groupGateway, "GatewayClass", []string{"v1", "v1beta1"}, true, func() any { return new(gwv1.GatewayClass) }},
	{groupGateway, "HTTPRoute", []string{"v1", "v1beta1"}, false, func() any { return new(gwv1.HTTPRoute) }},
	{groupGateway, "GRPCRoute", []string{"v1", "v1alpha2"}, false, func() any { return new(gwv1.GRPCRoute) }},
	{groupGateway, "TCPRoute", []string{"v1", "v1alpha2"}, false, func() any { return new(gwv1.TCPRoute) }},
	{groupGateway, "TLSRoute", []string{"v1", "v1alpha3", "v1alpha2"}, false, func() any { return new(gwv1.TLSRoute) }},
	{groupGateway, "BackendTLSPolicy", []string{"v1", "v1alpha3"}, false, func() any { return new(gwv1.BackendTLSPolicy) }},
	{groupGatewayX, "XBackendTrafficPolicy", []string{"v1alpha1"}, false, func() any { return new(gwx.XBackendTrafficPolicy) }},
	{groupGateway, "ReferenceGrant", []string{"v1", "v1beta1"}, false, func() any { return new(gwv1.ReferenceGrant) }},
	{groupNet, "ServiceEntry", []string{"v1", "v1beta1", "v1alpha3"}, false, func() any { return new(ServiceEntry) }},
	{groupNet, "WorkloadEntry", []string{"v1", "v1beta1", "v1alpha3"}, false, func() any { return new(WorkloadEntry) }},
	{groupNet, "DestinationRule", []string{"v1", "v1beta1", "v1alpha3"}, false, func() any { return new(DestinationRule) }},
	{groupPolicy, "AccessPolicy", []string{"v1alpha1"}, false, func() any { return new(AccessPolicy) }},
	{groupPolicy, "TrafficPolicy", []string{"v1alpha1"}, false, func() any { return new(TrafficPolicy) }},
	{groupSecurity, "AuthorizationPolicy", []string{"v1", "v1beta1"}, false, func() any { return new(AuthorizationPolicy) }},
	{groupSecurity, "RequestAuthentication", []string{"v1", "v1beta1"}, false, func() any { return new(RequestAuthentication) }},
	{groupSecurity, "PeerAuthentication", []string{"v1", "v1beta1"}, false, func() any { return new(PeerAuthentication) }},
}

func kindOf(group, kind string) *Kind {
	for _, k := range kinds {
		if k.Group == group && k.Kind == kind {
			return k
		}
	}
	return nil
}

// Object is one decoded object. It must not be changed.
type Object struct {
	Kind *Kind
	// Name's Namespace is "" for kinds that belong to no namespace and
	// "default" where the object names none.
	Name mesh.Name
	// Value is a pointer to the published Go type, such as *gwv1.HTTPRoute, or
	// what is kept of it where there may be very many.
	Value any
	// Origin is the place of the object's first line.
	Origin mesh.Origin

	file  *File
	place place
	flaws *flaws // nil for none
}

// flaws are what is known to be wrong with an object since it was decoded.
type flaws struct {
	// unread are the fields whose text could not be read: nothing more is said
	// about the zero values that stand in them.
	unread []string
	// faults are what is wrong with the metadata; nameless objects are not used.
	faults   []fault
	nameless bool
}

// flaw returns o's flaws, to add to.
func (o *Object) flaw() *flaws {
	if o.flaws == nil {
		o.flaws = &flaws{}
	}
	return o.flaws
}

// fault is something wrong with one field.
type fault struct{ path, message string }

// place is where in its file an object stands.
type place struct {
	chunk, doc int32
	item       int32 // its number in a List, from 1; 0 for one that is in none
}

// prefix is the path of an object in a List: "items[3]".
func (p place) prefix() string { return elem("items", int(p.item)-1) }

// String returns the object's kind and name, like "HTTPRoute default/reviews".
func (o *Object) String() string { return describe(o.Kind.Kind, o.Name) }

func describe(kind string, n mesh.Name) string {
	if n.Namespace == "" {
		return kind + " " + n.Name
	}
	return kind + " " + n.String()
}

// meta returns the object's metadata.
func (o *Object) meta() metav1.Object { return o.Value.(metav1.Object) }

// New makes an Object of a value that did not come from text. It returns nil
// for a value of a type that Cairn does not use.
func New(value metav1.Object, origin mesh.Origin) *Object {
	for _, k := range kinds {
		if sameType(k.value(), value) {
			o := &Object{Kind: k, Name: nameOf(k, value), Value: value, Origin: origin}
			o.checkMeta()
			o.compact(nil)
			return o
		}
	}
	return nil
}

// compact replaces the value by what the translation needs of it, where there
// may be very many.
func (o *Object) compact(in *interner) {
	switch v := o.Value.(type) {
	case *corev1.Pod:
		o.Value = newPodObject(o, v, in)
	case *corev1.Service:
		o.Value = newServiceObject(v, in)
	case *corev1.ConfigMap:
		o.Value = newConfigMap(v)
	case *corev1.Secret:
		o.Value = newSecret(v)
	}
}

func sameType(a, b any) bool { return reflect.TypeOf(a) == reflect.TypeOf(b) }

func nameOf(k *Kind, m metav1.Object) mesh.Name {
	n := mesh.Name{Namespace: m.GetNamespace(), Name: m.GetName()}
	switch {
	case k.clusterWide:
		n.Namespace = ""
	case n.Namespace == "":
		n.Namespace = "default"
	}
	return n
}
