package object

import (
	"strconv"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/strictyaml"
	"go.yaml.in/yaml/v3"
)

// Annotations of a waypoint's Gateway that say how it reads requests. The first two are Istio's.
const (
	annotationClientCert  = "ambient.istio.io/xfcc-include-client-identity"
	annotationProxyConfig = "proxy.istio.io/config"
	annotationUnderscores = "policy.cairnproxy.dev/header-underscores"
)

// maxTrustedProxies bounds numTrustedProxies: nobody has more proxies in a row.
const maxTrustedProxies = 32

// pathNormalization is MeshConfig's ProxyPathNormalization.
type pathNormalization struct {
	Normalization string `json:"normalization,omitempty"`
}

// readWaypoint says how a waypoint reads requests: as the mesh says, and its Gateway's
// annotations over that.
func (t *translator) readWaypoint(w *waypoint) {
	r := &w.model.Reading
	r.Paths, _ = mesh.ParsePathLevel(t.mesh.paths.Normalization) // checkMesh has told what is wrong
	r.TrustedProxies = uint8(min(t.mesh.trustedProxies, maxTrustedProxies))
	at := func(annotation string) (value, path string, ok bool) {
		value, ok = w.gw.Annotations[annotation]
		return value, "metadata.annotations[" + annotation + "]", ok
	}
	if value, path, ok := at(annotationClientCert); ok {
		var err error
		if r.ClientCert, err = strconv.ParseBool(value); err != nil {
			t.bad(w.obj, path, "%q is neither true nor false; use one of them", clip(value))
		}
	}
	if value, path, ok := at(annotationUnderscores); ok {
		switch value {
		case "allow":
		case "drop":
			r.Underscores = mesh.UnderscoresDrop
		case "reject":
			r.Underscores = mesh.UnderscoresReject
		default:
			t.bad(w.obj, path, "%q is not known; use allow, drop or reject", clip(value))
		}
	}
	if value, path, ok := at(annotationProxyConfig); ok {
		t.readProxyConfig(w, path, value)
	}
}

// readProxyConfig reads Istio's ProxyConfig in an annotation, of which one field counts.
func (t *translator) readProxyConfig(w *waypoint, path, text string) {
	var docs []*yaml.Node
	for _, chunk := range strictyaml.Split([]byte(text)) {
		nodes, err := strictyaml.Parse(chunk)
		if err != nil {
			t.bad(w.obj, path, "the ProxyConfig is not YAML: %s; correct it", clip(err.Error()))
			return
		}
		docs = append(docs, nodes...)
	}
	if len(docs) != 1 {
		t.bad(w.obj, path, "the ProxyConfig is %d documents; write one", len(docs))
		return
	}
	node := fieldAt(docs[0], "gatewayTopology.numTrustedProxies")
	if node == nil {
		return
	}
	var n uint32
	for _, e := range strictyaml.Decode(node, &n) {
		t.bad(w.obj, path, "gatewayTopology.numTrustedProxies: %s", e.Message)
		return
	}
	w.model.Reading.TrustedProxies = t.trustedProxies(w.obj, path, n)
}

func (t *translator) trustedProxies(o *Object, path string, n uint32) uint8 {
	if n > maxTrustedProxies {
		t.bad(o, path, "%d trusted proxies are more than there can be; use 0 to %d", n, maxTrustedProxies)
		return 0
	}
	return uint8(n)
}

// checkReading checks what the MeshConfig says of how requests are read.
func (t *translator) checkReading() {
	c := &t.mesh
	if c.object == nil {
		return
	}
	if _, ok := mesh.ParsePathLevel(c.paths.Normalization); !ok {
		t.bad(c.object, c.path("pathNormalization.normalization"), "%q is not known; use NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES", clip(c.paths.Normalization))
	}
	t.trustedProxies(c.object, c.path(fieldTrustedProxies), c.trustedProxies)
}
