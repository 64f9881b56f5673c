// Package strictyaml reads YAML into Go values and says exactly where it is
// wrong.
//
//	bytes ─Split─► chunks ─Parse─► node trees ─Decode─► Go values + []Error
//
// It differs from the usual decoders in four ways. Every mistake of a document
// is reported, not only the first. Each carries the line and the path of the
// offending field, so that a message can point at it; Line finds the line of a
// path later, for mistakes that only a look at the whole shows. Nothing is
// guessed: an unknown field, a key given twice, a number where a string is
// wanted are errors. And hostile input costs no more than its size: the depth
// of a document is limited, and so is what its aliases may expand to.
//
// Structs are filled by their json tags, as Kubernetes types carry them. A
// type that implements NodeUnmarshaler or json.Unmarshaler reads itself.
//
// Functions keep no state and may be called from any goroutine.
package strictyaml
