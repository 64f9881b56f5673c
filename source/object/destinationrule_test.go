package object_test

import (
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

// rule is a DestinationRule for two.
func rule(trafficPolicy string) string {
	return "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dr}\nspec: {host: two, trafficPolicy: {" + trafficPolicy + "}} " + mark + "\n---\n" + twoServed
}

func TestDestinationRule(t *testing.T) {
	at := mesh.Name{Namespace: "default", Name: "dr"}
	hash := func(kind mesh.BalancerPolicy, key mesh.HashKey) mesh.BackendPolicy {
		return mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: kind, Hash: []mesh.HashKey{key}}}
	}
	tests := []struct {
		name, text string
		want       mesh.BackendPolicy
	}{
		{
			"pool", "connectionPool: {tcp: {maxConnections: 1, connectTimeout: 30ms, idleTimeout: 5s}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRequestsPerConnection: 4, maxRetries: 5, h2UpgradePolicy: UPGRADE}}",
			mesh.BackendPolicy{
				Connection: &mesh.ConnectionSettings{Policy: at, ConnectTimeout: 30 * time.Millisecond, IdleTimeout: 5 * time.Second, MaxRequests: 4, HTTP2: true},
				Breaker:    &mesh.CircuitBreaker{Policy: at, MaxConnections: 1, MaxPending: 2, MaxRequests: 3, MaxRetries: 5},
			},
		},
		{"idle", "connectionPool: {tcp: {idleTimeout: 5s}, http: {idleTimeout: 0s}}", mesh.BackendPolicy{Connection: &mesh.ConnectionSettings{Policy: at, IdleTimeout: mesh.Never}}},
		{"random", "loadBalancer: {simple: RANDOM}", mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: mesh.BalanceRandom}}},
		{"least-conn", "loadBalancer: {simple: LEAST_CONN}", mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: mesh.BalanceLeastRequest}}},
		{"passthrough", "loadBalancer: {simple: PASSTHROUGH}", mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: mesh.BalancePassthrough}}},
		{"hash-header", "loadBalancer: {consistentHash: {httpHeaderName: X-User}}", hash(mesh.BalanceRingHash, mesh.HashKey{Kind: mesh.HashHeader, Name: "x-user"})},
		{"hash-cookie", "loadBalancer: {consistentHash: {httpCookie: {name: user, path: /p, ttl: 0s}}}", hash(mesh.BalanceRingHash, mesh.HashKey{Kind: mesh.HashCookie, Name: "user", Path: "/p", Session: true})},
		{"hash-cookie-ttl", "loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 1h}}}", hash(mesh.BalanceRingHash, mesh.HashKey{Kind: mesh.HashCookie, Name: "user", TTL: time.Hour})},
		{"hash-cookie-found", "loadBalancer: {consistentHash: {httpCookie: {name: user}}}", hash(mesh.BalanceRingHash, mesh.HashKey{Kind: mesh.HashCookie, Name: "user"})},
		{"hash-source", "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}", hash(mesh.BalanceMaglev, mesh.HashKey{Kind: mesh.HashSource})},
		{"hash-query", "loadBalancer: {consistentHash: {httpQueryParameterName: Q}}", hash(mesh.BalanceRingHash, mesh.HashKey{Kind: mesh.HashQuery, Name: "Q"})},
		{
			"ring", "loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 7}}}",
			mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: mesh.BalanceRingHash, RingMin: 7, Hash: []mesh.HashKey{{Kind: mesh.HashSource}}}},
		},
		{
			"table", "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 11}}}",
			mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: mesh.BalanceMaglev, TableSize: 11, Hash: []mesh.HashKey{{Kind: mesh.HashSource}}}},
		},
		{
			"locality", "loadBalancer: {localityLbSetting: {distribute: [{from: 'a/*', to: {'a/*': 80, b: 20}}]}}",
			mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Locality: &mesh.LocalityPolicy{Distribute: []mesh.LocalityWeights{{From: "a/*", To: map[string]uint32{"a/*": 80, "b": 20}}}}}},
		},
		{
			"failover", "loadBalancer: {localityLbSetting: {enabled: false, failover: [{from: a, to: b}]}}",
			mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Locality: &mesh.LocalityPolicy{Off: true, Failover: map[string]string{"a": "b"}}}},
		},
		{"priority", "loadBalancer: {localityLbSetting: {failoverPriority: [a, b=c]}}", mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Locality: &mesh.LocalityPolicy{FailoverLabels: []string{"a", "b=c"}}}}},
		{"warmup", "loadBalancer: {warmup: {duration: 30s, minimumPercent: 5, aggression: 2}}", mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, SlowStart: &mesh.SlowStart{Window: 30 * time.Second, MinPercent: 5, Aggression: 2}}}},
		{"warmup-old", "loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 30s}", mesh.BackendPolicy{Balancer: &mesh.Balancer{Policy: at, Kind: mesh.BalanceRoundRobin, SlowStart: &mesh.SlowStart{Window: 30 * time.Second}}}},
		{
			"outlier", "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, splitExternalLocalOriginErrors: true, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50, minHealthPercent: 40}",
			mesh.BackendPolicy{Outlier: &mesh.OutlierDetection{
				Policy: at, ConsecutiveGateway: 2, SplitLocal: true, ConsecutiveLocal: 5, Interval: time.Second, BaseEjection: 2 * time.Second, MaxEjectionPercent: 50, MinHealthPercent: 40,
			}},
		},
		{"budget", "retryBudget: {}", mesh.BackendPolicy{Budget: &mesh.RetryBudget{Policy: at, Percent: 20, MinConcurrency: 3}}},
		{"budget-own", "retryBudget: {percent: 12.5, minRetryConcurrency: 0}", mesh.BackendPolicy{Budget: &mesh.RetryBudget{Policy: at, Percent: 12.5}}},
		{"tls", "tls: {mode: SIMPLE}", mesh.BackendPolicy{TLS: &mesh.BackendTLS{Policy: at, SNI: "two.default.svc.cluster.local", Hostname: "two.default.svc.cluster.local", System: true}}},
		{"tls-names", "tls: {mode: SIMPLE, sni: S.example, subjectAltNames: [a.example], caCertificates: system}", mesh.BackendPolicy{TLS: &mesh.BackendTLS{Policy: at, SNI: "s.example", SANs: []string{"a.example"}, System: true}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := good(t, rule(tt.text))
			if d := cmp.Diff(&tt.want, port(t, res, "two", 80).Backend); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if len(res.Notices) > 0 {
				t.Errorf("notices: %v", res.Notices)
			}
			if port(t, res, "web", 80).Backend != nil {
				t.Error("another service has a policy")
			}
		})
	}
}

// What a rule says and Cairn does not do is told.
func TestDestinationRuleNotices(t *testing.T) {
	tests := []struct{ name, text, notice string }{
		{"keepalive", "connectionPool: {tcp: {tcpKeepalive: {time: 1s}}}", "connectionPool.tcp.tcpKeepalive is not honoured"},
		{"duration", "connectionPool: {tcp: {maxConnectionDuration: 1h}}", "connectionPool.tcp.maxConnectionDuration is not honoured"},
		{"client-protocol", "connectionPool: {http: {useClientProtocol: true}}", "connectionPool.http.useClientProtocol is not honoured"},
		{"streams", "connectionPool: {http: {maxConcurrentStreams: 5}}", "connectionPool.http.maxConcurrentStreams is not honoured"},
		{"consecutive", "outlierDetection: {consecutiveErrors: 5}", "outlierDetection.consecutiveErrors is not honoured"},
		{"local", "outlierDetection: {consecutiveLocalOriginFailures: 5}", "has no effect without splitExternalLocalOriginErrors"},
		{"tunnel", "tunnel: {targetHost: a, targetPort: 1}", "tunnel is not honoured"},
		{"proxy", "proxyProtocol: {version: V2}", "proxyProtocol is not honoured"},
		{"skip-verify", "tls: {mode: SIMPLE, insecureSkipVerify: true}", "insecureSkipVerify is not honoured: certificates are always verified"},
		{"crl", "tls: {mode: SIMPLE, caCrl: /a}", "caCrl is not honoured"},
		{"warmup-hash", "loadBalancer: {consistentHash: {useSourceIp: true}, warmup: {duration: 1s}}", "warmup has no effect with consistentHash"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := good(t, rule(tt.text))
			if len(res.Notices) != 1 || !strings.Contains(res.Notices[0].Message, tt.notice) || res.Notices[0].Object != "DestinationRule default/dr" {
				t.Errorf("notices: %v, want one with %q", res.Notices, tt.notice)
			}
		})
	}
	res := good(t, strings.Replace(rule("loadBalancer: {simple: RANDOM}"), "host: two,", "host: two, workloadSelector: {matchLabels: {a: b}},", 1))
	if len(res.Notices) != 1 || port(t, res, "two", 80).Backend != nil {
		t.Errorf("a rule for sidecars: notices %v, in force %v", res.Notices, port(t, res, "two", 80).Backend)
	}
}

func TestDestinationRuleProblems(t *testing.T) {
	const obj, tp = "DestinationRule default/dr", "spec.trafficPolicy."
	whole := func(spec string) string {
		return "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: dr}\nspec: {" + spec + "} " + mark + "\n---\n" + twoServed
	}
	checkWrong(t, []wrong{
		{"no-host", whole(""), obj, "spec.host", "for no host"},
		{"host", whole("host: a_b"), obj, "spec.host", "is not a host name"},
		{"host-gone", whole("host: gone"), obj, "spec.host", "no Service or ServiceEntry has host"},
		{"host-short", whole("host: two.default"), obj, "spec.host", "did you mean two.default.svc.cluster.local?"},
		{"wildcard-gone", whole("host: '*.example'"), obj, "spec.host", "no Service or ServiceEntry has host"},
		{"subset-name", whole("host: two, subsets: [{name: 'a b'}]"), obj, "spec.subsets[0].name", "not a valid name"},
		{"subset-twice", whole("host: two, subsets: [{name: a}, {name: a}]"), obj, "spec.subsets[1].name", "defined twice"},
		{"subset-labels", whole("host: two, subsets: [{name: a, labels: {a: 'b c'}}]"), obj, "spec.subsets[0].labels[a]", "not a valid label value"},
		{"subset-policy", whole("host: two, subsets: [{name: a, trafficPolicy: {loadBalancer: {simple: X}}}]"), obj, "spec.subsets[0].trafficPolicy.loadBalancer.simple", "is not known"},
		{"unknown", rule("retries: 3"), obj, tp + "retries", "unknown field"},
		{"port", rule("portLevelSettings: [{loadBalancer: {simple: RANDOM}}]"), obj, tp + "portLevelSettings[0].port", "for no port"},
		{"port-number", rule("portLevelSettings: [{port: {number: 0}}]"), obj, tp + "portLevelSettings[0].port.number", "is not a port"},
		{"port-twice", rule("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]"), obj, tp + "portLevelSettings[1].port.number", "has settings already"},
		{"port-pool", rule("portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: -1}}}]"), obj, tp + "portLevelSettings[0].connectionPool.tcp.maxConnections", "out of range"},
		{"connect", rule("connectionPool: {tcp: {connectTimeout: 0s}}"), obj, tp + "connectionPool.tcp.connectTimeout", "at least 1ms"},
		{"tcp-idle", rule("connectionPool: {tcp: {idleTimeout: x}}"), obj, tp + "connectionPool.tcp.idleTimeout", "at least 1ms"},
		{"pending", rule("connectionPool: {http: {http1MaxPendingRequests: -1}}"), obj, tp + "connectionPool.http.http1MaxPendingRequests", "out of range"},
		{"requests", rule("connectionPool: {http: {http2MaxRequests: -1}}"), obj, tp + "connectionPool.http.http2MaxRequests", "out of range"},
		{"per-connection", rule("connectionPool: {http: {maxRequestsPerConnection: -1}}"), obj, tp + "connectionPool.http.maxRequestsPerConnection", "out of range"},
		{"retries", rule("connectionPool: {http: {maxRetries: -1}}"), obj, tp + "connectionPool.http.maxRetries", "out of range"},
		{"http-idle", rule("connectionPool: {http: {idleTimeout: x}}"), obj, tp + "connectionPool.http.idleTimeout", "at least 1ms"},
		{"upgrade", rule("connectionPool: {http: {h2UpgradePolicy: YES}}"), obj, tp + "connectionPool.http.h2UpgradePolicy", "use DEFAULT"},
		{"simple", rule("loadBalancer: {simple: RING}"), obj, tp + "loadBalancer.simple", "LEAST_CONN, LEAST_REQUEST"},
		{"simple-and-hash", rule("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}"), obj, tp + "loadBalancer", "exclude each other"},
		{"hash-none", rule("loadBalancer: {consistentHash: {}}"), obj, tp + "loadBalancer.consistentHash", "exactly one"},
		{"hash-two", rule("loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: a}}"), obj, tp + "loadBalancer.consistentHash", "exactly one"},
		{"hash-cookie", rule("loadBalancer: {consistentHash: {httpCookie: {name: 'a;b'}}}"), obj, tp + "loadBalancer.consistentHash.httpCookie.name", "not the name of a cookie"},
		{"hash-ttl", rule("loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: x}}}"), obj, tp + "loadBalancer.consistentHash.httpCookie.ttl", "at least 1ms"},
		{"ring", rule("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 99999999}}"), obj, tp + "loadBalancer.consistentHash.ringHash.minimumRingSize", "out of range"},
		{"table", rule("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 10}}}"), obj, tp + "loadBalancer.consistentHash.maglev.tableSize", "not a prime"},
		{"ring-and-table", rule("loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {}, maglev: {}}}"), obj, tp + "loadBalancer.consistentHash", "exclude each other"},
		{"locality", rule("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 1}}]}}"), obj, tp + "loadBalancer.localityLbSetting.distribute[0].to", "add up to 1"},
		{"warmup", rule("loadBalancer: {warmup: {}}"), obj, tp + "loadBalancer.warmup.duration", "is missing"},
		{"warmup-min", rule("loadBalancer: {warmup: {duration: 1s, minimumPercent: 101}}"), obj, tp + "loadBalancer.warmup.minimumPercent", "out of range"},
		{"warmup-old", rule("loadBalancer: {warmupDurationSecs: x}"), obj, tp + "loadBalancer.warmupDurationSecs", "at least 1ms"},
		{"interval", rule("outlierDetection: {interval: 1us}"), obj, tp + "outlierDetection.interval", "at least 1ms"},
		{"base", rule("outlierDetection: {baseEjectionTime: x}"), obj, tp + "outlierDetection.baseEjectionTime", "at least 1ms"},
		{"ejection", rule("outlierDetection: {maxEjectionPercent: 101}"), obj, tp + "outlierDetection.maxEjectionPercent", "out of range"},
		{"health", rule("outlierDetection: {minHealthPercent: -1}"), obj, tp + "outlierDetection.minHealthPercent", "out of range"},
		{"budget", rule("retryBudget: {percent: -1}"), obj, tp + "retryBudget.percent", "out of range"},
		{"mode", rule("tls: {mode: STRICT}"), obj, tp + "tls.mode", "use DISABLE, SIMPLE"},
		{"sni", rule("tls: {mode: SIMPLE, sni: a_b}"), obj, tp + "tls.sni", "is not a host name"},
		{"files", rule("tls: {mode: MUTUAL, clientCertificate: /a, privateKey: /b}"), obj, tp + "tls", "put the certificates into a Secret"},
		{"mutual", rule("tls: {mode: MUTUAL}"), obj, tp + "tls.credentialName", "name its Secret"},
		{"credential", rule("tls: {mode: SIMPLE, credentialName: k}"), obj, tp + "tls.credentialName", "Secret default/k does not exist"},
	})
}

// A rule whose TLS cannot be followed lets nothing pass: never plain text.
func TestDestinationRuleTLSFailsClosed(t *testing.T) {
	for _, text := range []string{
		"tls: {mode: STRICT}", "tls: {mode: SIMPLE, caCertificates: /a}", "tls: {mode: MUTUAL}", "tls: {mode: SIMPLE, credentialName: k}",
		"tls: {mode: SIMPLE}, loadBalancer: {simple: X}", "tls: {mode: MUTUAL, credentialName: k}",
	} {
		res, _ := translate(t, "f.yaml", rule(text), object.Options{})
		if b := port(t, res, "two", 80).Backend; b == nil || b.TLS == nil || b.TLS.Broken == "" {
			t.Errorf("%s: something passes", text)
		}
	}
}

func TestDestinationRuleCredential(t *testing.T) {
	cert, key := pair(t)
	res := good(t, rule("tls: {mode: MUTUAL, credentialName: k}")+"\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: k}\nstringData:\n  cert: |\n"+indent(cert)+"  key: |\n"+indent(key)+"  cacert: |\n"+indent(cert))
	got := port(t, res, "two", 80).Backend.TLS
	if string(got.Key) != key || string(got.Certificate) != cert || string(got.Roots) != cert || got.System || got.Broken != "" {
		t.Errorf("TLS is %+v", got)
	}
}

// Which rule is for a service: by namespace, exact before wildcard, and merged.
func TestDestinationRulesOfService(t *testing.T) {
	dr := func(name, ns, created, spec string) string {
		return "\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: " + name + ", namespace: " + ns + ", creationTimestamp: '2026-01-" + created + "T00:00:00Z'}\nspec: {" + spec + "}\n"
	}
	const full = "host: two.default.svc.cluster.local, "
	lb := func(simple string) string { return "trafficPolicy: {loadBalancer: {simple: " + simple + "}}" }
	far := strings.ReplaceAll(twoServed, "metadata: {name: wp}", "metadata: {name: wp, namespace: infra}")
	far = strings.Replace(far, "{istio.io/use-waypoint: wp}", "{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}", 1)
	far = strings.Replace(far, "protocol: HBONE}", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}", 1)
	tests := []struct{ name, text, want string }{
		{"service-namespace", twoServed + dr("a", "default", "01", full+lb("RANDOM")), "a"},
		{"other-namespace", twoServed + dr("a", "other", "01", full+lb("RANDOM")), ""},
		{"root-namespace", twoServed + dr("a", "istio-system", "01", full+lb("RANDOM")), "a"},
		{"service-before-root", twoServed + dr("a", "istio-system", "01", full+lb("RANDOM")) + dr("b", "default", "02", full+lb("RANDOM")), "b"},
		{"waypoint-before-service", far + dr("a", "default", "01", full+lb("RANDOM")) + dr("b", "infra", "02", full+lb("RANDOM")), "b"},
		{"private", far + dr("a", "default", "01", "exportTo: ['.'], "+full+lb("RANDOM")), ""},
		{"exported", far + dr("a", "default", "01", "exportTo: [infra], "+full+lb("RANDOM")), "a"},
		{"private-of-two", far + dr("a", "default", "01", "exportTo: ['.'], "+full+lb("RANDOM")) + dr("b", "default", "02", full+lb("RANDOM")), "b"},
		{"wildcard", twoServed + dr("a", "default", "01", "host: '*.svc.cluster.local', "+lb("RANDOM")), "a"},
		{"star", twoServed + dr("a", "default", "01", "host: '*', "+lb("RANDOM")), "a"},
		{"longer-wildcard", twoServed + dr("a", "default", "01", "host: '*.local', "+lb("RANDOM")) + dr("b", "default", "02", "host: '*.default.svc.cluster.local', "+lb("RANDOM")), "b"},
		{"exact-before-wildcard", twoServed + dr("a", "default", "01", "host: '*.default.svc.cluster.local', "+lb("RANDOM")) + dr("b", "default", "02", full+lb("RANDOM")), "b"},
		{"near-wildcard-before-far-exact", twoServed + dr("a", "default", "01", "host: '*.local', "+lb("RANDOM")) + dr("b", "istio-system", "02", full+lb("RANDOM")), "a"},
		{"older", twoServed + dr("a", "default", "02", full+lb("RANDOM")) + dr("b", "default", "01", full+lb("RANDOM")), "b"},
		{"first-that-says", twoServed + dr("a", "default", "01", full+"subsets: [{name: x}]") + dr("b", "default", "02", full+lb("RANDOM")), "b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", tt.text, object.Options{})
			if refused := source.Refused(res.Problems); refused != nil {
				t.Fatalf("problems: %v", refused)
			}
			got := ""
			if b := port(t, res, "two", 80).Backend; b != nil {
				got = b.Balancer.Policy.Name
			}
			if got != tt.want {
				t.Errorf("in force is %q, want %q", got, tt.want)
			}
		})
	}
	res, _ := translate(t, "f.yaml", twoServed+dr("a", "default", "02", full+lb("RANDOM"))+dr("b", "default", "01", full+lb("RANDOM")), object.Options{})
	if got := policyConditions(res, "DestinationRule", "a"); !strings.HasSuffix(got, "Accepted false Conflicted") || len(res.Problems) != 1 || !res.Problems[0].Served {
		t.Errorf("the newer rule: %s, problems %v", got, res.Problems)
	}
}
