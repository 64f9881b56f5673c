package object_test

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
)

// TestWaypointBinding reads the label at every place at which it may stand.
func TestWaypointBinding(t *testing.T) {
	label := func(value string) string {
		if value == "" {
			return ""
		}
		return ", policy.cairnproxy.dev/waypoint-binding: " + value
	}
	for _, tt := range []struct {
		name              string
		ns, service, pod  string
		wantSvc, wantPods bool
	}{
		{"nothing", "", "", "", false, false},
		{"service", "", "permissive", "", true, false},
		{"pod", "", "", "permissive", false, true},
		{"namespace", "permissive", "", "", true, true},
		{"namespace-but-service", "permissive", "strict", "", false, true},
		{"namespace-but-pod", "permissive", "", "strict", true, false},
		{"strict", "strict", "permissive", "permissive", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := `
{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio.io/use-waypoint: wp` + label(tt.ns) + `}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, labels: {x: x` + label(tt.service) + `}}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, labels: {x: x` + label(tt.service) + `}}, spec: {hosts: [a.example, b.example], resolution: DNS, ports: [{name: http, number: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web` + label(tt.pod) + `}}, spec: {containers: [{name: c, image: i}]}}
` + waypoint
			res, _ := translate(t, "f.yaml", text, object.Options{})
			if len(res.Problems) > 0 {
				t.Fatal(res.Problems)
			}
			for _, v := range res.Parts.Services {
				if v.WaypointOptional != tt.wantSvc {
					t.Errorf("service %s: optional %v, want %v", v.Key, v.WaypointOptional, tt.wantSvc)
				}
			}
			for _, w := range res.Parts.Workloads {
				if w.Name == "web" && w.WaypointOptional != tt.wantPods {
					t.Errorf("pod %s: optional %v, want %v", w.Name, w.WaypointOptional, tt.wantPods)
				}
			}
		})
	}
	for _, kind := range []string{"Service", "Namespace"} {
		text := "apiVersion: v1\nkind: " + kind + "\nmetadata:\n  name: x\n  labels:\n    policy.cairnproxy.dev/waypoint-binding: loose # HERE\n"
		name := kind + " x"
		if kind == "Service" {
			text, name = text+"spec: {}\n", "Service default/x"
		}
		checkWrong(t, []wrong{{kind, text, name, "metadata.labels[policy.cairnproxy.dev/waypoint-binding]", "use strict"}})
	}
}

// TestSharedAccount has a pod that can prove to be the waypoint, by no more than its account.
func TestSharedAccount(t *testing.T) {
	for account, want := range map[string]int{"wp": 1, "other": 0} {
		text := `
{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {serviceAccountName: ` + account + `, containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web2}, spec: {serviceAccountName: ` + account + `, containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: instance, labels: {gateway.networking.k8s.io/gateway-name: wp}}, spec: {serviceAccountName: wp, containers: [{name: c, image: i}]}}
` + waypoint
		res, _ := translate(t, "f.yaml", text, object.Options{})
		n := 0
		for _, note := range res.Notices {
			if strings.Contains(note.String(), "pod default/web runs under the waypoint's service account wp") {
				n++
			}
		}
		if n != want || len(res.Problems) > 0 {
			t.Errorf("account %s: told %d times, want %d: %v %v", account, n, want, res.Notices, res.Problems)
		}
	}
}

// TestAbsentWaypoint names a waypoint that does not exist: what names it stays bound, the
// rest is served, and the status tells.
func TestAbsentWaypoint(t *testing.T) {
	text := `
{apiVersion: v1, kind: Namespace, metadata: {name: whole, labels: {istio.io/use-waypoint: gone}}}
---
{apiVersion: v1, kind: Service, metadata: {name: below, namespace: whole}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: below, namespace: whole}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bound, labels: {istio.io/use-waypoint: gone}}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: free}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bound, labels: {istio.io/use-waypoint: gone}}, spec: {containers: [{name: c, image: i}]}}
`
	gateway := "\n---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gone, namespace: NS}, spec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n"
	check := func(res object.Result, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for _, v := range res.Parts.Services {
			if v.Waypoint != nil {
				got["Service "+v.Name] = v.Waypoint.Name.String()
			}
		}
		for _, w := range res.Parts.Workloads {
			if w.Waypoint != nil {
				got["Pod "+w.Name] = w.Waypoint.Name.String()
			}
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s is bound to %q, want %q", k, got[k], v)
			}
			delete(got, k)
		}
		if len(got) > 0 {
			t.Errorf("bound too: %v", got)
		}
	}
	tr := object.NewTranslator(object.Options{})
	f := object.Decode("f.yaml", []byte(text))
	all := map[string]string{"Service below": "whole/gone", "Service bound": "default/gone", "Pod bound": "default/gone"}
	for range 2 { // the second time much of it is remembered
		res := tr.Translate(f.Objects)
		if len(res.Problems) != 3 {
			t.Fatalf("problems: %v, want 3", res.Problems)
		}
		for _, p := range res.Problems {
			if !p.Served {
				t.Errorf("%v refuses everything", p)
			}
		}
		check(res, all)
		told := map[string]bool{}
		for _, s := range res.Parts.Statuses {
			c := s.Parents[0].Conditions[0]
			if c.Type != "istio.io/WaypointBound" || c.True || c.Reason != "WaypointMissing" || !strings.Contains(c.Message, "waypoint-binding is permissive") || s.Parents[0].Parent.Kind != "Gateway" {
				t.Errorf("status of %s %s: %+v", s.Kind, s.Object, s.Parents)
			}
			told[s.Kind+" "+s.Object.String()] = true
		}
		if len(told) != 3 || !told["Service default/bound"] || !told["Pod default/bound"] || !told["Namespace /whole"] {
			t.Errorf("statuses of %v", told)
		}
	}
	// The waypoints come: all is well.
	with := append(append(f.Objects[:len(f.Objects):len(f.Objects)], object.Decode("g.yaml", []byte(strings.Replace(gateway, "NS", "default", 1))).Objects...),
		object.Decode("h.yaml", []byte(strings.Replace(gateway, "NS", "whole", 1))).Objects...)
	res := tr.Translate(with)
	if len(res.Problems) != 0 || len(res.Parts.Statuses) != 0 {
		t.Errorf("problems %v, statuses %v; want none", res.Problems, res.Parts.Statuses)
	}
	check(res, map[string]string{"Service below": "whole/gone", "Service bound": "default/gone"})
	// A namespace's waypoint serves services unless it says otherwise; a pod stays bound to its own
	// as long as that is not known.
	if s := mesh.NewSnapshot(1, res.Parts); s.Waypoint(mesh.Name{Namespace: "whole", Name: "gone"}) == nil {
		t.Error("the waypoint is not there")
	}
}
