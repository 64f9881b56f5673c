package object

import (
	"strconv"

	"cairnproxy.dev/cairn/mesh"
)

func (t *translator) peerAuthentication(o *Object, v *PeerAuthentication) *mesh.PeerAuthentication {
	p := &mesh.PeerAuthentication{
		Name: o.Name, Origin: o.Origin, Created: v.CreationTimestamp.Time,
		Selector: t.policySelector(o, v.Spec.Selector),
	}
	if len(p.Selector) > 0 && o.Name.Namespace == t.opts.RootNamespace {
		t.note(o, "in the root namespace a PeerAuthentication with a selector has no effect; move it to the namespace of its workloads")
	}
	if len(p.Selector) == 0 {
		t.notePeerAuth(o, v)
	}
	if v.Spec.Mtls != nil {
		p.Mode = t.mtlsMode(o, "spec.mtls.mode", v.Spec.Mtls.Mode)
	}
	if len(v.Spec.PortLevelMtls) == 0 {
		return p
	}
	if len(p.Selector) == 0 {
		t.bad(o, "spec.portLevelMtls", "modes of single ports need a selector; add selector.matchLabels")
	}
	p.Ports = map[uint16]mesh.MTLSMode{}
	for n, m := range v.Spec.PortLevelMtls {
		path := "spec.portLevelMtls[" + strconv.FormatUint(uint64(n), 10) + "]"
		if port := t.port(o, path, int64(n)); port != 0 {
			p.Ports[port] = t.mtlsMode(o, path+".mode", m.Mode)
		}
	}
	return p
}

// notePeerAuth tells of policies of a whole namespace, or the mesh, that do not count.
func (t *translator) notePeerAuth(o *Object, v *PeerAuthentication) {
	for _, p := range t.parts.PeerAuth {
		if p.Name.Namespace != o.Name.Namespace || len(p.Selector) > 0 {
			continue
		}
		counts, not := p.Name, o.Name
		if c := v.CreationTimestamp.Compare(p.Created); c < 0 || c == 0 && o.Name.Name < p.Name.Name {
			counts, not = not, counts
		}
		t.note(o, "of two policies of one level the older counts, or the first by name: %s, and not %s; remove one", counts, not)
		return
	}
}

func (t *translator) mtlsMode(o *Object, path, s string) mesh.MTLSMode {
	switch s {
	case "", "UNSET":
		return mesh.MTLSUnset
	case "PERMISSIVE":
		return mesh.MTLSPermissive
	case "STRICT":
		return mesh.MTLSStrict
	case "DISABLE":
		return mesh.MTLSDisable
	}
	t.bad(o, path, "%q is not a mode; use STRICT, PERMISSIVE, DISABLE or UNSET", clip(s))
	return mesh.MTLSUnset
}
