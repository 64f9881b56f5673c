package object_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
	"k8s.io/apimachinery/pkg/api/resource"
)

// trafficPolicy is one on one line, so that every problem is on that line.
func trafficPolicy(spec string) string {
	return "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: '', kind: Service, name: web}], " + spec + "} " + mark + svc
}

// badFields are values that each field of a TrafficPolicy refuses: the field is the
// path after "spec.", {spec} stands for what is written there.
var badFields = []struct{ field, spec, message string }{
	{"timeout.request", "timeout: {request: 1.5s}", "is not a duration"},
	{"timeout.request", "timeout: {request: -1s}", "is not a duration"},
	{"timeout.backendRequest", "timeout: {backendRequest: 5}", "wants a string"},
	{"timeout.backendRequest", "timeout: {request: 1s, backendRequest: 2s}", "longer than timeout.request"},
	{"timeout.idle", "timeout: {idle: soon}", "is not a duration"},
	{"timeout.maxStreamDuration", "timeout: {maxStreamDuration: 1d}", "is not a duration"},
	{"timeout.connect", "timeout: {connect: 0s}", "no time at all"},
	{"retry.attempts", "retry: {attempts: -1}", "out of range"},
	{"retry.attempts", "retry: {attempts: 101}", "out of range"},
	{"retry.codes[1]", "retry: {codes: [503, 302]}", "use 400 to 599"},
	{"retry.grpcStatuses[0]", "retry: {grpcStatuses: [OK]}", "not a gRPC status"},
	{"retry.grpcStatuses[0]", "retry: {grpcStatuses: [unavailable]}", "not a gRPC status"},
	{"retry.failures[0]", "retry: {failures: [5xx]}", "ConnectFailure, PerTryTimeout"},
	{"retry.backoff.base", "retry: {backoff: {base: 0s}}", "no time at all"},
	{"retry.backoff.max", "retry: {backoff: {base: 2s, max: 1s}}", "shorter than backoff.base"},
	{"retry.backoff.max", "retry: {backoff: {max: x}}", "is not a duration"},
	{"retry.retryAfter.max", "retry: {retryAfter: {max: 0s}}", "no time at all"},
	{"retry.retryAfter.max", "retry: {retryAfter: {max: 1s, ignore: true}}", "exclude each other"},
	{"retry.bodyLimit", "retry: {bodyLimit: 1Gi}", "use 1 to 16Mi"},
	{"retry.bodyLimit", "retry: {bodyLimit: 0}", "use 1 to 16Mi"},
	{"retry.bodyLimit", "retry: {bodyLimit: many}", "is not a valid value"},
	{"retry.budget.percent", "retry: {budget: {percent: 101}}", "use 0 to 100"},
	{"retry.budget.interval", "retry: {budget: {interval: 0s}}", "no time at all"},
	{"retry.budget.minConcurrent", "retry: {budget: {minConcurrent: -1}}", "out of range"},
	{"retry.budget.minRate.count", "retry: {budget: {minRate: {count: 0}}}", "out of range"},
	{"retry.budget.minRate.interval", "retry: {budget: {minRate: {count: 1, interval: 0s}}}", "no time at all"},
	{"hedging.delay", "hedging: {delay: 0s}", "no time at all"},
	{"hedging.max", "hedging: {delay: 1s, max: 0}", "use 1 to 10"},
	{"circuitBreaker.maxConnections", "circuitBreaker: {maxConnections: 0}", "out of range"},
	{"circuitBreaker.maxPendingRequests", "circuitBreaker: {maxPendingRequests: 4294967296}", "out of range"},
	{"circuitBreaker.maxRequests", "circuitBreaker: {maxRequests: -1}", "out of range"},
	{"circuitBreaker.maxRetries", "circuitBreaker: {maxRetries: 0}", "out of range"},
	{"outlierDetection.consecutive5xxErrors", "outlierDetection: {consecutive5xxErrors: -1}", "out of range"},
	{"outlierDetection.consecutiveGatewayErrors", "outlierDetection: {consecutiveGatewayErrors: -1}", "out of range"},
	{"outlierDetection.consecutiveLocalOriginErrors", "outlierDetection: {consecutiveLocalOriginErrors: -1}", "out of range"},
	{"outlierDetection.interval", "outlierDetection: {interval: 0s}", "no time at all"},
	{"outlierDetection.baseEjectionTime", "outlierDetection: {baseEjectionTime: 0s}", "no time at all"},
	{"outlierDetection.maxEjectionTime", "outlierDetection: {baseEjectionTime: 2s, maxEjectionTime: 1s}", "shorter than baseEjectionTime"},
	{"outlierDetection.maxEjectionPercent", "outlierDetection: {maxEjectionPercent: 0}", "use 1 to 100"},
	{"outlierDetection.minHealthPercent", "outlierDetection: {minHealthPercent: 101}", "use 0 to 100"},
	{"outlierDetection.successRate.stdevFactor", "outlierDetection: {successRate: {stdevFactor: 0}}", "out of range"},
	{"outlierDetection.successRate.minHosts", "outlierDetection: {successRate: {minHosts: 0}}", "out of range"},
	{"outlierDetection.successRate.requestVolume", "outlierDetection: {successRate: {requestVolume: 0}}", "out of range"},
	{"outlierDetection.failurePercentage.threshold", "outlierDetection: {failurePercentage: {threshold: 0}}", "use 1 to 100"},
	{"outlierDetection.failurePercentage.minHosts", "outlierDetection: {failurePercentage: {threshold: 50, minHosts: 0}}", "out of range"},
	{"outlierDetection.failurePercentage.requestVolume", "outlierDetection: {failurePercentage: {threshold: 50, requestVolume: 0}}", "out of range"},
	{"healthCheck", "healthCheck: {interval: 1s}", "exactly one of http, grpc and tcp"},
	{"healthCheck", "healthCheck: {tcp: {}, grpc: {}}", "exactly one of http, grpc and tcp"},
	{"healthCheck.http.path", "healthCheck: {http: {path: healthz}}", "begin it with '/'"},
	{"healthCheck.http.host", "healthCheck: {http: {path: /, host: a_b}}", "not a host name"},
	{"healthCheck.http.statuses[0].from", "healthCheck: {http: {path: /, statuses: [{from: 0}]}}", "use 100 to 599"},
	{"healthCheck.http.statuses[0].to", "healthCheck: {http: {path: /, statuses: [{from: 300, to: 200}]}}", "ends before it begins"},
	{"healthCheck.grpc.service", "healthCheck: {grpc: {service: \"a\\nb\"}}", "not the name of a gRPC service"},
	{"healthCheck.tcp", "healthCheck: {tcp: 1}", "wants a mapping"},
	{"healthCheck.port", "healthCheck: {tcp: {}, port: 70000}", "is not a port"},
	{"healthCheck.interval", "healthCheck: {tcp: {}, interval: 0s}", "no time at all"},
	{"healthCheck.timeout", "healthCheck: {tcp: {}, timeout: 0s}", "no time at all"},
	{"healthCheck.healthyThreshold", "healthCheck: {tcp: {}, healthyThreshold: 0}", "out of range"},
	{"healthCheck.unhealthyThreshold", "healthCheck: {tcp: {}, unhealthyThreshold: 0}", "out of range"},
	{"loadBalancer", "loadBalancer: {}", "it says nothing"},
	{"loadBalancer.policy", "loadBalancer: {policy: ROUND_ROBIN}", "use LeastRequest, Maglev, PeakEWMA"},
	{"loadBalancer.hash", "loadBalancer: {policy: Maglev}", "needs something to hash"},
	{"loadBalancer.hash", "loadBalancer: {policy: Random, hash: [{sourceIP: true}]}", "only RingHash, Maglev and Rendezvous"},
	{"loadBalancer.hash[0]", "loadBalancer: {policy: Maglev, hash: [{terminal: true}]}", "exactly one"},
	{"loadBalancer.hash[0]", "loadBalancer: {policy: Maglev, hash: [{sourceIP: true, query: a}]}", "exactly one"},
	{"loadBalancer.hash[0].header", "loadBalancer: {policy: Maglev, hash: [{header: 'a b'}]}", "not the name of a header"},
	{"loadBalancer.hash[0].cookie.name", "loadBalancer: {policy: Maglev, hash: [{cookie: {name: 'a=b'}}]}", "not the name of a cookie"},
	{"loadBalancer.hash[0].cookie.path", "loadBalancer: {policy: Maglev, hash: [{cookie: {name: a, path: '/;x'}}]}", "not a cookie's path"},
	{"loadBalancer.hash[0].cookie.ttl", "loadBalancer: {policy: Maglev, hash: [{cookie: {name: a, ttl: 1y}}]}", "is not a duration"},
	{"loadBalancer.ringSize", "loadBalancer: {policy: Maglev, hash: [{query: a}], ringSize: {min: 1}}", "only RingHash"},
	{"loadBalancer.ringSize.min", "loadBalancer: {policy: RingHash, hash: [{query: a}], ringSize: {min: 0}}", "out of range"},
	{"loadBalancer.ringSize.max", "loadBalancer: {policy: RingHash, hash: [{query: a}], ringSize: {min: 10, max: 9}}", "less than min"},
	{"loadBalancer.tableSize", "loadBalancer: {policy: Maglev, hash: [{query: a}], tableSize: 65536}", "not a prime"},
	{"loadBalancer.tableSize", "loadBalancer: {policy: RingHash, hash: [{query: a}], tableSize: 65537}", "only Maglev"},
	{"loadBalancer.locality", "loadBalancer: {locality: {failoverPriority: [a], failover: [{from: a, to: b}]}}", "exclude each other"},
	{"loadBalancer.locality.distribute[0].from", "loadBalancer: {locality: {distribute: [{from: 'a/*/b', to: {c: 100}}]}}", "not a locality"},
	{"loadBalancer.locality.distribute[0].to", "loadBalancer: {locality: {distribute: [{from: a, to: {c: 90}}]}}", "add up to 90"},
	{"loadBalancer.locality.failover[0].from", "loadBalancer: {locality: {failover: [{from: a/b, to: b}]}}", "not a region"},
	{"loadBalancer.locality.failover[0].to", "loadBalancer: {locality: {failover: [{from: a, to: a}]}}", "not another region"},
	{"loadBalancer.locality.failoverPriority[0]", "loadBalancer: {locality: {failoverPriority: ['a b']}}", "not a label"},
	{"loadBalancer.slowStart.window", "loadBalancer: {slowStart: {window: 0s}}", "no time at all"},
	{"loadBalancer.slowStart.aggression", "loadBalancer: {slowStart: {window: 1s, aggression: 0}}", "out of range"},
	{"loadBalancer.slowStart.minWeightPercent", "loadBalancer: {slowStart: {window: 1s, minWeightPercent: 101}}", "use 1 to 100"},
	{"loadBalancer.slowStart", "loadBalancer: {policy: Maglev, hash: [{query: a}], slowStart: {window: 1s}}", "remove slowStart"},
	{"loadBalancer.subset.labels", "loadBalancer: {subset: {labels: {}}}", "has no labels"},
	{"loadBalancer.subset.labels[a]", "loadBalancer: {subset: {labels: {a: 'b c'}}}", "not a valid label value"},
	{"loadBalancer.subsetName", "loadBalancer: {subsetName: 'a b'}", "not the name of a subset"},
	{"sessionPersistence.sessionName", "sessionPersistence: {sessionName: 'a;b'}", "cannot be the name"},
	{"sessionPersistence.type", "sessionPersistence: {type: Query}", "use Cookie or Header"},
	{"sessionPersistence.absoluteTimeout", "sessionPersistence: {absoluteTimeout: 0s}", "ends at once"},
	{"sessionPersistence.cookieConfig.lifetimeType", "sessionPersistence: {cookieConfig: {lifetimeType: Forever}}", "use Session or Permanent"},
	{"rateLimit", "rateLimit: {}", "it limits nothing"},
	{"rateLimit.fields", "rateLimit: {fields: Sometimes, local: [{name: a, requests: 1}]}", "use Always, Refused or Never"},
	{"rateLimit.local[0].name", "rateLimit: {local: [{name: A, requests: 1}]}", "not a valid name"},
	{"rateLimit.local[1].name", "rateLimit: {local: [{name: a, requests: 1}, {name: a, requests: 2}]}", "also that of local[0]"},
	{"rateLimit.local[0].requests", "rateLimit: {local: [{name: a}]}", "out of range"},
	{"rateLimit.local[0].per", "rateLimit: {local: [{name: a, requests: 1, per: 0s}]}", "no time at all"},
	{"rateLimit.local[0].burst", "rateLimit: {local: [{name: a, requests: 1, burst: 0}]}", "out of range"},
	{"rateLimit.local[0].when", "rateLimit: {local: [{name: a, requests: 1, when: request.path}]}", "a bool is needed"},
	{"rateLimit.local[0].key[0]", "rateLimit: {local: [{name: a, requests: 1, key: [nobody.knows]}]}", "correct the expression"},
	{"rateLimit.local[0].key[0]", "rateLimit: {local: [{name: a, requests: 1, key: ['']}]}", "is empty"},
	{"rateLimit.local[0].cost", "rateLimit: {local: [{name: a, requests: 1, cost: request.path}]}", "an int is needed"},
	{"rateLimit.local[0].maxKeys", "rateLimit: {local: [{name: a, requests: 1, maxKeys: 5}]}", "without a key"},
	{"rateLimit.local[0].maxKeys", "rateLimit: {local: [{name: a, requests: 1, key: [request.path], maxKeys: 0}]}", "out of range"},
	{"rateLimit.local[0].status", "rateLimit: {local: [{name: a, requests: 1, status: 200}]}", "use 400 to 599"},
	{"rateLimit.global.backendRef.port", "rateLimit: {global: {backendRef: {name: web}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}", "names no port"},
	{"rateLimit.global.backendRef.kind", "rateLimit: {global: {backendRef: {kind: Pod, name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}", "not supported"},
	{"rateLimit.global.backendRef.group", "rateLimit: {global: {backendRef: {group: 1, name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}", "wants a string"},
	{"rateLimit.global.backendRef.name", "rateLimit: {global: {backendRef: {name: gone, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}", "does not exist"},
	{"rateLimit.global.backendRef.namespace", "rateLimit: {global: {backendRef: {namespace: other, name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}", "ReferenceGrant"},
	{"rateLimit.global.backendRef.port", "rateLimit: {global: {backendRef: {name: web, port: 81}, domain: d, descriptors: [{entries: [{key: a, value: b}]}]}}", "no TCP port 81"},
	{"rateLimit.global.domain", "rateLimit: {global: {backendRef: {name: web, port: 80}, descriptors: [{entries: [{key: a, value: b}]}]}}", "not a domain"},
	{"rateLimit.global.descriptors", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d}}", "nothing is asked"},
	{"rateLimit.global.descriptors[0].entries", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{}]}}", "is empty"},
	{"rateLimit.global.descriptors[0].entries[0].key", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{entries: [{value: b}]}]}}", "has no key"},
	{"rateLimit.global.descriptors[0].entries[0]", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a}]}]}}", "exactly one"},
	{"rateLimit.global.descriptors[0].entries[0]", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: b, expression: request.path}]}]}}", "exactly one"},
	{"rateLimit.global.descriptors[0].entries[0].expression", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a, expression: request.headers}]}]}}", "correct the expression"},
	{"rateLimit.global.descriptors[0].entries[0].value", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{entries: [{key: a, value: 5, expression: request.path}]}]}}", "wants a string"},
	{"rateLimit.global.descriptors[0].when", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{when: '1', entries: [{key: a, value: b}]}]}}", "a bool is needed"},
	{"rateLimit.global.descriptors[0].cost", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, descriptors: [{cost: 'true', entries: [{key: a, value: b}]}]}}", "an int is needed"},
	{"rateLimit.global.timeout", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, timeout: 0s, descriptors: [{entries: [{key: a, value: b}]}]}}", "no time at all"},
	{"rateLimit.global.failureMode", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, failureMode: open, descriptors: [{entries: [{key: a, value: b}]}]}}", "use Open or Closed"},
	{"rateLimit.global.status", "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, status: 42, descriptors: [{entries: [{key: a, value: b}]}]}}", "use 400 to 599"},
	{"faultInjection[0]", "faultInjection: [{match: {when: 'true'}}]", "neither delays nor aborts"},
	{"faultInjection[0].match.headers[0].name", "faultInjection: [{match: {headers: [{name: 'a b', value: c}]}, delay: {fixed: 1s}}]", "not a valid name"},
	{"faultInjection[0].match.headers[0].type", "faultInjection: [{match: {headers: [{name: a, type: Glob, value: c}]}, delay: {fixed: 1s}}]", "use Exact or RegularExpression"},
	{"faultInjection[0].match.headers[0].value", "faultInjection: [{match: {headers: [{name: a, type: RegularExpression, value: '('}]}, delay: {fixed: 1s}}]", "not a regular expression"},
	{"faultInjection[0].match.when", "faultInjection: [{match: {when: request.path}, delay: {fixed: 1s}}]", "a bool is needed"},
	{"faultInjection[0].delay.fixed", "faultInjection: [{delay: {percent: 1}}]", "is not a duration"},
	{"faultInjection[0].delay.percent", "faultInjection: [{delay: {fixed: 1s, percent: 100.1}}]", "not a percentage"},
	{"faultInjection[0].delay.percent", "faultInjection: [{delay: {fixed: 1s, percent: .nan}}]", "not a percentage"},
	{"faultInjection[0].abort", "faultInjection: [{abort: {percent: 1}}]", "exactly one"},
	{"faultInjection[0].abort.httpStatus", "faultInjection: [{abort: {httpStatus: 99}}]", "use 200 to 599"},
	{"faultInjection[0].abort.grpcStatus", "faultInjection: [{abort: {grpcStatus: '14'}}]", "not a gRPC status"},
	{"faultInjection[0].abort.percent", "faultInjection: [{abort: {httpStatus: 503, percent: 0.00001}}]", "finer than a millionth"},
	{"faultInjection[0].maxActive", "faultInjection: [{delay: {fixed: 1s}, maxActive: 0}]", "out of range"},
	{"adaptiveConcurrency.sampleWindow", "adaptiveConcurrency: {sampleWindow: 0s}", "no time at all"},
	{"adaptiveConcurrency.minRTT.interval", "adaptiveConcurrency: {minRTT: {interval: 0s}}", "no time at all"},
	{"adaptiveConcurrency.minRTT.requests", "adaptiveConcurrency: {minRTT: {requests: 0}}", "out of range"},
	{"adaptiveConcurrency.minConcurrency", "adaptiveConcurrency: {minConcurrency: 0}", "out of range"},
	{"adaptiveConcurrency.maxConcurrency", "adaptiveConcurrency: {minConcurrency: 10, maxConcurrency: 9}", "less than minConcurrency"},
	{"adaptiveConcurrency.percentile", "adaptiveConcurrency: {percentile: 100}", "out of range"},
	{"adaptiveConcurrency.bufferPercent", "adaptiveConcurrency: {bufferPercent: 0}", "out of range"},
	{"connection.idleTimeout", "connection: {idleTimeout: never}", "is not a duration"},
	{"connection.maxRequestsPerConnection", "connection: {maxRequestsPerConnection: 0}", "out of range"},
	{"targetRefs[1]", "timeout: {idle: 1s}, targetRefs: [{group: '', kind: Service, name: web}, {group: '', kind: Service, name: web}]", "again; remove one"},
	{"targetRefs[0].kind", "timeout: {idle: 1s}, targetRefs: [{group: apps, kind: Deployment, name: web}]", "cannot be attached"},
	{"targetRefs[0].group", "timeout: {idle: 1s}, targetRefs: [{group: 1, kind: Service, name: web}]", "wants a string"},
	{"targetRefs[0].name", "timeout: {idle: 1s}, targetRefs: [{group: '', kind: Service, name: gone}]", "does not exist"},
	{"targetRefs[0].name", "timeout: {idle: 1s}, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gone}]", "does not exist"},
	{"targetRefs[0].name", "timeout: {idle: 1s}, targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: gone}]", "does not exist"},
	{"targetRefs[0].name", "timeout: {idle: 1s}, targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: gone}]", "does not exist"},
	{"targetRefs[0].sectionName", "timeout: {idle: 1s}, targetRefs: [{group: '', kind: Service, name: web, sectionName: grpc}]", "no TCP port by the name"},
}

func TestTrafficPolicyProblems(t *testing.T) {
	for i, tt := range badFields {
		t.Run(fmt.Sprintf("%s-%d", tt.field, i), func(t *testing.T) {
			text := trafficPolicy(tt.spec)
			if strings.Contains(tt.spec, "targetRefs") {
				text = strings.Replace(text, "targetRefs: [{group: '', kind: Service, name: web}], ", "", 1)
			}
			checkWrong(t, []wrong{{"f", text, "TrafficPolicy default/p", "spec." + tt.field, tt.message}})
		})
	}
}

func TestEmptyTrafficPolicy(t *testing.T) {
	checkWrong(t, []wrong{{
		"nothing", "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p}\nspec: {} " + mark + "\n",
		"TrafficPolicy default/p", "spec", "says nothing",
	}})
}

// Everything a policy can say is refused in some form.
func TestEveryFieldIsChecked(t *testing.T) {
	free := map[string]bool{ // all values are good
		"retry.sameEndpoint": true, "retry.retryAfter.ignore": true, "outlierDetection.splitLocalOriginErrors": true,
		"loadBalancer.hash[].query": true, "loadBalancer.hash[].sourceIP": true, "loadBalancer.hash[].terminal": true, "loadBalancer.locality.enabled": true,
		"rateLimit.local[].dryRun": true, "rateLimit.global.dryRun": true, "connection.http2": true,
	}
	checked := map[string]bool{}
	index := regexp.MustCompile(`\[[^\]]*\]`)
	for _, b := range badFields {
		checked[index.ReplaceAllString(b.field, "[]")] = true
	}
	for _, f := range leaves(reflect.TypeFor[object.TrafficPolicySpec](), "") {
		if !checked[f] && !free[f] {
			t.Errorf("no value of spec.%s is refused", f)
		}
		if checked[f] && free[f] {
			t.Errorf("spec.%s stands among those without bad values and has one", f)
		}
	}
}

// leaves lists the fields of a type that hold no others, "[]" for what repeats.
func leaves(t reflect.Type, path string) (out []string) {
	switch {
	case t == reflect.TypeFor[resource.Quantity]() || t.Kind() == reflect.Map && path != "":
		return []string{strings.TrimPrefix(path, ".")}
	case t.Kind() == reflect.Pointer:
		return leaves(t.Elem(), path)
	case t.Kind() == reflect.Slice:
		return leaves(t.Elem(), path+"[]")
	case t.Kind() != reflect.Struct || t.NumField() == 0:
		return []string{strings.TrimPrefix(path, ".")}
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			out = append(out, leaves(f.Type, path)...)
		} else {
			out = append(out, leaves(f.Type, path+"."+name)...)
		}
	}
	return out
}

// Whatever a policy says, it is either told of or in force, and never a crash.
func FuzzTrafficPolicy(f *testing.F) {
	for _, b := range badFields {
		f.Add(b.spec)
	}
	f.Add("timeout: {request: 1s}, loadBalancer: {subsetName: v1}")
	const around = svc + "\n---\n{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d}, spec: {host: web, subsets: [{name: v1, labels: {a: b}}]}}\n"
	f.Fuzz(func(t *testing.T, spec string) {
		text := "apiVersion: policy.cairnproxy.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{group: '', kind: Service, name: web}], " + spec + "}\n" + around
		res, _ := translate(t, "f.yaml", text, object.Options{})
		for _, s := range res.Parts.Services {
			for _, p := range s.Ports {
				if s.Name == "web" && len(res.Problems) == 0 && p.Requests == nil && p.Backend == nil && strings.HasPrefix(policyConditions(res, "TrafficPolicy", "p"), "Service default/web Accepted true") {
					t.Error("the policy is accepted and says nothing")
				}
			}
		}
	})
}

// The examples of docs/traffic-policy.md are good, together.
func TestDocumentedPolicies(t *testing.T) {
	text, err := os.ReadFile("../../docs/traffic-policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var docs []string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		docs = append(docs, block[1])
	}
	if len(docs) < 5 {
		t.Fatalf("there are %d examples", len(docs))
	}
	docs = append(docs, `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: cairn-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratelimit, namespace: shop}
spec: {ports: [{name: grpc, port: 8081}]}
`)
	res := good(t, strings.Join(docs, "\n---\n"))
	if len(res.Notices) > 0 {
		t.Errorf("notices: %v", res.Notices)
	}
	for _, f := range leaves(reflect.TypeFor[object.TrafficPolicySpec](), "") {
		name := f[strings.LastIndexAny(f, ".")+1:]
		if !strings.Contains(string(text), strings.TrimSuffix(name, "[]")) {
			t.Errorf("spec.%s is not documented", f)
		}
	}
}
