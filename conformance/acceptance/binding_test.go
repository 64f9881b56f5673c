package acceptance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestBinding goes around the waypoint of the book shop from inside its pods, in namespaces of
// their own: by the pods' addresses, over HBONE, since their node proxies know no better way.
func TestBinding(t *testing.T) {
	needRoot(t, "a network namespace per pod")
	needProgram(t, "nsenter", "curl")
	dir := copyFiles(t, bookinfo(t))
	m := up(t, dir, "--netns")
	pids := podPIDs(t, m)
	ask := func(url string) string {
		o := command(t, "", "nsenter", "--target", strconv.Itoa(pids[m.pod(t, "productpage").Name]), "--net", "--mount",
			"curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", url)
		return strings.TrimSpace(o.stdout)
	}
	want := func(when, url, code string) {
		t.Helper()
		got := ""
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if got = ask(url); got == code {
				return
			}
		}
		t.Errorf("%s: %s answers %s, want %s", when, url, got, code)
	}
	service, pod := "http://details:9080/details/0", "http://"+m.pod(t, "details").Address+":9080/details/0"
	want("bound", service, "200")
	want("bound", pod, "000")

	file := filepath.Join(dir, "services.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const label = "    istio.io/use-waypoint: waypoint\n"
	edit := func(to string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), label, to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	edit(label + "    policy.cairnproxy.dev/waypoint-binding: permissive\n")
	want("opted out", pod, "200")
	want("opted out", service, "200")

	edit("    istio.io/use-waypoint: absent\n    policy.cairnproxy.dev/waypoint-binding: permissive\n")
	want("opted out, waypoint absent", service, "200")
	edit("    istio.io/use-waypoint: absent\n")
	want("waypoint absent", service, "000")
	want("waypoint absent", pod, "000")
	var report struct {
		Statuses []struct {
			Kind    string `json:"kind"`
			Parents []struct {
				Conditions []struct{ Type, Status, Reason string } `json:"conditions"`
			} `json:"parents"`
		} `json:"statuses"`
	}
	o := command(t, "", cairnPath(t), "check", "--json", dir)
	if err := json.Unmarshal([]byte(o.stdout), &report); err != nil {
		t.Fatalf("cairn check --json: %v: %s", err, o.stdout)
	}
	told := false
	for _, s := range report.Statuses {
		for _, p := range s.Parents {
			for _, c := range p.Conditions {
				told = told || s.Kind == "Namespace" && c.Type == "istio.io/WaypointBound" && c.Status == "False" && c.Reason == "WaypointMissing"
			}
		}
	}
	if o.code == 0 || !told {
		t.Errorf("cairn check (exit code %d) has no status about the absent waypoint: %s", o.code, o.stdout)
	}
	edit(label)
	want("bound again", service, "200")
	want("bound again", pod, "000")
	access, err := os.ReadFile(m.access)
	if err != nil {
		t.Fatal(err)
	}
	for _, say := range []string{"did not come through it: service bookinfo/details.bookinfo.svc.cluster.local is bound to waypoint bookinfo/waypoint", "waypoint bookinfo/absent, to which service bookinfo/details.bookinfo.svc.cluster.local is bound, is not known"} {
		if !strings.Contains(string(access), say) {
			t.Errorf("the access log does not say %q", say)
		}
	}
}
