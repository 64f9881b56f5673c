package traffic

import (
	"cmp"
	"fmt"
	"strings"

	"cairnproxy.dev/cairn/conformance/envoy"
)

// onService is a TrafficPolicy for the service echo.
func onService(spec string) string {
	return trafficPolicy("p", `{group: "", kind: Service, name: echo}`, spec)
}

// onRoute is one for the HTTPRoute r, or one of its rules.
func onRoute(rule, spec string) string {
	target := "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}"
	if rule != "" {
		target = strings.TrimSuffix(target, "}") + ", sectionName: " + rule + "}"
	}
	return trafficPolicy("p", target, spec)
}

// unattached is one that only an ExtensionRef names.
func unattached(name, spec string) string { return trafficPolicy(name, "", spec) }

func trafficPolicy(name, target, spec string) string {
	return fmt.Sprintf("\n---\napiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: %s, namespace: $NS}\nspec:\n  targetRefs: [%s]\n  %s\n",
		name, target, strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  "))
}

// obj, list and ext are Envoy's configuration as Go.
type (
	obj  = envoy.Object
	list = envoy.List
)

// ext is the configuration of an extension.
func ext(kind string, fields obj) obj {
	return envoy.Merge(obj{"@type": "type.googleapis.com/" + kind}, fields)
}

// retries is a retry policy of Envoy, which prefers other hosts.
func retries(on string, n int, more obj) patch {
	return patch{route: obj{"retry_policy": envoy.Merge(obj{"retry_on": on, "num_retries": n, "host_selection_retry_max_attempts": "50"}, more)}}
}

var noRetries = patch{route: obj{"retry_policy": obj{"retry_on": "reset", "num_retries": 0}}}

// with adds the fields of q to p.
func (p patch) with(q patch) patch {
	out := patch{
		route: merged(p.route, q.route), entry: merged(p.entry, q.entry), cluster: merged(p.cluster, q.cluster), manager: merged(p.manager, q.manager),
		port: cmp.Or(p.port, q.port), filters: append(append(list{}, p.filters...), q.filters...), services: p.services,
	}
	if q.services != nil {
		out.services = q.services
	}
	return out
}

func merged(a, b obj) obj {
	if a == nil && b == nil {
		return nil
	}
	return envoy.Merge(envoy.Merge(obj{}, a), b)
}

// onCluster is a patch of clusters.
func onCluster(fields obj) patch { return patch{cluster: fields} }

// httpOptions is a patch of how the clusters of HTTP ports speak HTTP.
func httpOptions(fields obj) patch {
	const kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	p := onCluster(obj{"typed_extension_protocol_options": obj{kind: ext(kind, fields)}})
	p.port = portHTTP
	return p
}

// thresholds are circuit breakers.
func thresholds(fields obj) patch {
	return onCluster(obj{"circuit_breakers": obj{"thresholds": list{fields}}})
}

// pods is the service echo with n pods.
func pods(n int) []svc { return []svc{{name: "echo", pods: n}} }
