package object

import (
	"cmp"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// extension returns what the TrafficPolicy that an ExtensionRef of o names says of
// requests and of backends. ok is false when there is none, or one that is not
// valid; then that has been told, and requests that would have passed it must be refused
// (Gateway API: a filter that cannot be resolved must not be skipped).
func (t *translator) extension(o *Object, path string, ref *gwv1.LocalObjectReference) (b *policyBody, ok bool) {
	if ref.Group != groupPolicy || ref.Kind != "TrafficPolicy" {
		t.unresolved(o, path+".kind", reasonInvalidKind, "an extension of kind %q (group %q) is not known; use a TrafficPolicy (group %s)", clip(string(ref.Kind)), clip(string(ref.Group)), groupPolicy)
		return nil, false
	}
	name := mesh.Name{Namespace: o.Name.Namespace, Name: string(ref.Name)}
	b = t.traffic.bodies[name]
	switch {
	case b == nil:
		t.unresolved(o, path+".name", reasonNotFound, "TrafficPolicy %s does not exist; correct the name or add it", name)
		return nil, false
	case b.invalid != "":
		t.unresolved(o, path+".name", reasonInvalid, "TrafficPolicy %s is not valid (%s); correct it", name, b.invalid)
		return nil, false
	}
	// What has no meaning here is not passed over in silence.
	of, where, says := "requests", "a rule", b.saysOfRequests()
	if !strings.Contains(path, ".backendRefs[") {
		of, where, says = "the way to endpoints", "a backendRef", b.saysOfBackend()
	}
	if len(says) > 0 {
		t.note(o, "TrafficPolicy %s says something of %s (%s), which has no effect in %s: that is for %s", name, of, strings.Join(says, ", "), path, where)
	}
	return b, true
}

// backendPolicy is what a backendRef to s says of the way there: by the extension's policy, and the
// subset that it names.
func (t *translator) backendPolicy(o *Object, path string, s *service, b *policyBody) *mesh.BackendPolicy {
	if b == nil {
		return nil
	}
	if b.subset == "" || s == nil {
		return b.backend
	}
	m := t.subset(s, b.subset)
	if m == nil {
		t.unresolved(o, path, reasonNotFound, "no DestinationRule for %s has the subset %q that the policy names; add it, or correct the name", s.model.Key.Hostname, b.subset)
		return b.backend
	}
	out := b.backend
	if m.all != nil {
		out = out.Over(m.all.backend)
	}
	return (&mesh.BackendPolicy{Subset: m.labels}).Over(out)
}

// requestPolicy is what b says of requests; nil where there is no b.
func (b *policyBody) requestPolicy() *mesh.RequestPolicy {
	if b == nil {
		return nil
	}
	return b.requests
}

// over lays b over another body.
func (b *policyBody) over(base *policyBody) *policyBody {
	if b == nil || base == nil {
		return cmp.Or(b, base)
	}
	return &policyBody{requests: b.requests.Over(base.requests), backend: b.backend.Over(base.backend), subset: cmp.Or(b.subset, base.subset)}
}
