package traffic

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/ratelimit"
)

// TestGlobalLimits asks Envoy's rate limit service with a Redis of its own, which each
// waypoint reaches as a service of the mesh.
func TestGlobalLimits(t *testing.T) {
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { block.Close() })
	var configs []string
	for _, c := range globalCases {
		for _, peer := range []string{"cairn", "envoy"} {
			for _, twin := range []string{"", "-twin"} {
				configs = append(configs, "domain: "+c.name+twin+"-"+peer+globalLimits)
			}
		}
	}
	s, err := ratelimit.Start(t.Context(), block.Addr(1), configs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	cases := globalCases
	for i := range cases {
		prove := cases[i].prove
		cases[i].prove = func(x *trial) error {
			for _, p := range x.podsOf("limits") {
				p.forward(x, appGRPC, s.Addr)
			}
			return prove(x)
		}
	}
	runGroup(t, "global-limits", cases)
}

const globalLimits = `
descriptors:
- {key: path, value: /limited, rate_limit: {unit: hour, requests_per_unit: 2}}
- {key: user, rate_limit: {unit: hour, requests_per_unit: 3}}
- key: user
  value: vip
  rate_limit: {unit: hour, requests_per_unit: 1000}
- key: tier
  value: free
  descriptors:
  - {key: user, rate_limit: {unit: hour, requests_per_unit: 1}}
`

// forward joins what is carried to a port of the pod with a program of this machine.
func (p *pod) forward(x *trial, port uint16, to netip.AddrPort) {
	l := x.nodes.Listen(netip.AddrPortFrom(p.addr, port))
	p.listeners[port] = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go join(c, to.String())
		}
	}()
}

func join(c net.Conn, to string) {
	defer c.Close()
	d, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return
	}
	defer d.Close()
	go func() {
		io.Copy(d, c)
		d.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, d)
}

// limited is a service, and the one that is asked for its limits.
var limited = []svc{{name: "echo"}, {name: "limits"}}

// global is a TrafficPolicy with a global limit.
func global(descriptors, more string) string {
	return onService("rateLimit:\n  global:\n    backendRef: {name: limits, port: 81}\n    domain: $NS-$PEER\n    timeout: 2s\n    descriptors: [" + descriptors + "]" + more)
}

// asked is Envoy's rate limit filter; actions are those of each descriptor.
func asked(more obj, descriptors ...list) patch {
	var limits list
	for _, d := range descriptors {
		limits = append(limits, obj{"actions": d})
	}
	p := patch{route: obj{"rate_limits": limits}}
	p.services = func(x *trial, services []envoyService) []envoyService {
		cluster := ""
		for _, s := range services {
			if strings.HasPrefix(s.Host, "limits.") && s.Addr.Port() == portGRPC {
				cluster = s.ClusterName()
			}
		}
		for i := range services {
			services[i].Filters = append(services[i].Filters, obj{"name": "envoy.filters.http.ratelimit", "typed_config": ext("envoy.extensions.filters.http.ratelimit.v3.RateLimit", merged(obj{
				"domain": x.expand("$NS-$PEER"), "timeout": "2s",
				"rate_limit_service": obj{"transport_api_version": "V3", "grpc_service": obj{"envoy_grpc": obj{"cluster_name": cluster}}},
			}, more))})
		}
		return services
	}
	return p
}

// of is an action that takes a header's value.
func of(header, key string) obj {
	return obj{"request_headers": obj{"header_name": header, "descriptor_key": key}}
}

const (
	byPath = "{entries: [{key: path, expression: request.url_path}]}"
	byUser = "{when: \"'x-user' in request.headers\", entries: [{key: user, expression: \"request.headers['x-user']\"}]}"
)

var globalCases = []testCase{
	{
		name: "global", of: "a global limit by the real rate limit service: so many pass, then 429", mesh: limited, yaml: global(byPath, ""),
		envoy: asked(nil, list{of(":path", "path")}),
		prove: steps(noneFails(4, ask{path: "/free"}), passes(2, 429, ask{path: "/limited"}), noneFails(1, ask{path: "/free"})),
	},
	{
		name: "global-key", of: "descriptors by CEL: a user each", mesh: limited, yaml: global(byUser, ""), envoy: asked(nil, list{of("x-user", "user")}),
		prove: steps(passes(3, 429, ask{headers: user("a")}), passes(3, 429, ask{headers: user("b")}), noneFails(8, ask{headers: user("vip")}), noneFails(6, ask{})),
	},
	{
		name: "global-identity", of: "descriptors by the client's identity", mesh: limited, alone: "it has no descriptor of a peer's identity behind a tunnel",
		yaml: global("{entries: [{key: user, expression: source.principal}]}", ""),
		prove: func(x *trial) error {
			for _, ns := range []string{"-a", "-b"} {
				if err := passes(3, 429, ask{ns: x.ns + ns})(x); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "global-several", of: "several descriptors are asked for together, and any refuses", mesh: limited, yaml: global(byPath+", "+byUser, ""),
		envoy: asked(nil, list{of(":path", "path")}, list{of("x-user", "user")}),
		prove: steps(passes(2, 429, ask{path: "/limited", headers: user("a")}), asks(ask{path: "/limited", headers: user("b"), status: 429})),
	},
	{
		name: "global-nested", of: "a descriptor of several pairs", mesh: limited, yaml: global("{entries: [{key: tier, value: free}, {key: user, expression: \"request.headers['x-user']\"}]}", ""),
		envoy: asked(nil, list{obj{"generic_key": obj{"descriptor_key": "tier", "descriptor_value": "free"}}, of("x-user", "user")}),
		prove: steps(passes(1, 429, ask{headers: user("a")}), passes(1, 429, ask{headers: user("b")})),
	},
	{
		name: "global-cost", of: "a request may cost several", mesh: limited, yaml: global("{cost: \"2\", entries: [{key: user, expression: \"request.headers['x-user']\"}]}", ""),
		twin: global(byUser, ""), envoyTwin: asked(nil, list{of("x-user", "user")}), alone: "what a descriptor costs is a number of its own in newer releases only",
		prove: passes(1, 429, ask{headers: user("a")}),
	},
	{
		name: "global-headers", of: "RateLimit headers tell what the service says", mesh: limited, yaml: global(byPath, ""), alone: "its fields are called x-ratelimit-*",
		prove: asks(ask{path: "/limited", want: []string{"ratelimit-limit: *", "ratelimit-remaining: 1", "ratelimit-reset: *"}}),
	},
	{
		name: "global-grpc", of: "gRPC over the limit is answered RESOURCE_EXHAUSTED", mesh: limited, yaml: global(byUser, ""),
		envoy: asked(obj{"rate_limited_as_resource_exhausted": true}, list{of("x-user", "user")}),
		prove: calls(call{headers: user("a")}, call{headers: user("a")}, call{headers: user("a")}, call{headers: user("a"), code: codes.ResourceExhausted}),
	},
	{
		name: "global-closed", of: "when the service is away and failureMode is Closed, requests are answered 500", mesh: limited, yaml: global(byPath, "\n    failureMode: Closed"),
		envoy: asked(obj{"failure_mode_deny": true}, list{of(":path", "path")}), prove: away(ask{status: 500}),
	},
	{
		name: "global-open", of: "when the service is away and failureMode is Open, requests pass", mesh: limited, yaml: global(byPath, "\n    failureMode: Open"),
		twin: global(byPath, "\n    failureMode: Closed"), envoyTwin: asked(obj{"failure_mode_deny": true}, list{of(":path", "path")}),
		envoy: asked(nil, list{of(":path", "path")}), prove: away(ask{}),
	},
	{
		name: "global-slow", of: "a service that does not answer in time counts as away", mesh: limited, yaml: strings.Replace(global(byPath, "\n    failureMode: Closed"), "timeout: 2s", "timeout: 200ms", 1),
		envoy: asked(obj{"failure_mode_deny": true, "timeout": "0.2s"}, list{of(":path", "path")}),
		prove: func(x *trial) error {
			p := x.pod("limits-1")
			l := x.nodes.Listen(netip.AddrPortFrom(p.addr, appGRPC)) // accepts, and says nothing
			p.listeners[appGRPC] = l
			go func() {
				for {
					if _, err := l.Accept(); err != nil {
						return
					}
				}
			}()
			_, err := x.check(ask{status: 500, within: 1500 * time.Millisecond})
			return err
		},
	},
	{
		name: "global-dry-run", of: "a dry run asks and lets pass", mesh: limited, yaml: global(byPath, "\n    dryRun: true"), twin: global(byPath, ""),
		envoyTwin: asked(nil, list{of(":path", "path")}), envoy: asked(obj{"filter_enforced": obj{"default_value": obj{"numerator": 0}}}, list{of(":path", "path")}),
		prove: noneFails(6, ask{path: "/limited"}),
	},
	{
		name: "global-and-local", of: "a local and a global limit of one policy both count", mesh: limited,
		yaml:  onService("rateLimit:\n  local: [{name: hour, requests: 1, per: 1h, burst: 1, when: \"request.url_path == '/local'\"}]\n  global: {backendRef: {name: limits, port: 81}, domain: $NS-$PEER, timeout: 2s, descriptors: [" + byPath + "]}"),
		alone: "two filters that know nothing of each other",
		prove: steps(passes(1, 429, ask{path: "/local"}), passes(2, 429, ask{path: "/limited"}), noneFails(3, ask{path: "/free"})),
	},
	{
		name: "global-missing", of: "a policy whose service does not exist does as failureMode says", mesh: limited, alone: "a cluster that is not there is an error of its configuration",
		yaml: strings.Replace(global(byPath, "\n    failureMode: Closed"), "name: limits", "name: nobody", 1), prove: asks(ask{status: 500}),
	},
}

// away lets the service's node proxy refuse connections.
func away(a ask) func(*trial) error {
	return func(x *trial) error {
		x.pod("limits-1").refuse(x, true)
		if err := eventually(3*time.Second, func() error { _, err := x.check(a); return err }); err != nil {
			return fmt.Errorf("while the service is away: %w", err)
		}
		return nil
	}
}
