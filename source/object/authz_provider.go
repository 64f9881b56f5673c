package object

import "cairnproxy.dev/cairn/mesh"

// authzProvider finds the provider of a CUSTOM policy among MeshConfig's extensionProviders; nil, which
// refuses what the policy matches, for one that is not there.
//
//nolint:unparam // no provider is read from anywhere yet
func (t *translator) authzProvider(o *Object, path, name string) *mesh.ExtAuthz {
	t.unresolved(o, path, reasonNotFound, "there is no extension provider %q; add it to MeshConfig's extensionProviders, or correct the name", clip(name))
	return nil
}
