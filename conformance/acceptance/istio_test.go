package acceptance

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// waypointForDefault is the Gateway that is added to what others published.
const waypointForDefault = `
apiVersion: v1
kind: Namespace
metadata:
  name: default
  labels:
    istio.io/use-waypoint: waypoint
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: default
  labels:
    istio.io/waypoint-for: service
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
`

// published returns the folder with Istio's samples: the manifests are data
// that lies beside the repository, and not a part of it.
func published(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(repo(t), "..", "shared", "manifests", "istio")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIPPED: the published manifests are not here: no folder %s", dir)
	}
	return dir
}

// TestPublishedManifests runs Istio's bookinfo, httpbin and curl as they are,
// with one of its routes and a Gateway beside them.
func TestPublishedManifests(t *testing.T) {
	dir := published(t)
	gateway := write(t, t.TempDir(), "gateway.yaml", waypointForDefault)
	m := up(t, filepath.Join(dir, "bookinfo", "bookinfo.yaml"), filepath.Join(dir, "bookinfo", "bookinfo-versions.yaml"),
		filepath.Join(dir, "httpbin"), filepath.Join(dir, "curl"), filepath.Join(dir, "bookinfo", "gateway-api", "route-reviews-90-10.yaml"), gateway)

	for _, s := range m.Services {
		if s.Waypoint != "default/waypoint" {
			t.Errorf("service %s has the waypoint %q, want default/waypoint", s.Name, s.Waypoint)
		}
	}
	for _, p := range m.Pods {
		if p.State != "running" {
			t.Errorf("pod %s is %s, want running: its image is a known sample, or its command is here", p.Name, p.State)
		}
	}
	curl := m.pod(t, "curl").Address
	c := client(t, curl, true)
	body := must(t, c, 200, "GET", "http://"+m.addr(t, "default", "productpage")+"/productpage")
	for _, want := range []string{"<title>Simple Bookstore App</title>", "Comedy of Errors", "reviews-v"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%.600s", want, body)
		}
	}
	got := map[string]int{}
	const n = 300
	for range n {
		got[version.FindString(must(t, c, 200, "GET", "http://"+m.addr(t, "default", "reviews")+"/reviews/0"))]++
	}
	if d := math.Abs(float64(got["reviews-v2"]) - n*0.1); d > 3*math.Sqrt(n*0.09) || got["reviews-v1"]+got["reviews-v2"] != n {
		t.Errorf("%v of %d, want 90%% v1 and 10%% v2", got, n)
	}
	httpbin := "http://" + m.addr(t, "default", "httpbin")
	if body := must(t, c, 200, "GET", httpbin+"/get?x=1", "X-Custom", "seen"); !strings.Contains(body, "X-Custom") || !strings.Contains(body, "seen") {
		t.Errorf("httpbin /get says %.300s", body)
	}
	for path, want := range map[string]int{"/status/418": 418, "/status/503": 503, "/headers": 200, "/delay/0": 200, "/ip": 200, "/user-agent": 200, "/bytes/16": 200} {
		must(t, c, want, "GET", httpbin+path)
	}
	must(t, c, 200, http.MethodPost, httpbin+"/post")
	// The caller's identity is the one of curl's own service account.
	principal := `source_principal="spiffe://cluster.local/ns/default/sa/curl"`
	if metrics(t, m.Waypoints[0].Metrics).sum("istio_requests_total", principal, `destination_service_name="httpbin"`) == 0 {
		t.Errorf("the waypoint has counted no request with %s", principal)
	}
}

// TestPublishedRoutes checks each route file by itself, and all together:
// several define the same object, which is an error that names both places.
func TestPublishedRoutes(t *testing.T) {
	dir := published(t)
	gateway := write(t, t.TempDir(), "gateway.yaml", waypointForDefault)
	common := []string{filepath.Join(dir, "bookinfo", "bookinfo.yaml"), filepath.Join(dir, "bookinfo", "bookinfo-versions.yaml"), gateway}
	routes, err := filepath.Glob(filepath.Join(dir, "bookinfo", "gateway-api", "*.yaml"))
	if err != nil || len(routes) < 2 {
		t.Fatalf("%d route files: %v", len(routes), err)
	}
	for _, r := range routes {
		if o := command(t, "", cairnPath(t), append([]string{"check", r}, common...)...); o.code != 0 {
			t.Errorf("%s alone: exit code %d\n%s%s", filepath.Base(r), o.code, o.stdout, o.stderr)
		}
	}
	twice := regexp.MustCompile(`(\S+\.yaml):(\d+): HTTPRoute default/reviews: .* defined twice: here and at (\S+\.yaml):(\d+)`)
	for _, cmd := range []string{"check", "up"} {
		o := command(t, "", cairnPath(t), append(append([]string{cmd}, routes...), common...)...)
		text := o.stdout + o.stderr
		if o.code != 1 {
			t.Errorf("%s of all routes together: exit code %d, want 1\n%s", cmd, o.code, text)
		}
		found := twice.FindStringSubmatch(text)
		if found == nil || found[1] == found[3] {
			t.Errorf("%s does not name both places of a duplicate:\n%s", cmd, text)
			continue
		}
		for _, place := range [][2]string{{found[1], found[2]}, {found[3], found[4]}} {
			if !strings.Contains(fmt.Sprint(routes), filepath.Base(place[0])) {
				t.Errorf("%s names %s:%s, which is no route file", cmd, place[0], place[1])
			}
		}
	}
}
