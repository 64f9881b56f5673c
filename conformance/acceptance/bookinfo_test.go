package acceptance

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/proc"
)

// TestBookinfo is the first tour: one command, and a mesh that does what the
// example's manifests say.
func TestBookinfo(t *testing.T) {
	m := up(t, bookinfo(t))
	t.Run("ready", func(t *testing.T) { testReadyContract(t, m) })
	// Before other traffic: tunnels that stay open count once.
	t.Run("hops", func(t *testing.T) { testHops(t, m) })
	t.Run("split", func(t *testing.T) { testSplit(t, m) })
	t.Run("canary", func(t *testing.T) { testCanary(t, m) })
	t.Run("policies", func(t *testing.T) { testPolicies(t, m) })
	t.Run("counted", func(t *testing.T) { testCounted(t, m) })
	t.Run("wire", func(t *testing.T) { testWire(t, m) })
	t.Run("config", func(t *testing.T) { testConfigCommand(t, m) })
}

// testReadyContract compares the ready event with its contract, field by field.
func testReadyContract(t *testing.T, m *mesh) {
	lines := m.lines(t)
	if len(lines) != 1 {
		t.Fatalf("%d events before anything changed, want the ready event alone", len(lines))
	}
	var raw map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &raw); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, "event", raw, "event", "services", "pods", "waypoints", "nodes")
	for list, keys := range map[string][]string{
		"services":  {"namespace", "name", "hostname", "addresses", "ports", "waypoint"},
		"pods":      {"namespace", "name", "address", "node", "serviceAccount", "state"},
		"waypoints": {"namespace", "name", "address", "admin", "metrics"},
		"nodes":     {"name", "admin", "metrics"},
	} {
		items, _ := raw[list].([]any)
		if len(items) == 0 {
			t.Errorf("%s is %v, want a list", list, raw[list])
		}
		for _, item := range items {
			o, _ := item.(map[string]any)
			wantKeys(t, list, o, keys...)
			for _, port := range asList(o["ports"]) {
				p, _ := port.(map[string]any)
				wantKeys(t, "ports", p, "name", "port", "protocol", "listen")
			}
		}
	}

	services := map[string]string{}
	for _, s := range m.Services {
		services[s.Name] = s.Hostname + " " + s.Waypoint
		if len(s.Addresses) != 1 || len(s.Ports) != 1 || s.Ports[0].Name != "http" || s.Ports[0].Port != 9080 || s.Ports[0].Protocol != "HTTP" || s.Ports[0].Listen != 9080 {
			t.Errorf("service %+v, want one address and port http 9080", s)
		}
	}
	want := map[string]string{}
	for _, n := range []string{"productpage", "details", "ratings", "reviews", "reviews-v1", "reviews-v2", "reviews-v3"} {
		want[n] = n + ".bookinfo.svc.cluster.local bookinfo/waypoint"
	}
	if !reflect.DeepEqual(services, want) {
		t.Errorf("services %v, want %v", services, want)
	}
	accounts := map[string]int{}
	seen := map[string]bool{}
	for _, p := range m.Pods {
		accounts[p.ServiceAccount]++
		if p.Namespace != "bookinfo" || p.State != "running" || p.Node == "" || p.Address == "" || seen[p.Address] {
			t.Errorf("pod %+v, want it running on a node, at an address of its own", p)
		}
		seen[p.Address] = true
	}
	if want := map[string]int{"productpage": 1, "details": 1, "ratings": 1, "reviews": 3}; !reflect.DeepEqual(accounts, want) {
		t.Errorf("pods by account %v, want %v", accounts, want)
	}
	if len(m.Waypoints) != 1 || m.Waypoints[0].Namespace+"/"+m.Waypoints[0].Name != "bookinfo/waypoint" {
		t.Errorf("waypoints %+v, want bookinfo/waypoint", m.Waypoints)
	}
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func wantKeys(t *testing.T, what string, o map[string]any, keys ...string) {
	t.Helper()
	got := []string{}
	for k := range o {
		got = append(got, k)
	}
	slices.Sort(got)
	slices.Sort(keys)
	if !slices.Equal(got, keys) {
		t.Errorf("%s has the fields %v, want %v", what, got, keys)
	}
}

// testHops sends one request from details to reviews-v1 and sees it pass node
// proxy, waypoint, node proxy in their counters.
func testHops(t *testing.T, m *mesh) {
	node, wp := m.Nodes[0].Metrics, m.Waypoints[0].Metrics
	source := []string{`reporter="source"`, `source_principal="spiffe://cluster.local/ns/bookinfo/sa/details"`, `destination_principal="spiffe://cluster.local/ns/bookinfo/sa/waypoint"`, `connection_security_policy="mutual_tls"`}
	dest := []string{`reporter="destination"`, `source_principal="spiffe://cluster.local/ns/bookinfo/sa/waypoint"`, `destination_principal="spiffe://cluster.local/ns/bookinfo/sa/reviews"`, `connection_security_policy="mutual_tls"`}
	request := []string{`reporter="waypoint"`, `source_principal="spiffe://cluster.local/ns/bookinfo/sa/details"`, `destination_principal="spiffe://cluster.local/ns/bookinfo/sa/reviews"`, `response_code="200"`}
	nodeBefore, wpBefore := metrics(t, node), metrics(t, wp)
	must(t, client(t, m.pod(t, "details").Address, false), 200, "GET", "http://"+m.addr(t, "bookinfo", "reviews-v1")+"/reviews/0")
	eventually(t, 5*time.Second, func() error {
		nodeAfter, wpAfter := metrics(t, node), metrics(t, wp)
		for _, hop := range []struct {
			name, metric  string
			before, after series
			labels        []string
		}{
			{"the source's node proxy", "istio_tcp_connections_opened_total", nodeBefore, nodeAfter, source},
			{"the source's node proxy", "istio_tcp_connections_closed_total", nodeBefore, nodeAfter, source},
			{"the waypoint", "istio_requests_total", wpBefore, wpAfter, request},
			{"the waypoint", "istio_request_duration_milliseconds_count", wpBefore, wpAfter, request},
			{"the destination's node proxy", "istio_tcp_connections_opened_total", nodeBefore, nodeAfter, dest},
		} {
			if d := hop.after.sum(hop.metric, hop.labels...) - hop.before.sum(hop.metric, hop.labels...); d != 1 {
				return fmt.Errorf("%s of %s moved by %v, want 1", hop.metric, hop.name, d)
			}
		}
		return nil
	})
}

var version = regexp.MustCompile(`reviews-v[0-9]`)

// testSplit draws a thousand reviews, through the page's API and directly.
func testSplit(t *testing.T, m *mesh) {
	for name, test := range map[string]struct{ from, url string }{
		"page":   {"", "http://" + m.addr(t, "bookinfo", "productpage") + "/api/v1/products/0/reviews"},
		"direct": {m.pod(t, "productpage").Address, "http://" + m.addr(t, "bookinfo", "reviews") + "/reviews/0"},
	} {
		t.Run(name, func(t *testing.T) {
			const n, share = 1000, 0.9
			sigma := math.Sqrt(n * share * (1 - share))
			// A fair draw is outside once in 370 times, and twice running once in 137,000.
			for again := range 2 {
				got := draw(t, client(t, test.from, true), test.url, n)
				if got["reviews-v1"]+got["reviews-v2"] != n {
					t.Fatalf("%v of %d, want answers of v1 and v2 alone", got, n)
				}
				if d := math.Abs(float64(got["reviews-v1"]) - n*share); d <= 3*sigma {
					return
				}
				t.Logf("draw %d: %v of %d, want %v from v1 within %.0f", again+1, got, n, n*share, 3*sigma)
			}
			t.Error("two draws running are outside")
		})
	}
}

// draw counts who answers n requests of four clients.
func draw(t *testing.T, c *http.Client, url string, n int) map[string]int {
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				code, body, err := do(t.Context(), c, "GET", url)
				who := version.FindString(body)
				if err != nil || code != 200 {
					who = "failed with " + status(code, err)
				}
				mu.Lock()
				got[who]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return got
}

func testCanary(t *testing.T, m *mesh) {
	c := client(t, "", true)
	page := "http://" + m.addr(t, "bookinfo", "productpage")
	for range 20 {
		for _, header := range [][]string{{"x-canary", "true"}, {"end-user", "jason"}} {
			body := must(t, c, 200, "GET", page+"/api/v1/products/0/reviews", header...)
			if got := version.FindString(body); got != "reviews-v3" {
				t.Fatalf("%v is answered by %s, want reviews-v3", header, got)
			}
		}
	}
	if got := version.FindString(must(t, c, 200, "GET", page+"/api/v1/products/0/reviews", "x-canary", "false")); got == "reviews-v3" {
		t.Error("x-canary: false is answered by reviews-v3")
	}
}

func testPolicies(t *testing.T, m *mesh) {
	needProgram(t, "curl")
	page, ratings := m.addr(t, "bookinfo", "productpage"), m.addr(t, "bookinfo", "ratings")
	for _, test := range []struct {
		name, from, method, url, want string
	}{
		{"page", "", "GET", page + "/productpage", "200"},
		{"delete", "", "DELETE", page + "/productpage", "403"},
		{"delete-as-pod", "reviews-v1", "DELETE", page + "/productpage", "403"},
		{"ratings-details", "details", "GET", ratings + "/ratings/0", "403"},
		{"ratings-nobody", "", "GET", ratings + "/ratings/0", "403"},
		{"ratings-productpage", "productpage", "GET", ratings + "/ratings/0", "200"},
		{"ratings-reviews", "reviews-v2", "GET", ratings + "/ratings/0", "200"},
		{"ratings-post", "productpage", "POST", ratings + "/ratings/0", "403"},
		{"ratings-delete", "productpage", "DELETE", ratings + "/ratings/0", "403"},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := []string{"-sS", "--max-time", "10", "-w", "\n%{http_code}", "-X", test.method}
			if test.from != "" {
				args = append(args, "--interface", m.pod(t, test.from).Address)
			}
			o := command(t, "", "curl", append(args, "http://"+test.url)...)
			i := strings.LastIndexByte(o.stdout, '\n')
			if o.code != 0 || o.stdout[i+1:] != test.want {
				t.Fatalf("curl ended with %d and status %q, want %s: %s", o.code, o.stdout[i+1:], test.want, o.stderr)
			}
			if body := o.stdout[:i]; test.want == "403" && body != "RBAC: access denied" {
				t.Errorf("refused with %q, want the waypoint's words", body)
			}
		})
	}
	// The waypoint refused it: the request never reached a pod.
	eventually(t, 5*time.Second, func() error {
		for _, line := range readLines(t, m.access) {
			if strings.Contains(line, `"DELETE /productpage HTTP/1.1" 403`) && strings.Contains(line, "rbac_access_denied") {
				return nil
			}
		}
		return fmt.Errorf("no line of the access log says why DELETE was refused")
	})
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

// testCounted sends requests from many clients at once: each is one line of
// the access log and one in the metrics, no more and no less.
func testCounted(t *testing.T, m *mesh) {
	const clients, each = 8, 50
	url := "http://" + m.addr(t, "bookinfo", "ratings")
	token := fmt.Sprintf("/ratings/%d", 100000+os.Getpid())
	labels := []string{`reporter="waypoint"`, `destination_service="ratings.bookinfo.svc.cluster.local"`, `source_principal="spiffe://cluster.local/ns/bookinfo/sa/productpage"`}
	before := metrics(t, m.Waypoints[0].Metrics)
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[int]int{}
	for i := range clients {
		c := client(t, m.pod(t, "productpage").Address, i%2 == 0)
		wg.Go(func() {
			for j := range each {
				method, status := "GET", 200
				switch j % 5 {
				case 3:
					method, status = "DELETE", 403
				case 4:
					method, status = "POST", 403
				}
				got, _, err := do(t.Context(), c, method, url+token)
				if err != nil || got != status {
					t.Errorf("%s: status %d, %v, want %d", method, got, err, status)
				}
				mu.Lock()
				want[got]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	eventually(t, 10*time.Second, func() error {
		after := metrics(t, m.Waypoints[0].Metrics)
		for status, n := range want {
			l := append(slices.Clone(labels), fmt.Sprintf("response_code=%q", fmt.Sprint(status)))
			for _, name := range []string{"istio_requests_total", "istio_request_duration_milliseconds_count"} {
				if d := after.sum(name, l...) - before.sum(name, l...); d != float64(n) {
					return fmt.Errorf("%s moved by %v for status %d, want %d", name, d, status, n)
				}
			}
		}
		lines := map[string]int{}
		for _, line := range readLines(t, m.access) {
			if f := strings.Fields(line); strings.Contains(line, " "+token+" HTTP/1.1") && len(f) > 4 {
				lines[f[4]]++
			}
		}
		for status, n := range want {
			if got := lines[fmt.Sprint(status)]; got != n {
				return fmt.Errorf("the access log has %d lines of status %d, want %d", got, status, n)
			}
		}
		return nil
	})
}

// testConfigCommand asks the running proxies what they believe.
func testConfigCommand(t *testing.T, m *mesh) {
	for name, admin := range map[string]string{"waypoint": m.Waypoints[0].Admin, "node": m.Nodes[0].Admin} {
		t.Run(name, func(t *testing.T) {
			dump := command(t, "", cairnPath(t), "config", "--admin", admin)
			if dump.code != 0 || !json.Valid([]byte(dump.stdout)) {
				t.Fatalf("exit code %d, %.200s %s", dump.code, dump.stdout, dump.stderr)
			}
			if strings.Contains(dump.stdout, "PRIVATE KEY") || strings.Contains(dump.stdout, "UFJJVkFURSBLRVk") {
				t.Error("the dump holds a private key")
			}
			table := command(t, "", cairnPath(t), "config", "services", "--admin", admin)
			vip, _, _ := strings.Cut(m.addr(t, "bookinfo", "reviews"), ":")
			if table.code != 0 || !strings.Contains(table.stdout, "reviews.bookinfo.svc.cluster.local") || !strings.Contains(table.stdout, vip) {
				t.Errorf("the table of services lacks reviews at %s (exit code %d):\n%s%s", vip, table.code, table.stdout, table.stderr)
			}
		})
	}
}

// TestUpForPeople reads what `cairn up` prints without --json, runs the line
// that it says to try, and ends it with Ctrl-C.
func TestUpForPeople(t *testing.T) {
	needProgram(t, "curl")
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	p, err := proc.Start(proc.Options{
		Path: cairnPath(t), Args: []string{"up", bookinfo(t), "--range", takeRange(t).String()},
		Dir: dir, Log: filepath.Join(dir, "log"), Out: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Signal(syscall.SIGKILL) }) // it has ended when all went well
	line := regexp.MustCompile(`(?m)^\s*curl (http://\S+)\s*$`)
	var text string
	eventually(t, 30*time.Second, func() error {
		b, err := os.ReadFile(out)
		if text = string(b); err != nil || !line.MatchString(text) {
			return fmt.Errorf("no curl line yet (%v): %s %v", err, p.Tail(5), p.Err())
		}
		return nil
	})
	for _, s := range []string{"bookinfo/productpage", "bookinfo/reviews-v3", "waypoint", "bookinfo/ratings-v1"} {
		if !strings.Contains(text, s) {
			t.Errorf("what is printed does not name %s:\n%s", s, text)
		}
	}
	o := command(t, "", "curl", "-sS", "-i", line.FindStringSubmatch(text)[1])
	if o.code != 0 || !strings.Contains(o.stdout, "200 OK") || !strings.Contains(o.stdout, "<title>Simple Bookstore App</title>") {
		t.Errorf("the printed line answers (%d) %.400s %s", o.code, o.stdout, o.stderr)
	}
	eventually(t, 5*time.Second, func() error {
		b, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), `"GET /productpage HTTP/1.1" 200`) {
			return fmt.Errorf("no access log on the terminal")
		}
		return nil
	})
	interrupt(t, p)
}

// interrupt ends a program as Ctrl-C does, and wants exit code 0.
func interrupt(t *testing.T, p *proc.Process) {
	t.Helper()
	if err := p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.Ended():
	case <-timer.C:
		t.Fatal("still there 20 s after Ctrl-C")
	}
	if err := p.Stop(time.Second); err != nil {
		t.Errorf("after Ctrl-C: %v, want exit code 0: %s", err, p.Tail(5))
	}
}

// status is the code of an answer, or why there is none.
func status(code int, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", code, http.StatusText(code))
}
