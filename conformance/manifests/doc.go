// Package manifests reads the Kubernetes manifests that a waypoint runs on
// and says in a few words what they ask of any proxy in its place. Cairn reads
// the same files by itself; the other contenders of the benchmark are
// configured from what is read here, so that all are asked to do the same.
//
// It knows the objects and fields that the benchmark writes and no others. What
// it does not know is an error: a rule that one proxy applies and another never
// heard of would be a comparison of two different things.
package manifests
