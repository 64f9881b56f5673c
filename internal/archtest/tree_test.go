package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "cairnproxy.dev/cairn"

// source is one file that is not a test.
type source struct {
	path string // relative to the module's root, with slashes
	pkg  string // its folder, "." for the root
	file *ast.File
}

// tree parses every Go file of the module but its tests, its test data, and
// the modules nested in it.
func tree(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, p, d.Name())
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		out = append(out, source{path: rel, pkg: path.Dir(rel), file: f})
		return nil
	})
	if err != nil {
		t.Fatalf("reading the source tree: %v", err)
	}
	if len(out) == 0 {
		t.Fatal("no source file found: the walk looks in the wrong place")
	}
	return out
}

func skipDir(root, p, name string) error {
	if p == root {
		return nil
	}
	if name == "testdata" || strings.HasPrefix(name, ".") || name == "bin" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func TestOnePackageComment(t *testing.T) {
	comments := map[string][]string{}
	for _, s := range tree(t) {
		if _, ok := comments[s.pkg]; !ok {
			comments[s.pkg] = nil
		}
		if s.file.Doc == nil {
			continue
		}
		comments[s.pkg] = append(comments[s.pkg], s.path)
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command "
		}
		if got := s.file.Doc.Text(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: the package comment begins with %.30q, want %q", s.path, got, want)
		}
	}
	for pkg, files := range comments {
		if len(files) != 1 {
			t.Errorf("%s: %d files have a package comment %v, want exactly one", pkg, len(files), files)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, s := range tree(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: has an init function; list things where they are used instead", s.path)
			}
		}
	}
}

func TestNoGrabBags(t *testing.T) {
	for _, s := range tree(t) {
		switch path.Base(s.pkg) {
		case "utils", "util", "common", "helper", "helpers", "types", "misc":
			t.Errorf("%s: name the package after what it does", s.path)
		}
	}
}
