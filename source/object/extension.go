package object

import (
	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// groupPolicy is the API group of Cairn's own kinds.
const groupPolicy = "policy.cairnproxy.dev"

// extension returns what the TrafficPolicy that an ExtensionRef of o names says of
// requests and of backends. ok is false when there is none, or one that is not
// valid; then that has been told, and requests that would have passed it must be refused
// (Gateway API: a filter that cannot be resolved must not be skipped).
func (t *translator) extension(o *Object, path string, ref *gwv1.LocalObjectReference) (r *mesh.RequestPolicy, b *mesh.BackendPolicy, ok bool) {
	if ref.Group != groupPolicy || ref.Kind != "TrafficPolicy" {
		t.unresolved(o, path+".kind", reasonInvalidKind, "an extension of kind %q (group %q) is not known; use a TrafficPolicy (group %s)", clip(string(ref.Kind)), clip(string(ref.Group)), groupPolicy)
		return nil, nil, false
	}
	t.unresolved(o, path+".name", reasonNotFound, "TrafficPolicy %s does not exist; correct the name or add it",
		mesh.Name{Namespace: o.Name.Namespace, Name: string(ref.Name)})
	return nil, nil, false
}

// routePolicy returns what the policies attached to the route o, and to its rule of that name
// ("" for one without a name), say of requests; nil for nothing.
func (t *translator) routePolicy(_ *Object, _ string) *mesh.RequestPolicy { return nil }
