package acceptance

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestResilience does what examples/resilience/README.md shows.
func TestResilience(t *testing.T) {
	dir := copyFiles(t, filepath.Join(repo(t), "examples", "resilience"))
	r := &resilience{mesh: up(t, dir), files: dir, c: client(t, "", false)}
	for _, tt := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"retries", r.retries},
		{"budget", r.budget},
		{"ejection", r.ejection},
		{"breaker", r.breaker},
		{"limits", r.limits},
		{"faults", r.faults},
		{"mirror", r.mirror},
		{"sticky", r.sticky},
		{"canary", r.canary},
	} {
		t.Run(tt.name, tt.f)
	}
}

type resilience struct {
	*mesh
	files string
	c     *http.Client
}

// statuses asks a service n times, one after the other, and counts the answers.
func (r *resilience) statuses(t *testing.T, n int, service, path string, headers ...string) map[int]int {
	t.Helper()
	got := map[int]int{}
	for range n {
		status, _, err := do(t.Context(), r.c, http.MethodGet, "http://"+r.addr(t, "resilience", service)+path, headers...)
		if err != nil {
			t.Fatal(err)
		}
		got[status]++
	}
	return got
}

// atOnce asks n times at the same time.
func (r *resilience) atOnce(t *testing.T, n int, service, path string) map[int]int {
	t.Helper()
	url := "http://" + r.addr(t, "resilience", service) + path
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := map[int]int{}
	for range n {
		wg.Go(func() {
			status, _, err := do(t.Context(), r.c, http.MethodGet, url)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[status]++
		})
	}
	wg.Wait()
	return got
}

// ofPod asks a pod itself.
func (r *resilience) ofPod(t *testing.T, pod, path string) string {
	t.Helper()
	return strings.TrimSpace(must(t, r.c, 200, http.MethodGet, "http://"+r.pod(t, pod).Address+":8080"+path))
}

func (r *resilience) count(t *testing.T, pod string) int {
	t.Helper()
	n, err := strconv.Atoi(r.ofPod(t, pod, "/count"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func want(t *testing.T, got, want map[int]int) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("answers by status: %v, want %v", got, want)
	}
}

func (r *resilience) retries(t *testing.T) {
	want(t, r.statuses(t, 20, "flaky", "/flaky/1/3/503"), map[int]int{200: 20})
	if got := r.statuses(t, 20, "flaky", "/flaky/1/3/503?plain", "x-no-retry", "true"); got[503] < 4 || got[503] > 10 {
		t.Errorf("without retries: %v, want about a third 503", got)
	}
}

func (r *resilience) budget(t *testing.T) {
	before := r.count(t, "storm-")
	r.ofPod(t, "storm-", "/fail/503/1m")
	want(t, r.atOnce(t, 100, "storm", "/"), map[int]int{503: 100})
	if n := r.count(t, "storm-") - before; n < 100 || n > 130 {
		t.Errorf("a hundred requests became %d, want 100 to 130", n)
	}
	r.ofPod(t, "storm-", "/fail/503/0s")
	want(t, r.statuses(t, 5, "storm", "/"), map[int]int{200: 5})
}

func (r *resilience) ejection(t *testing.T) {
	r.ofPod(t, "trio-", "/fail/503/1m")
	if got := r.statuses(t, 60, "trio", "/"); got[503] != 3 || got[200] != 57 {
		t.Errorf("beside a pod that fails: %v, want three 503 and no more", got)
	}
	r.ofPod(t, "trio-", "/fail/503/0s")
	name := r.pod(t, "trio-").Name
	for end := time.Now().Add(20 * time.Second); ; {
		if body := must(t, r.c, 200, http.MethodGet, "http://"+r.addr(t, "resilience", "trio")+"/"); strings.Contains(body, name) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not come back", name)
		}
	}
}

func (r *resilience) breaker(t *testing.T) {
	want(t, r.atOnce(t, 6, "narrow", "/delay/2s"), map[int]int{200: 2, 503: 4})
	want(t, r.statuses(t, 3, "narrow", "/"), map[int]int{200: 3})
}

func (r *resilience) limits(t *testing.T) {
	if got := r.statuses(t, 3, "limited", "/"); got[200] != 3 {
		t.Errorf("the first three: %v", got)
	}
	if got := r.statuses(t, 3, "limited", "/"); got[429] < 2 {
		t.Errorf("the next three: %v, want 429", got)
	}
	// The shared limit counts in whole minutes: two windows at most.
	if got := r.statuses(t, 12, "shared", "/", "x-user", "ann"); got[200] > 6 || got[429] < 6 {
		t.Errorf("ann: %v, want three 200 and then 429", got)
	}
	want(t, r.statuses(t, 1, "shared", "/", "x-user", "bob"), map[int]int{200: 1})
}

func (r *resilience) faults(t *testing.T) {
	begin := time.Now()
	want(t, r.statuses(t, 1, "faulty", "/", "x-fault", "delay"), map[int]int{200: 1})
	if d := time.Since(begin); d < 2*time.Second {
		t.Errorf("delayed by %v, want two seconds", d)
	}
	want(t, r.statuses(t, 1, "faulty", "/", "x-fault", "abort"), map[int]int{418: 1})
	want(t, r.statuses(t, 1, "faulty", "/"), map[int]int{200: 1})
}

func (r *resilience) mirror(t *testing.T) {
	watched, shadow := r.count(t, "watched-"), r.count(t, "shadow-")
	want(t, r.statuses(t, 5, "watched", "/"), map[int]int{200: 5})
	for end := time.Now().Add(10 * time.Second); r.count(t, "shadow-") < shadow+5 && time.Now().Before(end); {
	}
	if a, b := r.count(t, "watched-")-watched, r.count(t, "shadow-")-shadow; a != 5 || b != 5 {
		t.Errorf("five requests became %d and %d copies", a, b)
	}
}

func (r *resilience) sticky(t *testing.T) {
	url := "http://" + r.addr(t, "resilience", "sticky") + "/"
	resp, err := r.c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(resp.Cookies()) != 1 {
		t.Fatalf("cookies: %v, want one", resp.Cookies())
	}
	cookie := resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
	first := field(t, must(t, r.c, 200, http.MethodGet, url, "cookie", cookie), "pod")
	r.edit(t, "sticky.yaml", "replicas: 2", "replicas: 5")
	others := map[string]bool{}
	for end := time.Now().Add(20 * time.Second); len(others) < 5; {
		others[field(t, must(t, r.c, 200, http.MethodGet, url), "pod")] = true
		if time.Now().After(end) {
			t.Fatalf("five pods, of which answer %v", others)
		}
	}
	for range 20 {
		if got := field(t, must(t, r.c, 200, http.MethodGet, url, "cookie", cookie), "pod"); got != first {
			t.Fatalf("the session was with %s and is with %s", first, got)
		}
	}
}

func (r *resilience) canary(t *testing.T) {
	share := func() (n int) {
		for range 200 {
			if strings.Contains(must(t, r.c, 200, http.MethodGet, "http://"+r.addr(t, "resilience", "web")+"/"), "web-v2") {
				n++
			}
		}
		return n
	}
	if n := share(); n < 4 || n > 40 { // five sigma
		t.Errorf("%d of 200 by v2, want about 20", n)
	}
	r.edit(t, "canary-route.yaml", "weight: 90", "weight: 50", "weight: 10", "weight: 50")
	if n := share(); n < 65 || n > 135 {
		t.Errorf("%d of 200 by v2, want about 100", n)
	}
}

// edit replaces texts in a file of the example, and waits until that is in force.
func (r *resilience) edit(t *testing.T, file string, oldnew ...string) {
	t.Helper()
	seen := len(r.configs(t))
	path := filepath.Join(r.files, file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.NewReplacer(oldnew...).Replace(string(b))), 0o644); err != nil {
		t.Fatal(err)
	}
	if ev := r.nextConfig(t, seen); len(ev.Rejected) > 0 {
		t.Fatalf("the edit was rejected: %v", ev.Rejected)
	}
}

// field returns a string of an echo's report.
func field(t *testing.T, body, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(body, `"`+name+`": "`)
	if !ok {
		t.Fatalf("no %s in %q", name, body)
	}
	v, _, _ := strings.Cut(rest, `"`)
	return v
}
