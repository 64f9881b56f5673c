package file

import (
	"slices"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
)

// LoadWith reads the manifests of paths with those of over in their place: an object of over replaces the one
// of the same kind and name, and is added where there is none. Nothing is followed.
func LoadWith(paths, over []string, o object.Options) Result {
	base, add := look(paths), look(over)
	var r reader
	files, problems, _ := r.read(base.files)
	added, more, _ := r.read(add.files)
	type id struct {
		kind *object.Kind
		name mesh.Name
	}
	ours := map[id]bool{}
	for _, f := range added {
		for _, obj := range f.Objects {
			ours[id{obj.Kind, obj.Name}] = true
		}
	}
	var all []*object.File
	for _, f := range files {
		if slices.ContainsFunc(add.files, func(a found) bool { return a.path == f.Path }) {
			continue // it is among the manifests already
		}
		kept := *f
		kept.Objects = slices.DeleteFunc(slices.Clone(f.Objects), func(obj *object.Object) bool { return ours[id{obj.Kind, obj.Name}] })
		all = append(all, &kept)
	}
	problems = slices.Concat(base.problems, add.problems, problems, more)
	return translate(append(all, added...), problems, object.NewTranslator(o))
}
