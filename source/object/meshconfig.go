package object

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/strictyaml"
	"go.yaml.in/yaml/v3"
)

// meshConfigName and meshConfigKey are where Istio keeps its MeshConfig: under
// this key of the ConfigMap of this name, in the root namespace.
const (
	meshConfigName = "istio"
	meshConfigKey  = "mesh"
)

// meshConfig is what is read of Istio's MeshConfig (istio.mesh.v1alpha1). It
// has many more fields, about other components; they are passed over.
type meshConfig struct {
	// object is the ConfigMap, for problems and notices; nil where there is none.
	object *Object

	trustDomainAliases []string
	paths              pathNormalization
	trustedProxies     uint32
	extensionProviders []extensionProvider
}

// fieldTrustedProxies is how many proxies stand before the mesh's gateways.
const fieldTrustedProxies = "defaultConfig.gatewayTopology.numTrustedProxies"

// fields are the fields that are read, in order, by their names in MeshConfig.
// Within each, reading is strict: what it does not know is a problem.
func (c *meshConfig) fields() []meshField {
	return []meshField{
		{"trustDomainAliases", &c.trustDomainAliases},
		{"pathNormalization", &c.paths},
		{fieldTrustedProxies, &c.trustedProxies},
		{"extensionProviders", &c.extensionProviders},
	}
}

type meshField struct {
	name string
	into any // points to what Decode fills
}

// path is where a field of the MeshConfig stands in its object.
func (*meshConfig) path(field string) string { return "data." + meshConfigKey + "." + field }

// readMeshConfig reads the MeshConfig, if there is one. A field that cannot be
// read refuses the change, as it would be refused in an object of its own.
func (t *translator) readMeshConfig() {
	o := t.byKey[objectKey{kindConfigMap, mesh.Name{Namespace: t.opts.RootNamespace, Name: meshConfigName}}]
	if o == nil {
		return
	}
	v, ok := o.Value.(*configMap)
	if !ok || v.mesh == "" {
		return
	}
	c := &t.mesh
	c.object = o
	for i, chunk := range strictyaml.Split([]byte(v.mesh)) {
		docs, err := strictyaml.Parse(chunk)
		switch {
		case err != nil:
			t.bad(o, "data."+meshConfigKey, "the MeshConfig is not YAML: %s; correct it", clip(err.Error()))
			return
		case i > 0 || len(docs) > 1:
			t.bad(o, "data."+meshConfigKey, "the MeshConfig has more than one document; keep one")
			return
		}
		for _, f := range c.fields() {
			if node := fieldAt(docs[0], f.name); node != nil {
				for _, e := range strictyaml.Decode(node, f.into) {
					at := c.path(f.name)
					if e.Path != "" {
						at += joint(e.Path) + e.Path
					}
					t.bad(o, at, "%s", e.Message)
				}
			}
		}
	}
}

// fieldAt returns the field at a path of names with dots between them, or nil.
func fieldAt(n *yaml.Node, path string) *yaml.Node {
	for name := range strings.SplitSeq(path, ".") {
		n = strictyaml.Field(n, name)
	}
	return n
}

// joint is what stands between a field and a path below it.
func joint(path string) string {
	if path[0] == '[' {
		return ""
	}
	return "."
}
