package acceptance

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cairnproxy.dev/cairn/conformance/proc"
)

// mistakes are manifests with one mistake each, in the line marked with "# <".
var mistakes = []struct {
	name, text           string
	object, field, words string
}{
	{"syntax", `
apiVersion: v1
kind: Service
metadata:
  name: a
  namespace: [demo # <
`, "", "", "syntax"},
	{"tab", "apiVersion: v1\nkind: Service\nmetadata:\n\tname: a # <\n", "", "", "syntax"},
	{"unknown-field", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec:
  selectr: {app: a} # <
  ports: [{port: 80}]
`, "Service demo/a", "spec.selectr", "selector"},
	{"unknown-field-deep", `
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: demo}
spec:
  containers:
  - name: a
    image: cairn/echo
    ports:
    - containerProt: 80 # <
`, "Pod demo/a", "containerProt", "containerPort"},
	{"bad-value", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec:
  ports:
  - name: http
    port: 70000 # <
`, "Service demo/a", "spec.ports[0].port", "65535"},
	{"wrong-type", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec:
  ports:
  - name: http
    port: eighty # <
`, "Service demo/a", "spec.ports[0].port", "eighty"},
	{"bad-address", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec:
  clusterIP: 300.1.2.3 # <
  ports: [{port: 80}]
`, "Service demo/a", "spec.clusterIP", "300.1.2.3"},
	{"bad-action", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: demo}
spec:
  action: MAYBE # <
`, "AuthorizationPolicy demo/p", "spec.action", "ALLOW"},
	{"bad-duration", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: a}]
  rules:
  - timeouts:
      request: soon # <
    backendRefs: [{name: a, port: 80}]
`, "HTTPRoute demo/r", "timeouts.request", "soon"},
	{"bad-regex", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: a}]
  rules:
  - matches:
    - path:
        type: RegularExpression
        value: "/a(b" # <
    backendRefs: [{name: a, port: 80}]
`, "HTTPRoute demo/r", "path", ""},
	{"dangling-backend", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: a}]
  rules:
  - backendRefs:
    - name: nowhere # <
      port: 80
`, "HTTPRoute demo/r", "backendRefs[0]", "nowhere"},
	{"dangling-parent", `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec:
  parentRefs:
  - group: ""
    kind: Service
    name: nowhere # <
  rules: []
`, "HTTPRoute demo/r", "parentRefs[0]", "nowhere"},
	{"dangling-waypoint", `
apiVersion: v1
kind: Namespace
metadata:
  name: demo
  labels:
    istio.io/use-waypoint: none-such # <
`, "Namespace demo", "istio.io/use-waypoint", "none-such"},
	{"dangling-policy", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: demo}
spec:
  targetRefs:
  - group: ""
    kind: Service
    name: nowhere # <
  action: DENY
  rules: [{}]
`, "AuthorizationPolicy demo/p", "targetRefs[0]", "nowhere"},
	{"duplicate", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata:
  name: a # <
  namespace: demo
spec: {ports: [{port: 81}]}
`, "Service demo/a", "metadata.name", "twice"},
	{"duplicate-key", `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: demo}
spec:
  ports: [{port: 80}]
  ports: [{port: 81}] # <
`, "Service demo/a", "spec", "twice"},
	{"cycle", `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: one
  namespace: demo
  labels:
    istio.io/use-waypoint: two # <
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: two
  namespace: demo
  labels:
    istio.io/use-waypoint: one
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
`, "Gateway demo/one", "istio.io/use-waypoint", "two"},
	{"not-an-object", "- just # <\n- a list\n", "", "", "Kubernetes"},
	{"no-kind", "apiVersion: v1 # <\nmetadata: {name: x}\n", "", "kind", "Kubernetes"},
	{"no-name", "apiVersion: v1\nkind: Service\nmetadata: {namespace: demo} # <\nspec: {ports: [{port: 80}]}\n", "Service", "name", ""},
	{"too-deep", "a: " + strings.Repeat("[", 200000) + " # <\n", "", "", ""},
	{"bomb", "a: &a [x,x,x,x,x,x,x,x,x,x] # <\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
		"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h,*h]\n", "", "", ""},
	{"binary", "\xff\xfe\x00\x01garbage # <\n", "", "", ""},
}

// TestMistakes gives each to `cairn check`, which says file, line, object,
// field and remedy, and to `cairn up`, which says the same and does not start: but for
// routes' references that lead nowhere, of which no more than what depends on them suffers.
func TestMistakes(t *testing.T) {
	for _, test := range mistakes {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			text := strings.TrimPrefix(test.text, "\n")
			line := 1 + strings.Count(text[:strings.Index(text, "# <")], "\n")
			write(t, dir, "mesh.yaml", text)
			o := command(t, dir, cairnPath(t), "check", dir, "--json")
			var report struct {
				Problems []problem `json:"problems"`
			}
			if err := json.Unmarshal([]byte(o.stdout), &report); err != nil || o.code != 1 || len(report.Problems) == 0 {
				t.Fatalf("check: exit code %d, %v: %.500s%s", o.code, err, o.stdout, o.stderr)
			}
			// One mistake may have consequences; it is one of what is told.
			p := report.Problems[0]
			for _, other := range report.Problems {
				if strings.Contains(other.Field, test.field) {
					p = other
					break
				}
			}
			if filepath.Base(p.File) != "mesh.yaml" || p.Line != line {
				t.Errorf("the place is %s:%d, want mesh.yaml:%d (%s)", p.File, p.Line, line, p.Message)
			}
			if !strings.HasPrefix(p.Object, test.object) || !strings.Contains(p.Field, test.field) || !strings.Contains(p.Message, test.words) {
				t.Errorf("problem %+v, want object %q, field %q and the word %q", p, test.object, test.field, test.words)
			}
			if p.Message == "" || len(p.Message) > 400 || strings.ContainsAny(p.Message, "\n") {
				t.Errorf("the message is no clear line: %.600q", p.Message)
			}
			cmds := []string{"check", "up"}
			if strings.HasPrefix(test.name, "dangling") {
				cmds = cmds[:1] // up serves the rest: see the reload of a dangling reference, and TestWaypointGone
			}
			for _, cmd := range cmds {
				o := command(t, dir, cairnPath(t), cmd, dir)
				if all := o.stdout + o.stderr; o.code != 1 || !strings.Contains(all, fmt.Sprintf("mesh.yaml:%d: ", p.Line)) || !strings.Contains(all, p.Message) || strings.Contains(all, "goroutine ") {
					t.Errorf("%s: exit code %d, want 1 and the same problem: %.500s", cmd, o.code, all)
				}
			}
		})
	}
}

// TestAllAtOnce puts several mistakes into several files: all are told.
func TestAllAtOnce(t *testing.T) {
	dir := t.TempDir()
	want := []string{}
	for _, test := range mistakes {
		switch test.name {
		case "unknown-field", "dangling-waypoint", "bad-action":
			write(t, dir, test.name+".yaml", strings.ReplaceAll(test.text, "demo", test.name))
			want = append(want, test.name+".yaml:")
		}
	}
	o := command(t, dir, cairnPath(t), "check", dir)
	for _, w := range want {
		if !strings.Contains(o.stdout, w) {
			t.Errorf("nothing is said of %s:\n%s", w, o.stdout)
		}
	}
}

// TestCommandLine gives the program arguments and circumstances in which it
// cannot work: one line that says what to do, and the right exit code.
func TestCommandLine(t *testing.T) {
	empty := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	missing := filepath.Join(empty, "missing")
	for _, test := range []struct {
		name  string
		args  []string
		code  int
		words string
	}{
		{"help", []string{"--help"}, 0, ""},
		{"up-help", []string{"up", "--help"}, 0, ""},
		{"version", []string{"version"}, 0, ""},
		{"check", []string{"check", bookinfo(t)}, 0, ""},
		{"no-command", []string{"frobnicate"}, 2, "unknown command"},
		{"no-flag", []string{"up", bookinfo(t), "--frobnicate"}, 2, "unknown flag"},
		{"no-path", []string{"up"}, 2, "arg"},
		{"check-no-path", []string{"check"}, 2, "arg"},
		{"bad-range", []string{"up", bookinfo(t), "--range", "bogus"}, 2, "--range"},
		{"foreign-range", []string{"up", bookinfo(t), "--range", "10.0.0.0/16"}, 1, "127.0.0.0/8"},
		{"missing-folder", []string{"up", missing}, 1, "no such file or folder"},
		{"check-missing-folder", []string{"check", missing}, 1, "no such file or folder"},
		{"empty-folder", []string{"up", empty}, 1, "add manifests"},
		{"access-log", []string{"up", bookinfo(t), "--access-log", missing + "/x"}, 1, "access log"},
		{"no-proxy", []string{"config", "--admin", "127.0.0.1:1"}, 1, "is one running"},
		{"bad-admin", []string{"config", "--admin", "no where"}, 2, "--admin"},
		{"sample", []string{"sample", "nope"}, 2, "nope"},
		{"sample-service", []string{"sample", "bookinfo", "nope"}, 2, "nope"},
		{"sample-port-taken", []string{"sample", "echo", "--listen", taken.Addr().String()}, 1, "in use"},
		{"waypoint-flags", []string{"waypoint"}, 2, "needed"},
		{"waypoint-gateway", []string{"waypoint", "--manifests", bookinfo(t), "--gateway", "x", "--address", "127.0.0.1", "--cert", "c", "--key", "k", "--root", "r"}, 2, "NAMESPACE/NAME"},
		{"waypoint-cert", []string{"waypoint", "--manifests", bookinfo(t), "--gateway", "bookinfo/waypoint", "--address", "127.0.0.1", "--cert", missing, "--key", missing, "--root", missing}, 1, missing},
		{"ztunnel-flags", []string{"ztunnel"}, 2, "needed"},
		{"log-level", []string{"check", bookinfo(t), "--log-level", "loud"}, 2, "--log-level"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := command(t, empty, cairnPath(t), test.args...)
			if o.code != test.code || !strings.Contains(o.stderr, test.words) && !strings.Contains(o.stdout, test.words) {
				t.Errorf("exit code %d, want %d and %q: %s%s", o.code, test.code, test.words, o.stdout, o.stderr)
			}
			if test.code == 1 && strings.Count(o.stdout+o.stderr, "\n") != 1 {
				t.Errorf("want one line: %q", o.stdout+o.stderr)
			}
			if test.code == 2 && !strings.Contains(o.stderr, "--help") {
				t.Errorf("want a hint at --help: %q", o.stderr)
			}
		})
	}
}

// TestPortInUse starts a mesh where another is, and one whose service port is
// taken.
func TestPortInUse(t *testing.T) {
	prefix := takeRange(t)
	first := startQuietly(t, "up", bookinfo(t), "--json", "--range", prefix.String())
	eventually(t, 30e9, func() error {
		if text, err := os.ReadFile(first.Log); err != nil || !strings.Contains(string(text), `"event":"ready"`) {
			return fmt.Errorf("not ready: %v", err)
		}
		return nil
	})
	o := command(t, "", cairnPath(t), "up", bookinfo(t), "--range", prefix.String())
	if o.code != 1 || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "in use") || !strings.Contains(o.stderr, "--range") {
		t.Errorf("a second mesh in the same range: exit code %d, %q, want 1 and one line that says what is in use and what to do", o.code, o.stderr)
	}
	if err := first.Err(); err != nil {
		t.Errorf("the first mesh suffered: %v", err)
	}
	interrupt(t, first)
}

// startQuietly runs the program until the end of the test at the latest.
func startQuietly(t *testing.T, args ...string) *proc.Process {
	t.Helper()
	dir := t.TempDir()
	p, err := proc.Start(proc.Options{Path: cairnPath(t), Args: args, Dir: dir, Log: filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.Err() == nil {
			p.Signal(syscall.SIGKILL)
			<-p.Ended()
		}
	})
	return p
}

// TestOtherUser does as a user without rights what needs them, and what does not.
func TestOtherUser(t *testing.T) {
	needRoot(t, "becoming another user")
	needProgram(t, "setpriv", "curl")
	// The binary and the manifests, where that user can read them.
	dir, err := os.MkdirTemp("", "cairn-acceptance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := os.ReadFile(cairnPath(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "cairn")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	as := []string{"--reuid=65534", "--regid=65534", "--clear-groups", path}
	write(t, dir, "mesh.yaml", `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
`)
	o := command(t, "/", "setpriv", append(as, "up", filepath.Join(dir, "mesh.yaml"), "--netns")...)
	if o.code != 1 || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "root") || !strings.Contains(o.stderr, "sudo") {
		t.Errorf("--netns without rights: exit code %d, %q, want 1 and one line that says to use sudo", o.code, o.stderr)
	}
	secret := filepath.Join(dir, "secret.yaml")
	if err := os.WriteFile(secret, []byte("x: y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := command(t, "/", "setpriv", append(as, "up", secret)...); o.code != 1 || !strings.Contains(o.stderr, "permission") {
		t.Errorf("a file that cannot be read: exit code %d, %q", o.code, o.stderr)
	}
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	// Without --netns nothing needs rights.
	p, err := proc.Start(proc.Options{
		Path: "/usr/bin/env", Args: append([]string{"setpriv"}, append(as, "up", filepath.Join(dir, "mesh.yaml"), "--json", "--access-log", "none", "--range", takeRange(t).String())...),
		Dir: "/", Env: []string{"TMPDIR=/tmp"}, Log: filepath.Join(t.TempDir(), "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Signal(syscall.SIGKILL) }) // it has ended when all went well
	var ready struct {
		Services []struct {
			Addresses []string
			Ports     []struct{ Port, Listen int }
		}
	}
	eventually(t, 30e9, func() error {
		if err := p.Err(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(p.Log)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, `{"event":"ready"`) {
				return json.Unmarshal([]byte(line), &ready)
			}
		}
		return fmt.Errorf("not ready: %s", text)
	})
	if len(ready.Services) != 1 || len(ready.Services[0].Ports) != 1 {
		t.Fatalf("ready: %+v", ready)
	}
	s := ready.Services[0]
	// Whether a port below 1024 may be bound is the machine's: net.ipv4.ip_unprivileged_port_start.
	if l := s.Ports[0].Listen; l != 80 && l != 10080 {
		t.Errorf("port 80 is bound at %d, want 80 or 10080", l)
	}
	must(t, client(t, "", false), 200, "GET", fmt.Sprintf("http://%s:%d/x", s.Addresses[0], s.Ports[0].Listen))
	interrupt(t, p)
}
