package suite

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/proc"
)

const principal = "spiffe://cluster.local/ns/bench/sa/"

// lab is a folder, a root of trust and a block of loopback addresses.
type lab struct {
	dir   string
	ca    *ca.CA
	block *loopback.Block
}

func newLab(t *testing.T) *lab {
	t.Helper()
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { block.Close() })
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return &lab{dir: t.TempDir(), ca: authority, block: block}
}

func (l *lab) at(n byte, port uint16) netip.AddrPort { return addrPort(l.block.Addr(n), port) }

// leaf issues a certificate in the namespace that all tests use.
func (l *lab) leaf(t *testing.T, account string) *ca.Leaf {
	t.Helper()
	leaf, err := l.ca.Issue("bench", account)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// files issues a certificate as files.
func (l *lab) files(t *testing.T, account string) ca.Files {
	t.Helper()
	f, err := l.ca.Write(l.dir, account, l.leaf(t, account))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// envoy runs one Envoy for the test's life.
func (l *lab) envoy(t *testing.T, name string, role envoy.Role) {
	t.Helper()
	p, err := envoy.Start(t.Context(), l.dir, name, role, proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, name, p)
}

// stopAtEnd stops the process when the test ends, which must go well.
func stopAtEnd(t *testing.T, name string, p *proc.Process) {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Err(); err != nil {
			t.Errorf("%s ended before it was told to: %v", name, err)
			return
		}
		if err := p.Stop(20 * time.Second); err != nil {
			t.Errorf("stopping %s: %v", name, err)
		}
		if tail := p.Tail(40); t.Failed() && tail != "" {
			t.Logf("the last lines of %s:\n%s", name, tail)
		}
	})
}

// fill executes a manifest template.
func fill(t *testing.T, text string, data any) string {
	t.Helper()
	var b strings.Builder
	if err := template.Must(template.New("manifests").Parse(text)).Execute(&b, data); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// wantLine waits until the file has a line with all the texts: programs write
// their logs late.
func wantLine(t *testing.T, path string, texts ...string) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		content, err := os.ReadFile(path)
		for line := range strings.Lines(string(content)) {
			if containsAll(line, texts) {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			lines := slices.Sorted(strings.Lines(string(content)))
			t.Fatalf("%s has no line with %q: %v\n%s", filepath.Base(path), texts, err, strings.Join(slices.Compact(lines), ""))
		}
	}
}

func containsAll(line string, texts []string) bool {
	for _, s := range texts {
		if !strings.Contains(line, s) {
			return false
		}
	}
	return true
}

// timedOut reports whether err is the end of a deadline.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
