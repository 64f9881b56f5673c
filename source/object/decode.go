package object

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/strictyaml"
	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxFileProblems is how many problems are told of one file.
	maxFileProblems = 200
	// maxDocuments is how many documents one file may hold.
	maxDocuments = 100_000
)

// File is what one file of manifests holds. It must not be changed.
type File struct {
	Path    string
	Objects []*Object
	// Ignored are the objects of kinds that Cairn does not use.
	Ignored []Ignored
	// Problems are what is wrong with the text by itself.
	Problems []source.Problem

	text   func() []byte // to find the line of a field later; nil for what is no longer there
	chunks []chunk
	seed   maphash.Seed // of the chunks' sums
	share  *interner
}

// chunk is what became of one document of a file.
type chunk struct {
	sum              uint64 // of its text
	line             int32  // before it
	objects, ignored int32  // how many it gave
	flawed           bool   // it is to be decoded again, to tell of its problems
}

// Ignored is an object of a kind that Cairn does not use.
type Ignored struct {
	Group, Kind string
	File        string
	Line        int
}

// Decode reads manifests: YAML or JSON, several documents in one file, and
// `kind: List`. path is what problems call the file; data belongs to the File
// from here on. It never fails as a whole: what cannot be read is in Problems.
func Decode(path string, data []byte) *File { return Redecode(path, data, nil) }

// Redecode is Decode for a file of which old is an earlier state, nil for none:
// documents whose text has not changed are taken from it.
func Redecode(path string, data []byte, old *File) *File {
	f := &File{Path: path, text: func() []byte { return data }, share: newInterner(), seed: maphash.MakeSeed()}
	defer func() { f.share = nil }()
	if old != nil {
		f.seed = old.seed
	}
	known := old.bySum()
	chunks := strictyaml.Split(data)
	f.chunks = make([]chunk, 0, len(chunks))
	for i, c := range chunks {
		if i == maxDocuments {
			f.problem("", strictyaml.Error{Line: c.Line + 1, Message: fmt.Sprintf("the file holds more than %d documents; split it", maxDocuments)})
			break
		}
		sum := maphash.Bytes(f.seed, c.Data)
		if k, ok := known[sum]; ok {
			f.take(k, c.Line, i)
		} else {
			f.chunk(c, sum, i)
		}
	}
	return f
}

// chunk decodes the documents of one chunk.
func (f *File) chunk(c strictyaml.Chunk, sum uint64, i int) {
	objects, ignored, problems := len(f.Objects), len(f.Ignored), len(f.Problems)
	docs, err := strictyaml.Parse(c)
	for j, doc := range docs {
		f.document(doc, place{chunk: int32(i), doc: int32(j)})
	}
	if err != nil {
		e := strictyaml.Error{Message: err.Error()}
		errors.As(err, &e)
		f.problem("", e)
	}
	f.chunks = append(f.chunks, chunk{
		sum: sum, line: int32(c.Line), objects: int32(len(f.Objects) - objects), ignored: int32(len(f.Ignored) - ignored),
		flawed: err != nil || len(f.Problems) > problems || problems >= maxFileProblems,
	})
}

// knownChunk is a chunk of an earlier state of the file with what it gave.
type knownChunk struct {
	chunk
	list    []*Object
	skipped []Ignored
}

// bySum finds the chunks of f that need not be decoded again.
func (f *File) bySum() map[uint64]knownChunk {
	if f == nil {
		return nil
	}
	known := make(map[uint64]knownChunk, len(f.chunks))
	objects, ignored := f.Objects, f.Ignored
	for _, c := range f.chunks {
		if !c.flawed {
			known[c.sum] = knownChunk{c, objects[:c.objects], ignored[:c.ignored]}
		}
		objects, ignored = objects[c.objects:], ignored[c.ignored:]
	}
	return known
}

// take uses a chunk of the earlier state, which now begins after line, again.
func (f *File) take(k knownChunk, line, i int) {
	moved := line - int(k.line)
	for _, o := range k.list {
		c := *o
		c.Origin.Line += moved
		c.file, c.place.chunk = f, int32(i)
		f.Objects = append(f.Objects, &c)
	}
	for _, ig := range k.skipped {
		ig.Line += moved
		f.Ignored = append(f.Ignored, ig)
	}
	k.line = int32(line)
	f.chunks = append(f.chunks, k.chunk)
}

// Forget lets go of the file's text, which is read again when a problem is to be
// told with its line. text returns nil when the file is not the same any more.
func (f *File) Forget(text func() []byte) { f.text = text }

func (f *File) problem(object string, e strictyaml.Error) {
	if len(f.Problems) < maxFileProblems {
		f.Problems = append(f.Problems, source.Problem{File: f.Path, Line: e.Line, Object: object, Field: e.Path, Message: e.Message})
	}
}

func (f *File) document(n *yaml.Node, at place) {
	apiVersion, kind := strictyaml.Text(n, "apiVersion"), strictyaml.Text(n, "kind")
	if n.Kind != yaml.MappingNode || apiVersion == "" || kind == "" {
		field := ""
		if n.Kind == yaml.MappingNode {
			field = "kind"
			if kind != "" {
				field = "apiVersion"
			}
		}
		f.problem("", strictyaml.Error{
			Line: n.Line, Path: field,
			Message: "this document is not a Kubernetes object; give it apiVersion and kind, or move it out of the folder",
		})
		return
	}
	if items := strictyaml.Field(n, "items"); strings.HasSuffix(kind, "List") && items != nil && items.Kind == yaml.SequenceNode {
		if at.item != 0 {
			f.problem("", strictyaml.Error{Line: n.Line, Path: at.prefix(), Message: "a List inside a List is not read; put its items in the outer one"})
			return
		}
		for i, item := range items.Content {
			at.item = int32(i) + 1
			f.document(item, at)
		}
		return
	}
	f.object(n, apiVersion, kind, at)
}

func (f *File) object(n *yaml.Node, apiVersion, kind string, at place) {
	group, version, found := strings.Cut(apiVersion, "/")
	if !found {
		group, version = "", apiVersion
	}
	k := kindOf(group, kind)
	if k == nil {
		if hint := misspelt(group, kind); hint != "" {
			f.problem("", strictyaml.Error{Line: strictyaml.Line(n, "kind"), Path: "kind", Message: hint})
			return
		}
		f.Ignored = append(f.Ignored, Ignored{group, kind, f.Path, n.Line})
		return
	}
	o := &Object{Kind: k, Value: k.value(), Origin: mesh.Origin{Source: "file", File: f.Path, Line: n.Line}, file: f, place: at}
	errs := strictyaml.Decode(n, o.Value)
	if k.Kind == "Secret" {
		hide(errs)
	}
	o.Name = nameOf(k, o.Value.(metav1.Object))
	if !slices.Contains(k.versions, version) {
		errs = append(errs, strictyaml.Error{
			Line: strictyaml.Line(n, "apiVersion"), Path: "apiVersion",
			Message: fmt.Sprintf("version %s of %s is not known; use %s", version, kind, strings.TrimPrefix(k.Group+"/"+k.versions[0], "/")),
		})
	}
	slices.SortStableFunc(errs, func(a, b strictyaml.Error) int { return cmp.Compare(a.Line, b.Line) })
	for _, e := range errs {
		f.problem(o.String(), e)
		o.flaw().unread = append(o.flaw().unread, e.Path)
	}
	o.checkMeta()
	o.Name.Namespace = f.share.text(o.Name.Namespace)
	o.compact(f.share)
	f.Objects = append(f.Objects, o)
}

// misspelt recognises a kind of ours that is in the wrong group or has a slip
// of the finger in it: to ignore those silently would be unkind. Kinds that
// merely look similar are left alone.
func misspelt(group, kind string) string {
	ours := false
	for _, k := range kinds {
		ours = ours || k.Group == group
	}
	if !ours || group == groupNet && kind == "Gateway" { // Istio has a Gateway of its own there
		return ""
	}
	for _, k := range kinds {
		where := strings.TrimPrefix(k.Group+"/"+k.versions[0], "/")
		if k.Kind == kind {
			return fmt.Sprintf("there is no %s in this API group; use apiVersion %s", kind, where)
		}
		if k.Group == group && strictyaml.Distance(k.Kind, kind, 2) == 1 {
			return fmt.Sprintf("there is no kind %q in this API group; did you mean %q?", kind, k.Kind)
		}
	}
	return ""
}
