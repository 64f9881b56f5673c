package acceptance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNetns runs the book shop with a network namespace per pod: programs that
// know nothing of a mesh ask for each other by name, and are who they are.
func TestNetns(t *testing.T) {
	needRoot(t, "a network namespace per pod")
	needProgram(t, "nsenter", "curl", "ip")
	before := footprint(t)
	var namespaces []string
	t.Run("mesh", func(t *testing.T) {
		m := up(t, bookinfo(t), "--netns")
		pids := podPIDs(t, m)
		namespaces = namespacesBelow(t, m.Process.Pid)
		if len(namespaces) < len(m.Pods) {
			t.Errorf("%d pods are in %d network namespaces", len(m.Pods), len(namespaces))
		}
		in := func(t *testing.T, pod string, args ...string) string {
			t.Helper()
			o := command(t, "", "nsenter", append([]string{"--target", strconv.Itoa(pids[m.pod(t, pod).Name]), "--net", "--mount"}, args...)...)
			if o.code != 0 {
				t.Fatalf("%v in pod %s: exit code %d: %s%s", args, pod, o.code, o.stdout, o.stderr)
			}
			return o.stdout
		}
		code := func(t *testing.T, pod, method, url string) string {
			t.Helper()
			return in(t, pod, "curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, url)
		}
		t.Run("names", func(t *testing.T) {
			for _, name := range []string{"productpage", "productpage.bookinfo", "productpage.bookinfo.svc", "productpage.bookinfo.svc.cluster.local"} {
				page := in(t, "details", "curl", "-sS", "--max-time", "10", "http://"+name+":9080/productpage")
				if !strings.Contains(page, "<title>Simple Bookstore App</title>") || !strings.Contains(page, "Comedy of Errors") {
					t.Errorf("http://%s:9080/productpage answers %.300s", name, page)
				}
			}
		})
		t.Run("canary", func(t *testing.T) {
			body := in(t, "details", "curl", "-sS", "--max-time", "10", "-H", "x-canary: true", "http://productpage:9080/api/v1/products/0/reviews")
			if got := version.FindString(body); got != "reviews-v3" {
				t.Errorf("the canary is answered by %q, want reviews-v3", got)
			}
		})
		for _, test := range []struct{ pod, method, url, want string }{
			{"details", "GET", "http://ratings:9080/ratings/0", "403"},
			{"productpage", "GET", "http://ratings:9080/ratings/0", "200"},
			{"reviews-v2", "GET", "http://ratings:9080/ratings/0", "200"},
			{"productpage", "DELETE", "http://ratings:9080/ratings/0", "403"},
			{"details", "DELETE", "http://productpage:9080/productpage", "403"},
		} {
			t.Run(test.method+"-"+test.pod, func(t *testing.T) {
				if got := code(t, test.pod, test.method, test.url); got != test.want {
					t.Errorf("%s %s from %s: %s, want %s", test.method, test.url, test.pod, got, test.want)
				}
			})
		}
		t.Run("unknown-name", func(t *testing.T) {
			o := command(t, "", "nsenter", "--target", strconv.Itoa(pids[m.pod(t, "details").Name]), "--net", "--mount", "curl", "-sS", "--max-time", "10", "http://no-such-service:9080/")
			if o.code != 6 { // curl: could not resolve host
				t.Errorf("exit code %d of curl for a name that nobody has: %s, want 6", o.code, o.stderr)
			}
		})
		t.Run("waypoint-servers", func(t *testing.T) {
			if o := command(t, "", cairnPath(t), "config", "services", "--admin", m.Waypoints[0].Admin); o.code != 0 || !strings.Contains(o.stdout, "reviews.bookinfo.svc.cluster.local") {
				t.Errorf("config of the waypoint at %s: exit code %d, %.200s%s", m.Waypoints[0].Admin, o.code, o.stdout, o.stderr)
			}
			s := metrics(t, m.Waypoints[0].Metrics)
			if s.sum("istio_requests_total", `source_principal="spiffe://cluster.local/ns/bookinfo/sa/details"`, `response_code="403"`) == 0 {
				t.Error("the waypoint has counted no refusal of details")
			}
		})
		t.Run("node-servers", func(t *testing.T) {
			if o := command(t, "", cairnPath(t), "config", "workloads", "--admin", m.Nodes[0].Admin); o.code != 0 || !strings.Contains(o.stdout, m.pod(t, "ratings").Address) {
				t.Errorf("config of the node proxy at %s: exit code %d, %.200s%s", m.Nodes[0].Admin, o.code, o.stdout, o.stderr)
			}
			s := metrics(t, m.Nodes[0].Metrics)
			for _, reporter := range []string{"source", "destination"} {
				if s.sum("istio_tcp_connections_opened_total", `reporter="`+reporter+`"`, `connection_security_policy="mutual_tls"`) == 0 {
					t.Errorf("the node proxy has counted no connection as %s", reporter)
				}
			}
		})
		t.Run("mtls-only-between-pods", func(t *testing.T) {
			addr := m.pod(t, "ratings").Address
			o := command(t, "", "nsenter", "--target", strconv.Itoa(pids[m.pod(t, "details").Name]), "--net", "--mount", "curl", "-sSk", "--max-time", "5", "https://"+addr+":15008/")
			if o.code == 0 {
				t.Errorf("curl without a certificate reached %s:15008: %s", addr, o.stdout)
			}
		})
	})
	if t.Failed() {
		return
	}
	eventually(t, 10*time.Second, func() error {
		if after := footprint(t); !slices.Equal(before, after) {
			return fmt.Errorf("left behind or taken away: %v", difference(before, after))
		}
		for _, ns := range namespaces {
			if pid, ok := inNamespace(ns); ok {
				return fmt.Errorf("process %d is still in %s", pid, ns)
			}
		}
		return nil
	})
}

// TestNetnsKilled ends a mesh the hard way: what it made goes with it.
func TestNetnsKilled(t *testing.T) {
	needRoot(t, "a network namespace per pod")
	before := footprint(t)
	p := startQuietly(t, "up", bookinfo(t), "--netns", "--json", "--range", takeRange(t).String())
	eventually(t, 40*time.Second, func() error {
		if text, err := os.ReadFile(p.Log); err != nil || !strings.Contains(string(text), `"event":"ready"`) {
			return fmt.Errorf("not ready: %v %v", err, p.Err())
		}
		return nil
	})
	namespaces := namespacesBelow(t, p.Pid)
	p.Signal(os.Kill)
	<-p.Ended()
	eventually(t, 15*time.Second, func() error {
		for _, ns := range namespaces {
			if pid, ok := inNamespace(ns); ok {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				return fmt.Errorf("process %d (%q) is still in %s", pid, strings.ReplaceAll(string(text), "\x00", " "), ns)
			}
		}
		if after := footprint(t); !slices.Equal(before, after) {
			return fmt.Errorf("left behind or taken away: %v", difference(before, after))
		}
		return nil
	})
}

// podPIDs are the processes by which the pods' namespaces can be entered.
func podPIDs(t *testing.T, m *mesh) map[string]int {
	t.Helper()
	var ready struct {
		Pods []struct {
			Name string `json:"name"`
			PID  int    `json:"pid"`
		} `json:"pods"`
	}
	if err := json.Unmarshal([]byte(m.lines(t)[0]), &ready); err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range ready.Pods {
		if p.PID == 0 {
			t.Errorf("pod %s has no process to enter it by", p.Name)
		}
		out[p.Name] = p.PID
	}
	return out
}

// footprint is what a program can leave behind on a machine's network: names
// of namespaces, links, rules, routes, tables, mounts. What other tests make
// (links that begin with cc, namespaces cairn-…) is left out.
func footprint(t *testing.T) []string {
	t.Helper()
	var out []string
	add := func(what, text string) {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line != "" && !strings.HasPrefix(line, "#") && !strings.Contains(line, " cc") && !strings.Contains(line, "cairn-") && !strings.Contains(line, ": cl") {
				out = append(out, what+": "+line)
			}
		}
	}
	for what, args := range map[string][]string{
		"link": {"ip", "-o", "-br", "link"}, "rule": {"ip", "rule"}, "route": {"ip", "route", "show", "table", "all"}, "namespace": {"ip", "netns", "list"},
		"nftables": {"nft", "list", "ruleset"}, "iptables": {"iptables-save", "-t", "nat"},
	} {
		if o, ok := tryCommand(args); ok {
			add(what, o)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			add("mount", f[3]+" at "+f[4])
		}
	}
	slices.Sort(out)
	return out
}

func difference(before, after []string) []string {
	var out []string
	for _, x := range after {
		if !slices.Contains(before, x) {
			out = append(out, "+"+x)
		}
	}
	for _, x := range before {
		if !slices.Contains(after, x) {
			out = append(out, "-"+x)
		}
	}
	return out
}

// namespacesBelow are the network namespaces of a process' descendants, but
// for our own.
func namespacesBelow(t *testing.T, root int) []string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		// "PID (NAME) STATE PARENT …", and the name may hold anything.
		s := string(text)
		f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2]) // the pattern has digits
		if len(f) > 1 {
			parents[pid], _ = strconv.Atoi(f[1]) // digits, too
		}
	}
	var out []string
	for pid := range parents {
		below := false
		for p := pid; p > 1; p = parents[p] {
			below = below || p == root
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if below && err == nil && ns != own && !slices.Contains(out, ns) {
			out = append(out, ns)
		}
	}
	return out
}

// inNamespace returns a process that is in a network namespace.
func inNamespace(ns string) (pid int, ok bool) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return 0, false
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == ns {
			pid, err := strconv.Atoi(strings.Split(l, "/")[2])
			return pid, err == nil
		}
	}
	return 0, false
}
