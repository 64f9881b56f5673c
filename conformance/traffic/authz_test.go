package traffic

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"cairnproxy.dev/cairn/conformance/envoy"
)

const (
	// rootNamespace is Istio's, whose policies may be for a GatewayClass.
	rootNamespace = "istio-system"
	onEcho        = `{kind: Service, name: echo}`
	onWaypoint    = `{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}`
)

// authz is an AuthorizationPolicy of the service echo.
func authz(name, action, rules string) string { return authzAt("$NS", name, onEcho, action, rules) }

// authzAt is one of a namespace with a target.
func authzAt(ns, name, target, action, rules string) string {
	text := fmt.Sprintf("\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s, namespace: %s}\nspec:\n  targetRefs: [%s]\n  action: %s\n",
		name, ns, target, action)
	if rules != "" {
		text += "  rules:\n  " + strings.ReplaceAll(strings.TrimSpace(rules), "\n", "\n  ") + "\n"
	}
	return text
}

// inDryRun gives a policy Istio's annotation.
func inDryRun(policy string) string {
	return strings.Replace(policy, "metadata: {", `metadata: {annotations: {istio.io/dry-run: "true"}, `, 1)
}

// access is an AccessPolicy.
func access(name, target, mode, rules string) string {
	return fmt.Sprintf("\n---\napiVersion: policy.cairnproxy.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: %s, namespace: $NS}\nspec:\n  targetRefs: [%s]\n  mode: %s\n  rules:\n  %s\n",
		name, target, mode, strings.ReplaceAll(strings.TrimSpace(rules), "\n", "\n  "))
}

// authorize gives Envoy the filters that istiod makes of the trial's policies, before all others.
func (x *trial) authorize(services []envoyService) error {
	var all []envoy.Authz
	for part := range strings.SplitSeq("\n"+x.text, "\n---\n") {
		if !strings.Contains(part, "kind: AuthorizationPolicy\n") {
			continue
		}
		doc, err := yaml.YAMLToJSON([]byte(part))
		if err != nil {
			return err
		}
		var p envoy.Authz
		if err := json.Unmarshal(doc, &p); err != nil {
			return err
		}
		all = append(all, p)
	}
	for i := range services {
		s := &services[i]
		name, _, _ := strings.Cut(s.Host, ".")
		var own []envoy.Authz
		for _, p := range all {
			for _, ref := range p.Spec.TargetRefs {
				if ref.Kind == "Gateway" || ref.Kind == "GatewayClass" || ref.Name == name {
					own = append(own, p)
					break
				}
			}
		}
		filters := envoy.RBACFilters(own, s.TCP, x.shadow())
		if s.TCP {
			s.Network = filters
		} else {
			s.Filters = append(filters, s.Filters...)
		}
	}
	return nil
}

// shadow begins the names of what Envoy counts of policies in dry run.
func (x *trial) shadow() string { return "istio_dry_run_" + strings.ReplaceAll(x.ns, "-", "_") }

// metric returns the value of a series in a page of metrics: its name and labels have all texts. It is 0 where
// there is none.
func metric(page string, texts ...string) (sum float64) {
lines:
	for line := range strings.Lines(page) {
		for _, s := range texts {
			if !strings.Contains(line, s) {
				continue lines
			}
		}
		var v float64
		if i := strings.LastIndexByte(strings.TrimSpace(line), ' '); i >= 0 {
			fmt.Sscan(line[i:], &v)
		}
		sum += v
	}
	return sum
}

// page gets something of the waypoint's admin or metrics port.
func page(addr, path string) (string, error) {
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// counted proves that a policy which decides nothing has said something n times: on Cairn a series with these texts in
// the metrics, on Envoy one of its statistics.
func counted(n float64, onEnvoy string, texts ...string) func(*trial) error {
	return func(x *trial) error {
		addr, path := x.metrics, "/metrics"
		want := append([]string{`policy_namespace="` + x.ns + `"`}, texts...)
		if x.peer == "envoy" {
			addr, path, want = x.admin, "/stats", []string{x.shadow() + "." + onEnvoy}
		}
		return eventually(3*time.Second, func() error {
			text, err := page(addr, path)
			if err != nil {
				return err
			}
			if got := metric(text, want...); got != n {
				return wrongf("%q counts %v, want %v", want, got, n)
			}
			return nil
		})
	}
}

// recorded proves that the access log has a line with these texts. Envoy writes its log every ten seconds.
func recorded(texts ...string) func(*trial) error {
	return func(x *trial) error {
		var want []string
		for _, s := range texts {
			want = append(want, x.expand(s))
		}
		return eventually(12*time.Second, func() error {
			if x.logged(want...) == nil {
				return wrongf("the access log has no line with %q", want)
			}
			return nil
		})
	}
}

// connects proves that a client's connection to the TCP port of echo is served, or is not.
func connects(want bool) func(*trial) error {
	return func(x *trial) error {
		before := x.nodes.Streams(x.pod("echo-1").addr)
		conn, pod, err := x.tcpFrom("echo", "hello")
		if err == nil {
			conn.Close()
		}
		if (err == nil) != want {
			return wrongf("the connection reaches %q (%v), want served %v", pod, err, want)
		}
		// Envoy judges a connection when its first byte has come, and opens the next one before.
		if n := x.nodes.Streams(x.pod("echo-1").addr) - before; !want && n > 0 && x.peer == "cairn" {
			return wrongf("the connection was refused, and came to the pod all the same")
		}
		return nil
	}
}
