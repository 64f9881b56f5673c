package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth is how deep collections may nest.
	maxDepth = 100
	// maxErrors is how many errors one call of Decode returns.
	maxErrors = 50
	// aliasBudget is how many nodes a document may visit beyond those that are
	// written in it, by way of aliases.
	aliasBudget = 100_000
)

// Error is one mistake in a document.
type Error struct {
	// Line counts from 1 in the file; 0 when it is not known.
	Line int
	// Path is the field, like "spec.ports[0].port"; "" for the document.
	Path string
	// Message says what is wrong and what to do.
	Message string
}

// Error returns the message with its place.
func (e Error) Error() string {
	s := e.Message
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, s)
	}
	return s
}

// Chunk is the part of a file between two "---" markers.
type Chunk struct {
	// Line is the number of lines before the chunk.
	Line int
	Data []byte
}

// Split cuts a file at its document markers, so that a syntax error in one
// document does not hide the others. Chunks share data's memory.
func Split(data []byte) []Chunk {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var chunks []Chunk
	start, startLine := 0, 0
	directive := false // the chunk so far is "%YAML 1.2" and the like, which belongs to what follows
	for pos, line := 0, 0; pos < len(data); line++ {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		text := data[pos:end]
		switch {
		case isMarker(text):
			if pos > start && !directive {
				chunks = append(chunks, Chunk{startLine, data[start:pos]})
				start, startLine = pos, line
			}
			directive = false
		case text[0] == '%' && blank(data[start:pos]):
			directive = true
		}
		pos = end
	}
	if start < len(data) {
		chunks = append(chunks, Chunk{startLine, data[start:]})
	}
	return chunks
}

func isMarker(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// blank reports whether data holds only comments, white space and document
// markers.
func blank(data []byte) bool {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && string(line) != "---" {
			return false
		}
	}
	return true
}

// Parse returns the documents of a chunk; documents without content are left
// out. The nodes' lines are those of the file. The error, if any, is an Error;
// the documents before it are returned too.
func Parse(c Chunk) (docs []*yaml.Node, err error) {
	defer func() {
		// The YAML library has crashed on malformed input before; a file must not
		// take the process down with it.
		if r := recover(); r != nil {
			err = Error{Line: c.Line + 1, Message: fmt.Sprintf("cannot be read as YAML (%v); check the document's syntax", r)}
		}
	}()
	if blank(c.Data) {
		return nil, nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(c.Data))
	for {
		var doc yaml.Node
		switch err := dec.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return docs, syntaxError(c, err)
		}
		if len(doc.Content) != 1 {
			continue
		}
		root := doc.Content[0]
		if err := place(root, c.Line, 0); err != nil {
			return docs, err
		}
		if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
			continue
		}
		docs = append(docs, root)
	}
}

// place shifts the lines of a tree to those of the file and limits its depth.
func place(n *yaml.Node, shift, depth int) error {
	n.Line += shift
	if depth > maxDepth {
		return Error{Line: n.Line, Message: fmt.Sprintf("nests deeper than %d levels; flatten it", maxDepth)}
	}
	for _, c := range n.Content {
		if err := place(c, shift, depth+1); err != nil {
			return err
		}
	}
	return nil
}

var lineOf = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxError places an error of the YAML library, whose lines need help: those
// of its scanner are right, those of its parser are one too small, and where
// the parser names the block that it was in the mistake may be far below.
func syntaxError(c Chunk, err error) Error {
	text, line := cutLine(err)
	switch what, ok := strings.CutPrefix(text, "did not find expected "); {
	case ok && (what == "key" || strings.HasSuffix(what, "indicator")):
		line = firstBadLine(c, text, line+1)
	case ok && (what == "node content" || what[0] == '<' || what[0] == '\''):
		line++
	case line == 0:
		line = firstBadLine(c, text, 1)
	}
	if last := bytes.Count(bytes.TrimSuffix(c.Data, []byte{'\n'}), []byte{'\n'}) + 1; line > last {
		line = last // the end of the text counts as a line of its own
	}
	return Error{Line: c.Line + line, Message: "YAML syntax: " + text + "; check the indentation, quotes and colons here and on the line before"}
}

func cutLine(err error) (text string, line int) {
	m := lineOf.FindStringSubmatch(err.Error())
	if m == nil {
		return err.Error(), 0
	}
	line, _ = strconv.Atoi(m[1])
	return m[2], line
}

// firstBadLine finds the first line with which the chunk fails as it does: the
// parser reads forward, so what comes later does not matter. Chunks too large
// to be parsed again and again keep the line that the library named.
func firstBadLine(c Chunk, text string, named int) int {
	const most = 256 << 10
	if len(c.Data) > most {
		return named
	}
	ends := []int{0}
	for i, b := range c.Data {
		if b == '\n' && i+1 < len(c.Data) {
			ends = append(ends, i+1)
		}
	}
	ends = append(ends, len(c.Data))
	line := sort.Search(len(ends)-1, func(i int) bool {
		var doc yaml.Node
		err := yaml.Unmarshal(c.Data[:ends[i]], &doc)
		if err == nil {
			return false
		}
		same, _ := cutLine(err)
		return same == text
	})
	return min(max(line, 1), len(ends)-1)
}

// Field returns the value of a mapping's key, or nil.
func Field(n *yaml.Node, key string) *yaml.Node {
	_, v := lookup(n, key)
	return v
}

// Text returns the value of a mapping's key when it is a scalar, or "".
func Text(n *yaml.Node, key string) string {
	if v := target(Field(n, key)); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

func lookup(n *yaml.Node, key string) (k, v *yaml.Node) {
	if n = target(n); n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	for range maxDepth {
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// Line returns the line of the field at path under root, or of the nearest
// field above it that is there.
func Line(root *yaml.Node, path string) int {
	if root == nil {
		return 0
	}
	line, n := root.Line, root
	for path != "" {
		var name string
		name, path = next(path)
		n = target(n)
		if n == nil {
			break
		}
		if n.Kind == yaml.SequenceNode {
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(n.Content) {
				break
			}
			n = n.Content[i]
			line = n.Line
			continue
		}
		k, v := lookup(n, name)
		if k == nil {
			break
		}
		n, line = v, k.Line
	}
	return line
}

// next cuts the first step off a path.
func next(path string) (name, rest string) {
	path = strings.TrimPrefix(path, ".")
	if inner, ok := strings.CutPrefix(path, "["); ok {
		name, rest, _ = strings.Cut(inner, "]")
		return name, rest
	}
	if i := strings.IndexAny(path, ".["); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}
