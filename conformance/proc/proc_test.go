package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, core int, script string) *Process {
	t.Helper()
	p, err := Start(Options{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log"), Core: core})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPinnedUsage(t *testing.T) {
	p := start(t, 1, "trap 'exit 0' TERM; while :; do :; done")
	before, err := p.Usage()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		now, err := p.Usage()
		if err != nil {
			t.Fatal(err)
		}
		c := now.Since(before)
		if c.CPU > 50*time.Millisecond {
			if c.CPU > c.Wall+20*time.Millisecond || c.Waited < 0 || c.Waited > c.Wall {
				t.Errorf("one thread cost %+v", c)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a busy loop cost %+v", c)
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil || !strings.Contains(string(text), "Cpus_allowed_list:\t0\n") {
		t.Errorf("not pinned to the first core: %v", err)
	}
	if rss, err := p.RSS(); err != nil || rss < 100<<10 || rss > 100<<20 {
		t.Errorf("resident memory %d, %v", rss, err)
	}
	if err := p.Err(); err != nil {
		t.Errorf("ended early: %v", err)
	}
	if err := p.Stop(5 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestStopKills(t *testing.T) {
	p := start(t, 0, "trap '' TERM; while :; do sleep 1; done")
	if err := p.Await(t.Context(), func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(200 * time.Millisecond); err == nil {
		t.Error("a process that ignores SIGTERM was said to have stopped")
	}
	<-p.Ended()
}

func TestAwaitTellsWhy(t *testing.T) {
	p := start(t, 0, "echo the reason >&2; exit 3")
	err := p.Await(t.Context(), func() error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	slow := start(t, 0, "sleep 60")
	if err := slow.Await(ctx, func() error { return errors.New("not yet") }); err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("%v", err)
	}
	if err := slow.Stop(5 * time.Second); err == nil {
		t.Error("SIGTERM ended sleep without an error")
	}
}

// TestFavour: what is changed for a whole session is taken back.
func TestFavour(t *testing.T) {
	read := func() string {
		text, err := os.ReadFile("/proc/self/autogroup")
		if err != nil {
			t.Skipf("this kernel does not group processes by session: %v", err)
		}
		return string(text)
	}
	before := read()
	undo := Favour(7) // lowering is always permitted
	if !strings.Contains(read(), "nice 7\n") {
		t.Errorf("the session's priority is %q", read())
	}
	undo()
	// Without the right to raise it, it stays low.
	if os.Geteuid() == 0 && read() != before {
		t.Errorf("the session's priority is %q, it was %q", read(), before)
	}
}

// TestGroup: what two processes cost is the sum, and that they wait for each
// other on the core that they share is nobody else's doing.
func TestGroup(t *testing.T) {
	g := Group{start(t, 1, "trap 'exit 0' TERM; while :; do :; done"), start(t, 1, "trap 'exit 0' TERM; while :; do :; done")}
	before, err := g.Usage()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		now, err := g.Usage()
		if err != nil {
			t.Fatal(err)
		}
		c := now.Since(before)
		if c.CPU > 50*time.Millisecond {
			var alone Cost
			for i := range now.processes {
				one := now.processes[i].since(before.processes[i])
				alone.CPU += one.CPU
				alone.Waited = max(alone.Waited, one.Waited)
			}
			if alone.CPU != c.CPU || c.Waited >= alone.Waited {
				t.Errorf("together %+v, one by one %+v", c, alone)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("two busy loops cost %+v", c)
		}
	}
	if rss, err := g.RSS(); err != nil || rss < 200<<10 {
		t.Errorf("resident memory %d, %v", rss, err)
	}
	if err := g.Err(); err != nil {
		t.Error(err)
	}
	if err := g.Stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	if err := g.Err(); err == nil {
		t.Error("two processes that have ended are said to run")
	}
}
