// Package source is where configuration enters the mesh.
//
//	source/file, source/localxds, … ──► mesh.Parts ──► Store.Publish ──► *mesh.Snapshot ──► proxies
//
// A source reads one kind of description (manifests on disk, a node proxy's
// local file) and turns it into mesh.Parts. The Store makes a Snapshot of them
// and hands it to whoever serves traffic. What is wrong with a description is
// a Problem: a place and a remedy. A source that finds one publishes nothing,
// so that the last good Snapshot serves on; except where a reference leads nowhere,
// of which no more than what depends on it suffers. What became of each route and
// policy is its mesh.Status.
//
// A Store may be used from any number of goroutines. Readers never wait for a
// publisher, and a reader that has stopped reading never holds one up.
package source
