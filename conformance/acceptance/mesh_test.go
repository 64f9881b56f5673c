package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/peers"
)

// demoWaypoint is a namespace demo with a waypoint for all of its services.
const demoWaypoint = `
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: demo}
spec:
  gatewayClassName: cairn-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
`

// mesh is one `cairn up --json` for the life of a test.
type mesh struct {
	*cairn.Mesh
	dir    string // what the program writes
	prefix netip.Prefix
	events string // file
	access string // file
}

// up starts a mesh of path in a range of addresses of its own and stops it at
// the end of the test, which must go well.
func up(t *testing.T, path string, args ...string) *mesh {
	t.Helper()
	dir := t.TempDir()
	m := &mesh{dir: dir, prefix: takeRange(t), events: filepath.Join(dir, "up.events"), access: filepath.Join(dir, "access.log")}
	args = append([]string{"--range", m.prefix.String(), "--access-log", m.access}, args...)
	var err error
	if m.Mesh, err = cairn.Up(t.Context(), dir, path, args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("failures in the access log:\n%s", m.failures())
		}
		if err := m.Process.Err(); err != nil {
			t.Errorf("cairn up ended before it was told to: %v", err)
			return
		}
		if err := m.Process.Stop(20 * time.Second); err != nil {
			t.Errorf("stopping cairn up: %v", err)
		}
		if t.Failed() {
			t.Logf("the last lines of cairn up:\n%s", m.Process.Tail(30))
		}
	})
	return m
}

// nextRange counts the ranges that this process has taken.
var nextRange atomic.Uint32

// takeRange returns a prefix 127.A.0.0/16, A from 192 to 223, that no other
// process of this suite uses: a listener marks it until the test ends.
func takeRange(t *testing.T) netip.Prefix {
	t.Helper()
	for range 32 {
		a := byte(192 + (uint32(os.Getpid())+nextRange.Add(1))%32)
		mark, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.1:15999", a))
		if err != nil {
			continue
		}
		t.Cleanup(func() { mark.Close() })
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, a, 0, 0}), 16)
	}
	t.Fatal("all ranges of addresses are taken")
	return netip.Prefix{}
}

// addr returns where a port of a service is reached.
func (m *mesh) addr(t *testing.T, namespace, name string) string {
	t.Helper()
	for _, s := range m.Services {
		if s.Namespace == namespace && s.Name == name && len(s.Addresses) > 0 && len(s.Ports) > 0 {
			return net.JoinHostPort(s.Addresses[0], strconv.Itoa(int(s.Ports[0].Listen)))
		}
	}
	t.Fatalf("the ready event has no service %s/%s: %+v", namespace, name, m.Services)
	return ""
}

// pod returns the first pod whose name begins with prefix.
func (m *mesh) pod(t *testing.T, prefix string) cairn.Pod {
	t.Helper()
	for _, p := range m.Pods {
		if strings.HasPrefix(p.Name, prefix) {
			return p
		}
	}
	t.Fatalf("the ready event has no pod %s: %+v", prefix, m.Pods)
	return cairn.Pod{}
}

// client returns an HTTP client that comes from an address, "" for any. Its
// connections are kept if keep is set.
func client(t *testing.T, from string, keep bool) *http.Client {
	t.Helper()
	d := &net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	tr := &http.Transport{DialContext: d.DialContext, DisableKeepAlives: !keep, MaxIdleConnsPerHost: 64, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// do sends a request and returns the status and the body.
func do(ctx context.Context, c *http.Client, method, url string, headers ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// must is do with a status that is expected.
func must(t *testing.T, c *http.Client, want int, method, url string, headers ...string) string {
	t.Helper()
	status, body, err := do(t.Context(), c, method, url, headers...)
	if err != nil {
		t.Fatal(err)
	}
	if status != want {
		t.Fatalf("%s %s: status %d, want %d: %.300s", method, url, status, want, body)
	}
	return body
}

// series are the samples of a metrics page, by their whole text before the value.
type series map[string]float64

// metrics reads a page of metrics.
func metrics(t *testing.T, addr string) series {
	t.Helper()
	body := must(t, client(t, "", false), http.StatusOK, http.MethodGet, "http://"+addr+"/stats/prometheus")
	out := series{}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		out[line[:i]] = v
	}
	return out
}

// sum adds the samples of a metric that have all the labels, given as they are
// written: `reporter="source"`.
func (s series) sum(name string, labels ...string) float64 {
	total := 0.0
next:
	for key, v := range s {
		if !strings.HasPrefix(key, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(key, l) {
				continue next
			}
		}
		total += v
	}
	return total
}

// eventually calls check until it returns nil. What the program writes late
// (logs, counters) is waited for with it.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", within, err)
		}
		<-tick.C
	}
}

// configEvent is printed for each reload.
type configEvent struct {
	Event    string    `json:"event"`
	Accepted int       `json:"accepted"`
	Rejected []problem `json:"rejected"`
	// Unresolved are references that lead nowhere in what is accepted.
	Unresolved []problem `json:"unresolved"`
}

// problem is one thing that is wrong with manifests.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Object  string `json:"object"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

// lines returns the events so far, as text.
func (m *mesh) lines(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(m.events)
	if err != nil {
		t.Fatal(err)
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	var out []string
	s := bufio.NewScanner(bytes.NewReader(whole))
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		out = append(out, s.Text())
	}
	return out
}

// configs returns the config events so far.
func (m *mesh) configs(t *testing.T) []configEvent {
	t.Helper()
	var out []configEvent
	for _, line := range m.lines(t) {
		var e configEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		if e.Event == "config" {
			out = append(out, e)
		}
	}
	return out
}

// nextConfig waits until there are more than seen config events and returns
// the last one.
func (m *mesh) nextConfig(t *testing.T, seen int) configEvent {
	t.Helper()
	var all []configEvent
	eventually(t, 10*time.Second, func() error {
		if all = m.configs(t); len(all) > seen {
			return nil
		}
		return fmt.Errorf("no config event after the first %d", seen)
	})
	return all[len(all)-1]
}

// cairnPath is the binary under test.
func cairnPath(t *testing.T) string {
	t.Helper()
	path, err := peers.Cairn()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// repo is the root of the repository.
func repo(t *testing.T) string {
	t.Helper()
	root, err := peers.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(root)
}

// bookinfo is the example's folder.
func bookinfo(t *testing.T) string { return filepath.Join(repo(t), "examples", "bookinfo") }

// copyFiles copies the YAML files of a folder into a new one.
func copyFiles(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	files, err := filepath.Glob(filepath.Join(from, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests in %s: %v", from, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(f)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// outcome is how a command ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// command runs a program for at most a minute.
func command(t *testing.T, dir, name string, args ...string) outcome {
	t.Helper()
	return commandWithin(t, time.Minute, dir, nil, name, args...)
}

func commandWithin(t *testing.T, d time.Duration, dir string, env []string, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s did not end within %v:\n%s%s", name, strings.Join(args, " "), d, &out, &errs)
	}
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// write puts a file into a folder.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// needRoot skips what only root can do.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("%s needs root: run this suite as root", what)
	}
}

// needProgram skips what needs a program that this machine lacks.
func needProgram(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("there is no %s here", name)
		}
	}
}

// tryCommand returns what a program prints, if it is here and succeeds.
func tryCommand(args []string) (string, bool) {
	out, err := exec.Command(args[0], args[1:]...).Output()
	return string(out), err == nil
}

// failures are the last lines of the access log that tell of an answer of 5xx,
// and of a client's connection that broke.
func (m *mesh) failures() string {
	text, err := os.ReadFile(m.access)
	if err != nil {
		return err.Error()
	}
	var answers, broken []string
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(line, "HTTP/1.1\" 5")
		switch {
		case len(rest) > 2 && rest[2] == ' ':
			answers = append(answers, line)
		case strings.Contains(line, " error=") && strings.Contains(line, "outbound"):
			broken = append(broken, line)
		}
	}
	return strings.Join(append(answers[max(0, len(answers)-6):], broken[max(0, len(broken)-6):]...), "")
}
