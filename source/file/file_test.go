package file_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
	"cairnproxy.dev/cairn/source/object"
)

func service(name string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {ports: [{port: 80}]}\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// names lists the services of parts.
func names(p mesh.Parts) string {
	var out []string
	for _, s := range p.Services {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func load(paths ...string) file.Result { return file.New(file.Options{Paths: paths}).Load() }

func TestLoadFindsManifests(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", service("a"))
	write(t, dir+"/b.yml", service("b1")+"---\n# nothing\n---\n"+service("b2"))
	write(t, dir+"/sub/deeper/c.YAML", service("c"))
	write(t, dir+"/d.json", `{"apiVersion": "v1", "kind": "Service",
		"metadata": {"name": "d"}, "spec": {"ports": [{"port": 80}]}}`)
	write(t, dir+"/list.yaml", "apiVersion: v1\nkind: List\nitems:\n- "+strings.ReplaceAll(strings.TrimSpace(service("e")), "\n", "\n  "))
	write(t, dir+"/empty.yaml", "# to come\n")
	for _, skipped := range []string{".hidden.yaml", ".git/x.yaml", "a.yaml~", "#a.yaml", "a.yaml.swp", "README.md", "4913"} {
		write(t, dir+"/"+skipped, "}")
	}
	must(t, syscall.Mkfifo(dir+"/pipe.yaml", 0o644))
	must(t, os.Symlink(dir, dir+"/loop"))
	must(t, os.Symlink("a.yaml", dir+"/same.yaml"))
	must(t, os.Symlink("nowhere", dir+"/broken.yaml"))

	res := load(dir)
	if len(res.Problems) > 0 {
		t.Fatalf("problems: %v", res.Problems)
	}
	if got, want := names(res.Parts), "a b1 b2 d e c"; got != want {
		t.Errorf("services %q, want %q", got, want)
	}
	if res.Files != 6 || res.Objects != 6 {
		t.Errorf("%d files and %d objects, want 6 and 6", res.Files, res.Objects)
	}
}

func TestLoadTakesFilesByName(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/plain.txt", service("a"))
	write(t, dir+"/sub/b.yaml", service("b"))
	res := load(dir+"/plain.txt", dir+"/sub", dir+"/sub/b.yaml", dir+"/sub/../sub")
	if got := names(res.Parts); got != "a b" || len(res.Problems) > 0 {
		t.Errorf("services %q, problems %v; want \"a b\" and none", got, res.Problems)
	}
}

func TestLoadProblems(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, dir string)
		file    string // of the problem, in dir
		line    int
		message string
	}{
		"missing":    {func(*testing.T, string) {}, "", 0, "no such file or folder; correct the path or create it"},
		"empty":      {func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o755)) }, "", 0, "holds no *.yaml"},
		"other-kind": {func(t *testing.T, dir string) { write(t, dir+"/a.txt", "x") }, "", 0, "holds no *.yaml"},
		"pipe":       {func(t *testing.T, dir string) { must(t, syscall.Mkfifo(dir, 0o644)) }, "", 0, "neither a file nor a folder"},
		"too-large": {func(t *testing.T, dir string) {
			write(t, dir+"/a.yaml", "")
			must(t, os.Truncate(dir+"/a.yaml", 17<<20))
		}, "a.yaml", 0, "larger than 16 MiB"},
		"syntax":    {func(t *testing.T, dir string) { write(t, dir+"/a.yaml", service("a")+"---\na: b: c\n") }, "a.yaml", 6, "YAML syntax"},
		"bad-value": {func(t *testing.T, dir string) { write(t, dir+"/a.yaml", strings.Replace(service("a"), "80", "0", 1)) }, "a.yaml", 4, "1 to 65535"},
		"duplicate": {func(t *testing.T, dir string) {
			write(t, dir+"/a.yaml", service("a"))
			write(t, dir+"/b.yaml", "\n"+service("a"))
		}, "b.yaml", 4, "a.yaml:1; keep one"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "manifests")
			tt.prepare(t, dir)
			res := load(dir)
			if len(res.Problems) != 1 {
				t.Fatalf("problems: %v, want one", res.Problems)
			}
			p := res.Problems[0]
			if p.File != filepath.Join(dir, tt.file) || p.Line != tt.line || !strings.Contains(p.Message, tt.message) {
				t.Errorf("got %v, want line %d of %s and %q", p, tt.line, tt.file, tt.message)
			}
		})
	}
}

func TestLoadKeepsUnchangedObjects(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", service("a"))
	write(t, dir+"/b.yaml", service("b"))
	src, store := file.New(file.Options{Paths: []string{dir}}), source.NewStore()
	first := store.Publish(src.Load().Parts)
	write(t, dir+"/b.yaml", strings.Replace(service("b"), "80", "81", 1))
	second := store.Publish(src.Load().Parts)
	if first.Services[0] != second.Services[0] {
		t.Error("service a was made anew though its file did not change")
	}
	if first.Services[1] == second.Services[1] || second.Services[1].Ports[0].Port != 81 {
		t.Error("service b did not change with its file")
	}
}

// reload is what Run told of one.
type reload struct {
	accepted int
	problems []source.Problem
}

// running is a Source that runs.
type running struct {
	t       *testing.T
	src     *file.Source
	store   *source.Store
	reloads chan reload
}

const patience = 20 * time.Second // for a machine that is busy; a test that passes does not wait

func run(t *testing.T, opts file.Options) *running {
	r := &running{t: t, src: file.New(opts), store: source.NewStore(), reloads: make(chan reload, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- r.src.Run(ctx, r.store, func(n int, p []source.Problem) { r.reloads <- reload{n, p} })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.NewTimer(patience).C:
			t.Error("Run does not end")
		}
	})
	return r
}

// next waits for a reload.
func (r *running) next() reload {
	r.t.Helper()
	select {
	case x := <-r.reloads:
		return x
	case <-time.NewTimer(patience).C:
		r.t.Fatal("nothing was reloaded")
		panic("unreachable")
	}
}

// until waits until the services are those.
func (r *running) until(want string) {
	r.t.Helper()
	for {
		if got := names(r.store.Current().Parts); got == want {
			return
		}
		if x := r.next(); len(x.problems) > 0 {
			r.t.Logf("refused: %v", x.problems)
		}
	}
}

func TestRunFollowsChanges(t *testing.T) {
	other := t.TempDir()
	write(t, other+"/x.yaml", service("x"))
	steps := []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"rewrite", func(t *testing.T, dir string) { write(t, dir+"/a.yaml", service("a2")) }, "a2"},
		{"appear", func(t *testing.T, dir string) { write(t, dir+"/b.yaml", service("b")) }, "a2 b"},
		{"new-folder", func(t *testing.T, dir string) { write(t, dir+"/sub/c.yaml", service("c")) }, "a2 b c"},
		{"in-new-folder", func(t *testing.T, dir string) { write(t, dir+"/sub/c.yaml", service("c2")) }, "a2 b c2"},
		{"rename-over", func(t *testing.T, dir string) {
			write(t, dir+"/.a.yaml.swp", service("a3"))
			must(t, os.Rename(dir+"/.a.yaml.swp", dir+"/a.yaml"))
		}, "a3 b c2"},
		{"rename-over-again", func(t *testing.T, dir string) {
			write(t, dir+"/a.tmp", service("a4"))
			must(t, os.Rename(dir+"/a.tmp", dir+"/a.yaml"))
		}, "a4 b c2"},
		{"vanish", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/b.yaml")) }, "a4 c2"},
		{"folder-vanishes", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/sub")) }, "a4"},
		{"folder-replaced", func(t *testing.T, dir string) { write(t, dir+"/sub/c.yaml", service("c3")) }, "a4 c3"},
		{"link", func(t *testing.T, dir string) { must(t, os.Symlink(other+"/x.yaml", dir+"/x.yaml")) }, "a4 c3 x"},
		{"behind-link", func(t *testing.T, _ string) { write(t, other+"/x.yaml", service("x2")) }, "a4 c3 x2"},
		{"in-place", func(t *testing.T, dir string) {
			f, err := os.OpenFile(dir+"/a.yaml", os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteString("---\n" + service("a5"))
			must(t, err)
		}, "a4 a5 c3 x2"},
	}
	dir := t.TempDir()
	write(t, dir+"/a.yaml", service("a"))
	r := run(t, file.Options{Paths: []string{dir}, Poll: time.Hour})
	r.until("a")
	for _, s := range steps {
		s.do(t, dir)
		r.until(s.want)
		if t.Failed() {
			t.Fatalf("at step %s", s.name)
		}
	}
}

func TestRunFollowsConfigMapFolders(t *testing.T) {
	dir := t.TempDir()
	version := func(n, name string) { write(t, dir+"/..v"+n+"/a.yaml", service(name)) }
	version("1", "one")
	must(t, os.Symlink("..v1", dir+"/..data"))
	must(t, os.Symlink("..data/a.yaml", dir+"/a.yaml"))
	r := run(t, file.Options{Paths: []string{dir}, Poll: time.Hour})
	r.until("one")
	version("2", "two")
	must(t, os.Symlink("..v2", dir+"/..tmp"))
	must(t, os.Rename(dir+"/..tmp", dir+"/..data"))
	must(t, os.RemoveAll(dir+"/..v1"))
	r.until("two")
}

func TestRunFollowsASingleFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", service("a"))
	r := run(t, file.Options{Paths: []string{dir + "/a.yaml"}, Poll: time.Hour})
	r.until("a")
	write(t, dir+"/b.yaml", service("b")) // of no interest
	write(t, dir+"/a.yaml", service("a2"))
	r.until("a2")
	write(t, dir+"/new", service("a3"))
	must(t, os.Rename(dir+"/new", dir+"/a.yaml"))
	r.until("a3")
}

func TestRunFollowsALinkToAFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/one/a.yaml", service("one"))
	write(t, dir+"/two/a.yaml", service("two"))
	must(t, os.Symlink("one", dir+"/now"))
	r := run(t, file.Options{Paths: []string{dir + "/now"}, Poll: time.Hour})
	r.until("one")
	must(t, os.Symlink("two", dir+"/next"))
	must(t, os.Rename(dir+"/next", dir+"/now"))
	r.until("two")
	write(t, dir+"/two/a.yaml", service("three"))
	r.until("three")
}

func TestRunPolls(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/real/a.yaml", service("a"))
	must(t, os.MkdirAll(dir+"/x", 0o755))
	must(t, os.Symlink(dir+"/real", dir+"/x/link"))
	must(t, os.Symlink(dir+"/x", dir+"/y")) // y/link: a change of x/link is not seen from y's folder
	write(t, dir+"/other/a.yaml", service("b"))
	r := run(t, file.Options{Paths: []string{dir + "/y/link/a.yaml"}, Poll: 10 * time.Millisecond})
	r.until("a")
	must(t, os.Symlink(dir+"/other", dir+"/x/new"))
	must(t, os.Rename(dir+"/x/new", dir+"/x/link"))
	r.until("b")
}

func TestRunKeepsTheLastGood(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", service("a"))
	r := run(t, file.Options{Paths: []string{dir}, Poll: time.Hour})
	if x := r.next(); x.accepted != 1 || len(x.problems) > 0 {
		t.Fatalf("first reload: %+v, want 1 object", x)
	}
	good := r.store.Current()

	write(t, dir+"/a.yaml", "kind: [")
	write(t, dir+"/b.yaml", service("b")) // good by itself
	x := r.next()
	for len(x.problems) == 0 { // b may have been seen before a
		x = r.next()
		good = r.store.Current()
	}
	if x.accepted != 0 || x.problems[0].File != dir+"/a.yaml" || x.problems[0].Line != 1 {
		t.Errorf("reload: %+v, want a problem with a.yaml:1", x)
	}
	if r.store.Current() != good {
		t.Error("a broken update was published")
	}
	if got := r.src.Good(); names(got.Parts) != names(good.Parts) {
		t.Errorf("Good() has services %q, want %q", names(got.Parts), names(good.Parts))
	}

	must(t, os.Remove(dir+"/a.yaml"))
	must(t, os.Remove(dir+"/b.yaml"))
	for x := r.next(); len(x.problems) != 1 || !strings.Contains(x.problems[0].Message, "holds no"); {
		x = r.next()
	}
	if r.store.Current() != good {
		t.Error("an emptied folder took the mesh down")
	}
	write(t, dir+"/a.yaml", service("a"))
	r.until("a")
}

func TestRunStartsWithProblems(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "late")
	r := run(t, file.Options{Paths: []string{dir}, Poll: time.Hour})
	if x := r.next(); len(x.problems) != 1 {
		t.Fatalf("reload: %+v, want one problem", x)
	}
	if v := r.store.Current().Version; v != 0 {
		t.Errorf("version %d was published", v)
	}
	must(t, os.Mkdir(dir, 0o755))
	write(t, dir+"/a.yaml", service("a"))
	r.until("a")
}

func TestRefresh(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.0.0.1}\n")
	down := make(chan bool, 100)
	r := run(t, file.Options{Paths: []string{dir}, Objects: object.Options{NotReady: func(mesh.Name) bool { return <-down }}, Poll: time.Hour})
	down <- true
	updates := r.store.Updates(t.Context())
	if snap := <-updates; snap.Workloads[0].Ready {
		t.Error("the pod is ready from the start")
	}
	down <- false
	r.src.Refresh()
	if snap := <-updates; !snap.Workloads[0].Ready {
		t.Error("the pod is not ready after Refresh")
	}
	r.next()
	if len(r.reloads) > 0 {
		t.Error("Refresh was told of as a reload")
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", service("a")+"---\napiVersion: v1\nkind: LimitRange\nmetadata: {name: c}\n")
	var b strings.Builder
	rep := file.Check([]string{dir}, object.Options{})
	must(t, rep.Write(&b))
	want := "notice: " + dir + "/a.yaml:6: kind LimitRange is not used by Cairn: 1 object is ignored\n" +
		"1 object in 1 file: 1 service, 0 workloads, 0 waypoints, 0 route rules, 0 policies: good\n"
	if b.String() != want || !rep.OK() {
		t.Errorf("OK is %v, report:\n%swant:\n%s", rep.OK(), &b, want)
	}
	write(t, dir+"/b.yaml", service("a"))
	b.Reset()
	rep = file.Check([]string{dir}, object.Options{})
	must(t, rep.Write(&b))
	if rep.OK() || !strings.Contains(b.String(), "error: "+dir+"/b.yaml:3: Service default/a: metadata.name: ") || !strings.HasSuffix(b.String(), ": 1 problem\n") {
		t.Errorf("OK is %v, report:\n%s", rep.OK(), &b)
	}
}
