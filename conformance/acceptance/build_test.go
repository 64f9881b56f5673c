package acceptance

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestFreshClone does what the README tells a newcomer, in a clone of what is
// committed.
func TestFreshClone(t *testing.T) {
	needProgram(t, "git", "make", "curl")
	if _, err := os.Stat(filepath.Join(repo(t), ".git")); err != nil {
		t.Skipf("SKIPPED: %s is no git repository that could be cloned", repo(t))
	}
	dir := filepath.Join(t.TempDir(), "cairn")
	if o := command(t, "/", "git", "-c", "safe.directory=*", "clone", "-q", "--no-hardlinks", repo(t), dir); o.code != 0 {
		t.Fatalf("git clone: %s", o.stderr)
	}
	env := []string{"CAIRN=", "MAKEFLAGS=", "MAKELEVEL="}
	if o := commandWithin(t, 3*time.Minute, dir, env, "make", "build"); o.code != 0 {
		t.Fatalf("make build: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	t.Run("static", func(t *testing.T) { testStatic(t, filepath.Join(dir, "bin", "cairn")) })
	t.Run("help", func(t *testing.T) {
		o := commandWithin(t, time.Minute, dir, env, "make", "help")
		for _, target := range []string{"build", "demo", "test", "race", "lint", "fuzz", "bench", "conformance", "image", "check"} {
			if !regexp.MustCompile(`(?m)^\s*` + target + `\s+\S`).MatchString(o.stdout) {
				t.Errorf("make help says nothing of %s:\n%s", target, o.stdout)
			}
		}
	})
	t.Run("clean", func(t *testing.T) {
		if o := command(t, dir, "git", "-c", "safe.directory=*", "status", "--porcelain"); o.stdout != "" {
			t.Errorf("the build leaves files that git does not know to ignore:\n%s", o.stdout)
		}
	})
	t.Run("files", func(t *testing.T) {
		for _, f := range []string{"LICENSE", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/glossary.md", "Dockerfile", ".ci/run", "tools/go.mod", "examples/bookinfo/README.md"} {
			if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("readme", func(t *testing.T) { testReadme(t, dir, env) })
	t.Run("image", func(t *testing.T) {
		needRoot(t, "building the image without Docker")
		o := commandWithin(t, 4*time.Minute, dir, env, "make", "image")
		if o.code != 0 || !strings.Contains(o.stdout, "image ok") {
			t.Errorf("make image: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
	})
}

// testStatic wants a program that needs no loader and no library.
func testStatic(t *testing.T, path string) {
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("bin/cairn needs a loader: it is not static")
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("bin/cairn needs %v", libs)
	}
}

// testReadme runs the README's first two commands as they stand there, where
// its addresses are nobody else's: in a network namespace.
func testReadme(t *testing.T, dir string, env []string) {
	needRoot(t, "a network namespace of its own")
	needProgram(t, "unshare", "ip", "pkill")
	text, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^make demo\b`).FindString(string(text))
	curl := regexp.MustCompile(`(?m)^curl http://127\.\S+/productpage`).FindString(string(text))
	if start == "" || curl == "" {
		t.Fatal("the README has no lines `make demo` and `curl http://127.…/productpage`")
	}
	script := `
ip link set lo up
` + start + ` >out 2>&1 &
for i in $(seq 300); do
  if grep -q 'The mesh is up' out; then break; fi
  sleep 0.1
done
` + curl + ` >page 2>curl.err
tried=$?
pkill -INT -x cairn --oldest
wait $!
echo "demo=$? curl=$tried"
`
	write(t, dir, "tour.sh", script)
	ctxEnv := append(os.Environ(), env...)
	cmd := exec.Command("timeout", "--kill-after=5", "120", "unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child", "bash", "tour.sh")
	cmd.Dir, cmd.Env = dir, ctxEnv
	out, err := cmd.CombinedOutput()
	page, _ := os.ReadFile(filepath.Join(dir, "page")) // its absence is told below
	log, _ := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil || !strings.Contains(string(out), "demo=0 curl=0") || !strings.Contains(string(page), "<title>Simple Bookstore App</title>") {
		t.Errorf("%v: %s, page %.200q\n%s", err, out, page, log)
	}
	if !strings.Contains(string(log), "  "+curl) {
		t.Errorf("the README's %q is not the line that is printed:\n%s", curl, log)
	}
}
