package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/up"
)

// echoMesh is two versions of a service behind a waypoint, and a client.
const echoMesh = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec: {selector: {app: echo}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo-v1, namespace: shop}
spec: {selector: {app: echo, version: v1}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo-v2, namespace: shop}
spec: {selector: {app: echo, version: v2}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo-1, namespace: shop, labels: {app: echo, version: v1}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: echo-2, namespace: shop, labels: {app: echo, version: v2}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: buyer, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: buyer, namespace: shop}
spec:
  serviceAccountName: buyer
  containers: [{name: curl, image: curlimages/curl, command: [/bin/sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: legacy, namespace: shop}
spec:
  containers: [{name: app, image: example.com/legacy}]
`

const echoRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules:
  - backendRefs:
    - {name: echo-v1, port: 8000, weight: %d}
    - {name: echo-v2, port: 8000, weight: %d}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-delete, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: echo}]
  action: DENY
  rules:
  - to: [{operation: {methods: [DELETE]}}]
`

// testMesh is `cairn up --json` in a process of its own.
type testMesh struct {
	t      *testing.T
	cmd    *exec.Cmd
	events *bufio.Scanner
	ready  testReady
}

// testReady is what a script reads of the ready event.
type testReady struct {
	Event    string `json:"event"`
	Services []struct {
		Namespace, Name, Hostname, Waypoint string
		Addresses                           []string
		Ports                               []struct {
			Name     string
			Port     uint16
			Protocol string
			Listen   uint16
		}
	}
	Pods []struct {
		Namespace, Name, Address, Node, ServiceAccount, State string
		PID                                                   int
	}
	Waypoints []struct{ Namespace, Name, Address, Admin, Metrics string }
	Nodes     []struct{ Name, Admin, Metrics string }
}

// startMesh starts `cairn up` and waits for the ready event. addresses keeps
// meshes of tests that run at the same time apart.
func startMesh(t *testing.T, dir, addresses string, args ...string) *testMesh {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &testMesh{t: t, cmd: exec.Command(self, append([]string{"up", dir, "--json", "--range", addresses}, args...)...)}
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.events = bufio.NewScanner(out)
	m.events.Buffer(nil, 1<<20)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.cmd.ProcessState == nil {
			m.cmd.Process.Kill()
			m.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("cairn up said:\n%s", &stderr)
		}
	})
	m.event(&m.ready)
	if m.ready.Event != "ready" {
		t.Fatalf("the first event is %q, want ready", m.ready.Event)
	}
	return m
}

// event reads the next event.
func (m *testMesh) event(v any) {
	m.t.Helper()
	guard := time.AfterFunc(60*time.Second, func() { m.cmd.Process.Kill() })
	defer guard.Stop()
	if !m.events.Scan() {
		m.t.Fatalf("no further event: %v", m.events.Err())
	}
	if err := json.Unmarshal(m.events.Bytes(), v); err != nil {
		m.t.Fatalf("event %s: %v", m.events.Bytes(), err)
	}
}

// service returns the address of a service's first port.
func (m *testMesh) service(name string) string {
	m.t.Helper()
	for _, s := range m.ready.Services {
		if s.Name == name {
			return fmt.Sprintf("%s:%d", s.Addresses[0], s.Ports[0].Listen)
		}
	}
	m.t.Fatalf("no service %s in %+v", name, m.ready.Services)
	return ""
}

// client returns an HTTP client that is the named pod.
func (m *testMesh) client(pod string) *http.Client {
	m.t.Helper()
	for _, p := range m.ready.Pods {
		if p.Name == pod {
			d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(p.Address), 0))}
			tr := &http.Transport{DialContext: d.DialContext}
			m.t.Cleanup(tr.CloseIdleConnections)
			return &http.Client{Transport: tr, Timeout: 10 * time.Second}
		}
	}
	m.t.Fatalf("no pod %s in %+v", pod, m.ready.Pods)
	return nil
}

// stop sends SIGINT and returns the exit code.
func (m *testMesh) stop() int {
	m.t.Helper()
	if err := m.cmd.Process.Signal(syscall.SIGINT); err != nil {
		m.t.Fatal(err)
	}
	io.Copy(io.Discard, readerOf(m.events))
	guard := time.AfterFunc(30*time.Second, func() { m.cmd.Process.Kill() })
	defer guard.Stop()
	m.cmd.Wait()
	return m.cmd.ProcessState.ExitCode()
}

// readerOf drains what a scanner has not read yet.
func readerOf(s *bufio.Scanner) io.Reader {
	return readFunc(func(b []byte) (int, error) {
		if !s.Scan() {
			return 0, io.EOF
		}
		return copy(b, s.Bytes()), nil
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// ask sends a request and returns the status and the pod that answered.
func ask(ctx context.Context, c *http.Client, method, url string) (status int, pod string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", err
	}
	var answer struct{ Pod string }
	_ = json.Unmarshal(body, &answer) // a local reply is no JSON
	return resp.StatusCode, answer.Pod, nil
}

// testClient returns an HTTP client without connections to keep.
func testClient(t *testing.T) *http.Client {
	t.Helper()
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

func writeMesh(t *testing.T, dir string, v1, v2 int) {
	t.Helper()
	put(t, dir, "mesh.yaml", echoMesh)
	put(t, dir, "route.yaml", fmt.Sprintf(echoRoute, v1, v2))
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	tmp := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestUp(t *testing.T) {
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	m := startMesh(t, dir, "127.80.0.0/16")

	states := map[string]string{}
	for _, p := range m.ready.Pods {
		states[p.Name] = p.State
	}
	for pod, want := range map[string]string{"echo-1": "running", "echo-2": "running", "buyer": "running", "legacy": "external"} {
		if states[pod] != want {
			t.Errorf("pod %s is %q, want %q", pod, states[pod], want)
		}
	}
	if len(m.ready.Waypoints) != 1 || len(m.ready.Nodes) != 1 {
		t.Fatalf("waypoints %+v, nodes %+v, want one of each", m.ready.Waypoints, m.ready.Nodes)
	}

	url := "http://" + m.service("echo") + "/x"
	buyer := m.client("buyer")
	t.Run("routed", func(t *testing.T) {
		for range 20 {
			status, pod, err := ask(t.Context(), buyer, http.MethodGet, url)
			if err != nil || status != http.StatusOK || pod != "echo-1" {
				t.Fatalf("status %d from %q, %v; want 200 from echo-1", status, pod, err)
			}
		}
	})
	t.Run("denied by the waypoint", func(t *testing.T) {
		if status, _, err := ask(t.Context(), buyer, http.MethodDelete, url); err != nil || status != http.StatusForbidden {
			t.Errorf("DELETE: status %d, %v, want 403", status, err)
		}
	})
	t.Run("admin and metrics", func(t *testing.T) { checkEndpoints(t, m) })
	t.Run("reload", func(t *testing.T) { checkReload(t, m, dir, url, buyer) })
	t.Run("broken edit", func(t *testing.T) { checkBrokenEdit(t, m, dir, url, buyer) })
	t.Run("dangling edit", func(t *testing.T) { checkDanglingEdit(t, m, dir, url, buyer) })

	stopDuringRequest(t, m, buyer)
}

// stopDuringRequest ends the mesh while a response streams: it must come to
// its end all the same.
func stopDuringRequest(t *testing.T, m *testMesh, c *http.Client) {
	t.Helper()
	c.CloseIdleConnections() // they would hold up the drain
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.service("echo")+"/stream/20/25ms", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() {
		t.Fatalf("no first line: %v", lines.Err())
	}
	code := make(chan int)
	go func() { code <- m.stop() }()
	n := 1
	for lines.Scan() {
		n++
	}
	if n != 20 || lines.Err() != nil {
		t.Errorf("%d of 20 lines came while the mesh drained, %v", n, lines.Err())
	}
	if got := <-code; got != exitGood {
		t.Errorf("exit code %d after SIGINT, want %d", got, exitGood)
	}
}

// secondWaypoint is a service with a waypoint of its own.
const secondWaypoint = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: second, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: late, namespace: shop, labels: {istio.io/use-waypoint: second}}
spec: {selector: {app: late}, ports: [{name: http, port: 8000, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: shop, labels: {app: late}}
spec:
  containers: [{name: echo, image: cairn/echo, ports: [{containerPort: 8080}]}]
`

// TestUpComesAndGoes adds a waypoint, a service and a pod to a running mesh,
// takes them away, and adds them again.
func TestUpComesAndGoes(t *testing.T) {
	const addresses = "127.86.0.0/16"
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	m := startMesh(t, dir, addresses)
	alloc, err := up.NewLoopback(netip.MustParsePrefix(addresses))
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://%s:8000/x", alloc.Service(mesh.Name{Namespace: "shop", Name: "late"}))
	until := func(want string, good func(status int, pod string, err error) bool) {
		t.Helper()
		c := testClient(t)
		for deadline := time.Now().Add(15 * time.Second); ; {
			status, pod, err := ask(t.Context(), c, http.MethodGet, url)
			if good(status, pod, err) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("status %d from %q, %v; want %s", status, pod, err, want)
			}
		}
	}
	for range 2 {
		put(t, dir, "second.yaml", secondWaypoint)
		var e configSeen
		if m.event(&e); len(e.Rejected) != 0 {
			t.Fatalf("rejected: %+v", e.Rejected)
		}
		until("200 from late", func(status int, pod string, err error) bool { return err == nil && status == 200 && pod == "late" })
		if err := os.Remove(filepath.Join(dir, "second.yaml")); err != nil {
			t.Fatal(err)
		}
		m.event(&e)
		until("a refused connection", func(_ int, _ string, err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
	}
	if code := m.stop(); code != exitGood {
		t.Errorf("exit code %d, want %d", code, exitGood)
	}
}

// TestUpWaypointStops stops the waypoint: what it served is refused, not
// passed around it.
func TestUpWaypointStops(t *testing.T) {
	for name, mode := range map[string]string{"together": "--processes=false", "apart": "--processes"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeMesh(t, dir, 100, 0)
			m := startMesh(t, dir, "127.88.0.0/16", mode)
			c, url := testClient(t), "http://"+m.service("echo")+"/x"
			if status, _, err := ask(t.Context(), c, http.MethodGet, url); err != nil || status != http.StatusOK {
				t.Fatalf("status %d, %v", status, err)
			}
			if status, _, err := ask(t.Context(), c, http.MethodPost, "http://"+m.ready.Waypoints[0].Admin+"/quitquitquit"); err != nil || status != http.StatusOK {
				t.Fatalf("telling the waypoint to quit: status %d, %v", status, err)
			}
			for {
				conn, err := net.Dial("tcp", m.ready.Waypoints[0].Address+":15008")
				if err != nil {
					break
				}
				conn.Close()
			}
			for range 20 {
				if status, pod, err := ask(t.Context(), c, http.MethodGet, url); err == nil {
					t.Fatalf("without its waypoint: status %d from %q, want a refused connection", status, pod)
				}
			}
			if code := m.stop(); code != exitGood {
				t.Errorf("exit code %d, want %d", code, exitGood)
			}
		})
	}
}

func TestUpProcesses(t *testing.T) {
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	m := startMesh(t, dir, "127.81.0.0/16", "--processes")
	buyer := m.client("buyer")
	url := "http://" + m.service("echo") + "/x"
	if status, pod, err := ask(t.Context(), buyer, http.MethodGet, url); err != nil || status != http.StatusOK || pod != "echo-1" {
		t.Errorf("status %d from %q, %v; want 200 from echo-1", status, pod, err)
	}
	checkEndpoints(t, m)
	checkReload(t, m, dir, url, buyer)
	stopDuringRequest(t, m, buyer)
}

func TestUpNetns(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, program := range []string{"nsenter", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s here to enter a pod and ask from there", program)
		}
	}
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	m := startMesh(t, dir, "127.82.0.0/16", "--netns")
	inPod := func(pod string, args ...string) string {
		t.Helper()
		for _, p := range m.ready.Pods {
			if p.Name == pod {
				args = append([]string{"--target", fmt.Sprint(p.PID), "--net", "--mount", "curl", "-sS", "--max-time", "10"}, args...)
				out, err := exec.CommandContext(t.Context(), "nsenter", args...).CombinedOutput()
				if err != nil {
					t.Errorf("curl in pod %s: %v: %s", pod, err, out)
				}
				return string(out)
			}
		}
		t.Fatalf("no pod %s", pod)
		return ""
	}
	for _, name := range []string{"echo", "echo.shop", "echo.shop.svc.cluster.local"} {
		if got := inPod("buyer", "http://"+name+":8000/x"); !strings.Contains(got, `"echo-1"`) {
			t.Errorf("http://%s:8000 from a pod answers %.300s, want echo-1", name, got)
		}
	}
	if got := inPod("buyer", "-X", "DELETE", "-o", "/dev/null", "-w", "%{http_code}", "http://echo:8000/x"); got != "403" {
		t.Errorf("DELETE from a pod: %s, want 403", got)
	}
	for range 2 {
		var e configSeen
		put(t, dir, "second.yaml", secondWaypoint)
		m.event(&e)
		inPod("buyer", "--retry", "30", "--retry-all-errors", "--retry-delay", "1", "-f", "-o", "/dev/null", "http://late:8000/x")
		if err := os.Remove(filepath.Join(dir, "second.yaml")); err != nil {
			t.Fatal(err)
		}
		if m.event(&e); e.Accepted == 0 {
			t.Errorf("event %+v after the file went", e)
		}
	}
	if got := inPod("legacy", "http://echo:8000/x"); !strings.Contains(got, `"echo-1"`) {
		t.Errorf("from an external pod's namespace: %.300s, want echo-1", got)
	}
	if got := m.stop(); got != exitGood {
		t.Errorf("exit code %d after SIGINT, want %d", got, exitGood)
	}
}

func checkEndpoints(t *testing.T, m *testMesh) {
	t.Helper()
	for name, at := range map[string][2]string{
		"waypoint": {m.ready.Waypoints[0].Admin, m.ready.Waypoints[0].Metrics},
		"node":     {m.ready.Nodes[0].Admin, m.ready.Nodes[0].Metrics},
	} {
		var b strings.Builder
		var stderr strings.Builder
		if code := run(t.Context(), []string{"config", "services", "--admin", at[0], "-o", "json"}, &b, &stderr); code != exitGood || !strings.Contains(b.String(), "echo.shop.svc.cluster.local") {
			t.Errorf("cairn config services of the %s: exit code %d, output %.200s %s", name, code, b.String(), stderr.String())
		}
		resp, err := testClient(t).Get("http://" + at[1] + "/stats/prometheus")
		if err != nil {
			t.Errorf("metrics of the %s: %v", name, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !bytes.Contains(body, []byte("istio_build")) {
			t.Errorf("metrics of the %s lack istio_build: %.200s", name, body)
		}
	}
}

type configSeen struct {
	Event                string
	Accepted             int
	Rejected, Unresolved []problemSeen
}

type problemSeen struct {
	File, Object, Field, Message string
	Line                         int
}

// checkReload moves all traffic to v2 while requests run: none may fail.
func checkReload(t *testing.T, m *testMesh, dir, url string, c *http.Client) {
	t.Helper()
	var stop atomic.Bool
	failed := make(chan error, 1)
	go func() {
		for !stop.Load() {
			if status, _, err := ask(t.Context(), c, http.MethodGet, url); err != nil || status != http.StatusOK {
				failed <- fmt.Errorf("status %d, %w", status, err)
				return
			}
		}
		failed <- nil
	}()
	writeMesh(t, dir, 0, 100)
	var e configSeen
	began := time.Now()
	m.event(&e)
	if e.Event != "config" || e.Accepted == 0 || len(e.Rejected) != 0 {
		t.Errorf("event %+v, want an accepted config", e)
	}
	other := m.client("echo-1")
	for pod := ""; pod != "echo-2"; {
		_, p, err := ask(t.Context(), other, http.MethodGet, url)
		if err != nil {
			t.Fatal(err)
		}
		if pod = p; time.Since(began) > 5*time.Second {
			t.Fatal("traffic has not moved 5 s after the edit")
		}
	}
	other.CloseIdleConnections()
	stop.Store(true)
	if err := <-failed; err != nil {
		t.Errorf("a request failed during the reload: %v", err)
	}
}

func checkBrokenEdit(t *testing.T, m *testMesh, dir, url string, c *http.Client) {
	t.Helper()
	put(t, dir, "route.yaml", strings.Replace(fmt.Sprintf(echoRoute, 100, 0), "weight: 100", "weight: -1", 1))
	var e configSeen
	m.event(&e)
	if e.Event != "config" || e.Accepted != 0 || len(e.Rejected) == 0 {
		t.Fatalf("event %+v, want a rejected config", e)
	}
	p := e.Rejected[0]
	if filepath.Base(p.File) != "route.yaml" || p.Line == 0 || p.Object != "HTTPRoute shop/echo" || !strings.Contains(p.Field, "backendRefs") || p.Message == "" {
		t.Errorf("problem %+v does not say where and what", p)
	}
	if status, pod, err := ask(t.Context(), c, http.MethodGet, url); err != nil || status != http.StatusOK || pod != "echo-2" {
		t.Errorf("after a broken edit: status %d from %q, %v; want 200 from echo-2 as before", status, pod, err)
	}
}

// checkDanglingEdit names a Service that does not exist: that is told, all else is served, and its share
// of the requests answers 500 until the reference is mended.
func checkDanglingEdit(t *testing.T, m *testMesh, dir, url string, c *http.Client) {
	t.Helper()
	put(t, dir, "route.yaml", strings.Replace(fmt.Sprintf(echoRoute, 50, 50), "echo-v1", "echo-v9", 1))
	var e configSeen
	m.event(&e)
	if e.Event != "config" || e.Accepted == 0 || len(e.Rejected) != 0 || len(e.Unresolved) != 1 {
		t.Fatalf("event %+v, want an accepted config with one reference that is not resolved", e)
	}
	if p := e.Unresolved[0]; p.Object != "HTTPRoute shop/echo" || p.Field != "spec.rules[0].backendRefs[0].name" || p.Line == 0 {
		t.Errorf("problem %+v does not say where and what", p)
	}
	seen := map[string]int{}
	for deadline := time.Now().Add(10 * time.Second); seen["500 "] < 5 || seen["200 echo-2"] < 5; {
		status, pod, err := ask(t.Context(), c, http.MethodGet, url)
		if err != nil {
			t.Fatal(err)
		}
		if seen[fmt.Sprintf("%d %s", status, pod)]++; time.Now().After(deadline) {
			t.Fatalf("answers %v, want some from echo-2 and some 500", seen)
		}
	}
	put(t, dir, "route.yaml", fmt.Sprintf(echoRoute, 0, 100))
	if m.event(&e); e.Accepted == 0 || len(e.Rejected) != 0 {
		t.Errorf("event %+v after the reference was mended", e)
	}
}

// TestUpSecondSignal ends a mesh that drains a response which has no end.
func TestUpSecondSignal(t *testing.T) {
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	m := startMesh(t, dir, "127.83.0.0/16")
	resp, err := m.client("buyer").Get("http://" + m.service("echo") + "/stream/100000/10ms")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	signal := func() {
		if err := m.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	signal()
	// The drain has begun when nobody listens any more.
	for err == nil {
		var c net.Conn
		if c, err = net.Dial("tcp", m.service("echo")); err == nil {
			c.Close()
		}
	}
	signal()
	began := time.Now()
	m.cmd.Wait()
	if took := time.Since(began); m.cmd.ProcessState.ExitCode() != exitFailed || took > 3*time.Second {
		t.Errorf("after the second signal: exit code %d in %s, want %d at once", m.cmd.ProcessState.ExitCode(), took, exitFailed)
	}
	for _, p := range m.ready.Pods {
		if p.State == "running" && p.Name != "buyer" {
			for deadline := time.Now().Add(5 * time.Second); ; {
				c, err := net.Dial("tcp", p.Address+":8080")
				if err != nil {
					break
				}
				c.Close()
				if time.Now().After(deadline) {
					t.Fatalf("pod %s lives on without its mesh", p.Name)
				}
			}
		}
	}
}

func TestUpPortInUse(t *testing.T) {
	dir := t.TempDir()
	writeMesh(t, dir, 100, 0)
	m := startMesh(t, dir, "127.84.0.0/16")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"up", dir, "--range", "127.84.0.0/16", "--log-level", "error"}, &stdout, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "--range") || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("a second mesh on the same addresses: exit code %d, stderr %s; want one line that names --range", code, &stderr)
	}
	m.stop()
}

func TestUpRefuses(t *testing.T) {
	bad := t.TempDir()
	put(t, bad, "bad.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {portz: []}\n")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"up", bad}, &stdout, &stderr); code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
	for _, want := range []string{"bad.yaml:4", "Service default/a", "portz"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr lacks %q:\n%s", want, &stderr)
		}
	}
}
