package up

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/source"
)

func testReady() readyEvent {
	return readyEvent{
		Services: []serviceInfo{
			{Namespace: "shop", Name: "db", Hostname: "db.shop.svc.cluster.local", Addresses: []string{"127.64.0.9"}, Ports: []portInfo{{"pg", 5432, "TCP", 5432}}},
			{Namespace: "shop", Name: "details", Hostname: "details.shop.svc.cluster.local", Addresses: []string{"127.64.0.1"}, Ports: []portInfo{{"http", 9080, "HTTP", 9080}}},
			{
				Namespace: "shop", Name: "productpage", Hostname: "productpage.shop.svc.cluster.local", Waypoint: "shop/waypoint",
				Addresses: []string{"127.64.0.2"}, Ports: []portInfo{{"http", 80, "HTTP", 10080}},
			},
		},
		Pods: []podInfo{
			{Namespace: "shop", Name: "details-v1-x", Address: "127.96.0.1", Node: "local", ServiceAccount: "details", State: PodRunning},
			{Namespace: "shop", Name: "productpage-v1-x", Address: "127.96.0.2", Node: "local", ServiceAccount: "productpage", State: PodExternal},
		},
		Waypoints: []waypointInfo{{"shop", "waypoint", "127.96.0.3", "127.96.0.3:15000", "127.96.0.3:15020"}},
		Nodes:     []nodeInfo{{"local", "127.96.0.4:15000", "127.96.0.4:15020"}},
	}
}

func TestPrintReady(t *testing.T) {
	var b strings.Builder
	if err := printReady(&b, testReady()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"shop/productpage  127.64.0.2  80 (at 10080)  shop/waypoint",
		"shop/productpage-v1-x  127.96.0.2  local  productpage",
		"external",
		"waypoint shop/waypoint  127.96.0.3  127.96.0.3:15000  127.96.0.3:15020",
		"  curl http://127.64.0.2:10080/productpage\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, &b)
		}
	}
}

func TestCurlLine(t *testing.T) {
	tests := []struct {
		name string
		edit func(*readyEvent)
		want string
	}{
		{"productpage first", func(*readyEvent) {}, "curl http://127.64.0.2:10080/productpage"},
		{"one that runs", func(e *readyEvent) { e.Services = e.Services[:2] }, "curl http://127.64.0.1:9080/"},
		{"no http", func(e *readyEvent) { e.Services = e.Services[:1] }, ""},
		{
			"from a namespace", func(e *readyEvent) { e.Pods[0].PID, e.Pods[1].PID = 7, 8 },
			"nsenter --target 7 --net --mount curl http://productpage.shop:80/productpage",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := testReady()
			tt.edit(&e)
			if got := curlLine(e); got != tt.want {
				t.Errorf("curlLine = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	var b bytes.Buffer
	r := &reporter{out: &b, json: true}
	empty := readyEvent{Services: []serviceInfo{}, Pods: []podInfo{}, Waypoints: []waypointInfo{}, Nodes: []nodeInfo{}}
	for _, err := range []error{
		r.ready(empty),
		r.config(3, nil),
		r.config(0, []source.Problem{{File: "a.yaml", Line: 4, Object: "Service default/a", Field: "spec.ports", Message: "bad; mend it"}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := `{"event":"ready","services":[],"pods":[],"waypoints":[],"nodes":[]}
{"event":"config","accepted":3,"rejected":[]}
{"event":"config","accepted":0,"rejected":[{"file":"a.yaml","line":4,"object":"Service default/a","field":"spec.ports","message":"bad; mend it"}]}
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	b.Reset()
	if err := r.ready(testReady()); err != nil {
		t.Fatal(err)
	}
	var got map[string][]map[string]any
	body := bytes.Replace(b.Bytes(), []byte(`"event":"ready",`), nil, 1)
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{
		"services":  {"namespace", "name", "hostname", "addresses", "ports", "waypoint"},
		"pods":      {"namespace", "name", "address", "node", "serviceAccount", "state"},
		"waypoints": {"namespace", "name", "address", "admin", "metrics"},
		"nodes":     {"name", "admin", "metrics"},
	}
	for list, want := range keys {
		for _, k := range want {
			if _, ok := got[list][0][k]; !ok {
				t.Errorf("%s lack %q: %v", list, k, got[list][0])
			}
		}
		if len(got[list][0]) != len(want) {
			t.Errorf("%s have %v, want %v", list, got[list][0], want)
		}
	}
}
