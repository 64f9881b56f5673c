package object

import (
	"fmt"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/strictyaml"
	"go.yaml.in/yaml/v3"
)

// maxProblems is how many problems one translation tells of, and how many of
// those for which the rest is served all the same.
const maxProblems = 1000

// Notice is something that its author should know and that is not a mistake.
type Notice struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
}

// String returns the notice on one line.
func (n Notice) String() string {
	return source.Problem{File: n.File, Line: n.Line, Object: n.Object, Message: n.Message}.String()
}

// Notices tells of kinds that Cairn does not use, each kind once.
func Notices(ignored []Ignored) []Notice {
	type count struct {
		first Ignored
		n     int
	}
	var order []string
	seen := map[string]*count{}
	for _, ig := range ignored {
		key := ig.Group + "/" + ig.Kind
		c := seen[key]
		if c == nil {
			c = &count{first: ig}
			seen[key] = c
			order = append(order, key)
		}
		c.n++
	}
	slices.Sort(order)
	var out []Notice
	for _, key := range order {
		c := seen[key]
		what := c.first.Kind
		if c.first.Group != "" {
			what += " (" + c.first.Group + ")"
		}
		objects := "1 object is"
		if c.n > 1 {
			objects = fmt.Sprintf("%d objects are", c.n)
		}
		out = append(out, Notice{
			File: c.first.File, Line: c.first.Line,
			Message: fmt.Sprintf("kind %s is not used by Cairn: %s ignored", what, objects),
		})
	}
	return out
}

// report gathers what a translation has to say.
type report struct {
	pending []pending
	notices []Notice
	// said counts the problems, with those that were too many to be kept, and served
	// those of pending that do not refuse the whole.
	said, served int
	// trail are the problems since begin.
	trail []pending
}

// pending is a problem whose line is still to be found.
type pending struct {
	obj           *Object
	path, message string
	// reason is a word of Gateway API's for it, and served is source.Problem.Served.
	reason string
	served bool
	// harmless, of one that is served: what it is about is left out, and all else of its rule works.
	harmless bool
}

// bad records a problem with the field at path of o, for which all is refused.
func (r *report) bad(o *Object, path, format string, args ...any) {
	r.tell(pending{obj: o, path: path, message: fmt.Sprintf(format, args...), reason: reasonUnsupported})
}

// incompatible is bad, for things that are good by themselves and exclude each other.
func (r *report) incompatible(o *Object, path, format string, args ...any) {
	r.tell(pending{obj: o, path: path, message: fmt.Sprintf(format, args...), reason: reasonIncompatible})
}

// unresolved records a problem for which the rest is served all the same: the field at
// path of o leads to nothing, or to what it may not lead to.
func (r *report) unresolved(o *Object, path, reason, format string, args ...any) {
	r.tell(pending{obj: o, path: path, message: fmt.Sprintf(format, args...), reason: reason, served: true})
}

func (r *report) tell(p pending) {
	if p.obj.flaws != nil && slices.ContainsFunc(p.obj.flaws.unread, func(field string) bool {
		rest, ok := strings.CutPrefix(p.path, field)
		return ok && field != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}) {
		return // it is told already
	}
	r.said++
	r.trail = append(r.trail, p)
	switch n := len(r.pending) - r.served; {
	case p.served && r.served < maxProblems:
		r.served++
	case !p.served && n < maxProblems:
	default:
		return
	}
	r.pending = append(r.pending, p)
}

// begin starts a new trail.
func (r *report) begin() { r.trail = r.trail[:0] }

// note records a notice about o.
func (r *report) note(o *Object, format string, args ...any) {
	if len(r.notices) < maxProblems {
		r.notices = append(r.notices, Notice{o.Origin.File, o.Origin.Line, o.String(), fmt.Sprintf(format, args...)})
	}
}

// problems returns what was recorded, with lines, ordered by place. Lines are
// found by reading the text again: problems are rare, and to keep syntax trees
// would cost many times the size of the text.
func (r *report) problems() []source.Problem {
	slices.SortStableFunc(r.pending, func(a, b pending) int {
		if c := strings.Compare(a.obj.Origin.File, b.obj.Origin.File); c != 0 {
			return c
		}
		return a.obj.Origin.Line - b.obj.Origin.Line
	})
	var find finder
	out := make([]source.Problem, 0, len(r.pending))
	for _, p := range r.pending {
		out = append(out, source.Problem{File: p.obj.Origin.File, Line: find.line(p.obj, p.path), Object: p.obj.String(), Field: p.path, Message: p.message, Served: p.served})
	}
	slices.SortStableFunc(out, source.Problem.Compare)
	return slices.Compact(out)
}

// finder finds lines; it keeps the document that it looked at last.
type finder struct {
	file   *File
	chunks []strictyaml.Chunk
	chunk  int
	docs   []*yaml.Node
}

func (f *finder) line(o *Object, path string) int {
	if o.file == nil {
		return o.Origin.Line
	}
	if f.file != o.file {
		f.file, f.chunks, f.chunk = o.file, strictyaml.Split(o.file.text()), -1
	}
	if int(o.place.chunk) >= len(f.chunks) { // the text is gone
		return o.Origin.Line
	}
	if chunk := int(o.place.chunk); f.chunk != chunk {
		f.chunk = chunk
		f.docs, _ = strictyaml.Parse(f.chunks[f.chunk])
	}
	if o.place.item != 0 {
		path = o.place.prefix() + "." + path
	}
	return strictyaml.Line(f.docs[o.place.doc], path)
}
