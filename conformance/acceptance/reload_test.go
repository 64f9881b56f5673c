package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// live is how soon an edit must be live.
const live = time.Second

// TestReload edits the manifests of a mesh under load.
func TestReload(t *testing.T) {
	dir := copyFiles(t, bookinfo(t))
	m := up(t, dir)
	l := startLoad(t, 20, m.pod(t, "productpage").Address, "http://"+m.addr(t, "bookinfo", "reviews")+"/reviews/0", version.FindString)
	original, err := os.ReadFile(filepath.Join(dir, "reviews-route.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// All traffic to one version, so that each answer tells the configuration.
	to := func(v string) string {
		s := strings.Replace(string(original), "name: reviews-v1", "name: reviews-"+v, 1)
		s = strings.Replace(s, "weight: 90", "weight: 1", 1)
		return strings.Replace(s, "weight: 10", "weight: 0", 1)
	}
	path := filepath.Join(dir, "reviews-route.yaml")
	replace := func(text string) error {
		// Outside the folder, as an editor's temporary file may be.
		tmp := filepath.Join(t.TempDir(), "new")
		if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	}
	beside := func(text string) error {
		tmp := filepath.Join(dir, ".reviews-route.yaml.swp")
		if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, path)
	}
	inPlace := func(text string) error { return os.WriteFile(path, []byte(text), 0o644) }
	slowly := func(text string) error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for half := len(text) / 3; len(text) > 0; text = text[min(half, len(text)):] {
			if _, err := f.WriteString(text[:min(half, len(text))]); err != nil {
				return err
			}
			time.Sleep(15 * time.Millisecond) // the writer is slow, not the test
		}
		return nil
	}

	for i, edit := range []struct {
		name  string
		write func(string) error
	}{
		{"rename", replace}, {"rename-beside", beside}, {"in-place", inPlace}, {"in-place-slowly", slowly}, {"rename-again", replace},
	} {
		t.Run(edit.name, func(t *testing.T) {
			v := []string{"v3", "v2"}[i%2]
			seen := len(m.configs(t))
			if err := edit.write(to(v)); err != nil {
				t.Fatal(err)
			}
			shifted(t, l, time.Now(), "reviews-"+v)
			if e := m.nextConfig(t, seen); e.Accepted == 0 || len(e.Rejected) != 0 {
				t.Errorf("config event %+v, want an accepted one", e)
			}
		})
	}
	t.Run("split", func(t *testing.T) {
		half := strings.Replace(strings.Replace(string(original), "weight: 90", "weight: 50", 1), "weight: 10", "weight: 50", 1)
		if err := replace(half); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(live)
		eventually(t, 20*time.Second, func() error {
			got := shares(l.since(at))
			v1, v2 := got["reviews-v1"], got["reviews-v2"]
			if v1+v2 < 400 {
				return fmt.Errorf("%v so far", got)
			}
			if d := v1 - v2; d*d > 9*(v1+v2) || len(got) != 2 { // 3 standard deviations of v1-v2
				t.Fatalf("%v, want halves", got)
			}
			return nil
		})
	})
	t.Run("broken", func(t *testing.T) { testBrokenEdits(t, m, l, path, to("v3")) })
	t.Run("service", func(t *testing.T) { testServiceComesAndGoes(t, m, dir) })
	noneFailed(t, l.stop())
}

// shifted waits until load is answered by who alone, and wants that of every
// request that began more than the promised time after the edit.
func shifted(t *testing.T, l *load, edited time.Time, who string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if n := len(l.since(edited.Add(live))); n < 100 {
			return fmt.Errorf("%d requests since then", n)
		}
		return nil
	})
	if err := wantOnly(l.since(edited.Add(live)), who, 100); err != nil {
		t.Errorf("later than %v after the edit: %v", live, err)
	}
	for _, a := range l.since(edited) {
		if a.who == who {
			t.Logf("first answer of %s to a request that began %v after the edit", who, a.began.Sub(edited).Round(time.Millisecond))
			break
		}
	}
}

// TestWaypointGone takes the waypoint away from services that name it: they are refused, and come back with it.
func TestWaypointGone(t *testing.T) {
	dir := copyFiles(t, bookinfo(t))
	m := up(t, dir)
	details := "http://" + m.addr(t, "bookinfo", "details") + "/details/0"
	must(t, client(t, "", false), 403, "DELETE", details)
	file := filepath.Join(dir, "waypoint.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := len(m.configs(t))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if e := m.nextConfig(t, seen); len(e.Rejected) != 0 || !strings.Contains(fmt.Sprint(e.Unresolved), "waypoint bookinfo/waypoint does not exist") {
		t.Errorf("config event %+v, want one that tells that the waypoint does not exist", e)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if code, _, err := do(t.Context(), client(t, "", false), method, details); err == nil {
			t.Errorf("%s is answered %d without the waypoint", method, code)
		}
	}
	seen = len(m.configs(t))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := m.nextConfig(t, seen); len(e.Rejected) != 0 || len(e.Unresolved) != 0 {
		t.Errorf("config event %+v, want an accepted one", e)
	}
	eventually(t, 5*time.Second, func() error { return answers(t, "", details, 200) })
	must(t, client(t, "", false), 403, "DELETE", details)
}

// testBrokenEdits breaks the file in several ways: each is reported with its
// place, and nothing changes; repairing it is an edit like any other.
func testBrokenEdits(t *testing.T, m *mesh, l *load, path, good string) {
	put := func(t *testing.T, text string) (at time.Time, e configEvent) {
		t.Helper()
		seen := len(m.configs(t))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return time.Now(), m.nextConfig(t, seen)
	}
	at, e := put(t, good)
	if len(e.Rejected) != 0 {
		t.Fatalf("config event %+v, want an accepted one", e)
	}
	shifted(t, l, at, "reviews-v3")
	for _, test := range []struct {
		name, old, new, object, field string
	}{
		{"syntax", "spec:", "spec: {", "", ""},
		{"unknown-field", "  rules:", "  ruels: []\n  rules:", "HTTPRoute bookinfo/reviews", "ruels"},
		{"bad-value", "weight: 1\n", "weight: -1\n", "HTTPRoute bookinfo/reviews", "weight"},
		{"wrong-type", "port: 9080\n  rules", "port: http\n  rules", "HTTPRoute bookinfo/reviews", "port"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.Replace(good, test.old, test.new, 1)
			if text == good {
				t.Fatalf("the example has no %q any more", test.old)
			}
			at, e := put(t, text)
			if e.Accepted != 0 || len(e.Rejected) == 0 {
				t.Fatalf("config event %+v, want a rejected one", e)
			}
			p := e.Rejected[0]
			if p.File == "" || filepath.Base(p.File) != "reviews-route.yaml" || p.Line == 0 || p.Message == "" || p.Object != test.object || !strings.Contains(p.Field, test.field) {
				t.Errorf("problem %+v, want file, line, message, object %q and a field with %q", p, test.object, test.field)
			}
			eventually(t, 5*time.Second, func() error { return wantOnly(l.since(at), "reviews-v3", 40) })
			if _, e := put(t, good+"\n# repaired after "+test.name+"\n"); e.Accepted == 0 || len(e.Rejected) != 0 {
				t.Errorf("the repaired file gives %+v, want an accepted event", e)
			}
		})
	}
	t.Run("dangling", func(t *testing.T) {
		// A reference of a route that leads nowhere is told, and all else goes on.
		at, e := put(t, strings.Replace(good, "name: reviews-v2", "name: reviews-v7", 1))
		if e.Accepted == 0 || len(e.Rejected) != 0 || len(e.Unresolved) != 1 || !strings.Contains(e.Unresolved[0].Field, "backendRefs") || e.Unresolved[0].Line == 0 {
			t.Errorf("config event %+v, want an accepted one with the reference that leads nowhere", e)
		}
		eventually(t, 5*time.Second, func() error { return wantOnly(l.since(at), "reviews-v3", 40) })
		if _, e := put(t, good); e.Accepted == 0 || len(e.Unresolved) != 0 {
			t.Errorf("the repaired file gives %+v, want an accepted event", e)
		}
	})
	t.Run("event", func(t *testing.T) {
		for _, line := range m.lines(t) {
			var raw map[string]any
			if err := json.Unmarshal([]byte(line), &raw); err != nil {
				t.Fatal(err)
			}
			if raw["event"] != "config" {
				continue
			}
			delete(raw, "unresolved") // there where a reference leads nowhere
			wantKeys(t, "config", raw, "event", "accepted", "rejected")
			if _, ok := raw["rejected"].([]any); !ok {
				t.Errorf("rejected is %v, want a list", raw["rejected"])
			}
			for _, r := range asList(raw["rejected"]) {
				o, _ := r.(map[string]any)
				wantKeys(t, "rejected", o, "file", "line", "object", "field", "message")
			}
		}
	})
}

const extraService = `
apiVersion: v1
kind: Service
metadata: {name: extra, namespace: bookinfo}
spec: {selector: {app: extra}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: extra, namespace: bookinfo, labels: {app: extra}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
`

// testServiceComesAndGoes adds a file with a service and a pod, and removes it.
func testServiceComesAndGoes(t *testing.T, m *mesh, dir string) {
	path := write(t, dir, "extra.yaml", extraService)
	var addr string
	eventually(t, 10*time.Second, func() error {
		o := command(t, "", cairnPath(t), "config", "services", "-o", "json", "--admin", m.Nodes[0].Admin)
		var services []struct {
			Hostname string   `json:"hostname"`
			VIPs     []string `json:"vips"`
		}
		if err := json.Unmarshal([]byte(o.stdout), &services); err != nil {
			return err
		}
		for _, s := range services {
			if s.Hostname == "extra.bookinfo.svc.cluster.local" && len(s.VIPs) > 0 {
				addr = net.JoinHostPort(strings.TrimPrefix(s.VIPs[0], "/"), "8000")
				return answers(t, "", "http://"+addr+"/x", 200)
			}
		}
		return fmt.Errorf("the node proxy does not know the new service")
	})
	must(t, client(t, "", false), 200, "GET", "http://"+addr+"/x")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		code, _, err := do(t.Context(), client(t, "", false), "GET", "http://"+addr+"/x")
		if err == nil {
			return fmt.Errorf("the service that was removed answers %d", code)
		}
		return nil
	})
}

// scaled has a service behind a waypoint, and another past it to the same pods: the first allows that.
const scaled = demoWaypoint + `---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: demo, labels: {policy.cairnproxy.dev/waypoint-binding: permissive}}
spec: {selector: {app: echo}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: direct, namespace: demo, labels: {istio.io/use-waypoint: none}}
spec: {selector: {app: echo}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: demo}
spec:
  replicas: %d
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers: [{name: echo, image: cairn/echo, env: [{name: GENERATION, value: "%d"}], ports: [{containerPort: 8080}]}]
`

// TestScale changes the number of pods under load, and then their template,
// so that other pods take their place: through the waypoint and past one no
// request fails, and all pods take part.
func TestScale(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "mesh.yaml", fmt.Sprintf(scaled, 1, 1))
	m := up(t, dir)
	who := func(body string) string {
		var e struct{ Pod string }
		_ = json.Unmarshal([]byte(body), &e) // a local reply is no JSON
		return e.Pod
	}
	loads := map[string]*load{}
	for _, s := range []string{"echo", "direct"} {
		loads[s] = startLoad(t, 10, "", "http://"+m.addr(t, "demo", s)+"/delay/5ms", who)
	}
	old := map[string]int{} // pods seen, with their generation
	slow := make(chan error)
	slows := 0
	for i, n := range []int{3, 1, 2, 1, 1, 2, 2} {
		generation := max(i-2, 1) // another from the fifth step on
		if n == 1 {               // what is under way in a pod that goes is finished there
			for range 6 {
				slows++
				go func() {
					code, _, err := do(context.Background(), client(t, "", false), "GET", "http://"+m.addr(t, "demo", "echo")+"/delay/700ms")
					if err == nil && code != 200 {
						err = errors.New(status(code, nil))
					}
					slow <- err
				}()
			}
			eventually(t, 5*time.Second, func() error { return answers(t, "", "http://"+m.addr(t, "demo", "echo")+"/delay/100ms", 200) })
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, scaled, n, generation), 0o644); err != nil {
			t.Fatal(err)
		}
		for name, l := range loads {
			eventually(t, 15*time.Second, func() error {
				// By the pods of now: those of before had their last requests a while ago.
				got := shares(l.since(time.Now().Add(-300 * time.Millisecond)))
				delete(got, "")
				was := 0
				for pod := range got {
					if generation > 1 && old[pod] != 0 && old[pod] != generation {
						was++
					}
				}
				if len(got) != n || was > 0 {
					return fmt.Errorf("%s is answered by %v, want %d pods of generation %d", name, got, n, generation)
				}
				for pod := range got {
					old[pod] = generation
				}
				return nil
			})
		}
	}
	for range slows {
		if err := <-slow; err != nil {
			t.Errorf("a slow request under way when its pod was taken away: %v", err)
		}
	}
	for name, l := range loads {
		t.Run(name, func(t *testing.T) { noneFailed(t, l.stop()) })
	}
}

const slowStarter = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-%d, namespace: demo, labels: {app: web}}
spec:
  containers:
  - name: web
    image: example.com/web
    command: [/bin/sh, -c, "sleep %d; exec %s sample echo --listen $CAIRN_POD_IP:8080"]
    ports: [{containerPort: 8080}]
`

// TestSlowReplacement puts a pod that takes long to start in the place of
// another: the old one answers until the new one does.
func TestSlowReplacement(t *testing.T) {
	dir := t.TempDir()
	path := write(t, dir, "mesh.yaml", fmt.Sprintf(slowStarter, 1, 0, cairnPath(t)))
	m := up(t, dir)
	who := func(body string) string {
		var e struct{ Pod string }
		_ = json.Unmarshal([]byte(body), &e) // a local reply is no JSON
		return e.Pod
	}
	l := startLoad(t, 6, "", "http://"+m.addr(t, "demo", "web")+"/delay/5ms", who)
	if err := os.WriteFile(path, fmt.Appendf(nil, slowStarter, 2, 3, cairnPath(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error { return wantOnly(l.since(time.Now().Add(-500*time.Millisecond)), "web-2", 20) })
	noneFailed(t, l.stop())
}
