package object

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The structs of this file are Cairn's own kind. The schema of
// deploy/crds/policy.cairnproxy.dev_trafficpolicies.yaml has the same fields (a
// test compares the two), and docs/traffic-policy.md says what each of them means.

// TrafficPolicy is policy.cairnproxy.dev TrafficPolicy: what is done with requests
// on their way to a service, attached as Gateway API attaches policies.
type TrafficPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              TrafficPolicySpec `json:"spec"`
	Status            gwv1.PolicyStatus `json:"status,omitzero"`
}

// TrafficPolicySpec is the policy itself. TargetRefs may be empty for a policy
// that is only named by ExtensionRef filters.
type TrafficPolicySpec struct {
	TargetRefs          []gwv1.LocalPolicyTargetReferenceWithSectionName `json:"targetRefs,omitempty"`
	Timeout             *TrafficTimeout                                  `json:"timeout,omitempty"`
	Retry               *TrafficRetry                                    `json:"retry,omitempty"`
	Hedging             *TrafficHedging                                  `json:"hedging,omitempty"`
	CircuitBreaker      *TrafficBreaker                                  `json:"circuitBreaker,omitempty"`
	OutlierDetection    *TrafficOutlier                                  `json:"outlierDetection,omitempty"`
	HealthCheck         *TrafficHealthCheck                              `json:"healthCheck,omitempty"`
	LoadBalancer        *TrafficBalancer                                 `json:"loadBalancer,omitempty"`
	SessionPersistence  *gwv1.SessionPersistence                         `json:"sessionPersistence,omitempty"`
	RateLimit           *TrafficRateLimit                                `json:"rateLimit,omitempty"`
	FaultInjection      []TrafficFault                                   `json:"faultInjection,omitempty"`
	AdaptiveConcurrency *TrafficConcurrency                              `json:"adaptiveConcurrency,omitempty"`
	Connection          *TrafficConnection                               `json:"connection,omitempty"`
}

// TrafficTimeout bounds requests; "0s" is none.
type TrafficTimeout struct {
	Request           *gwv1.Duration `json:"request,omitempty"`
	BackendRequest    *gwv1.Duration `json:"backendRequest,omitempty"`
	Idle              *gwv1.Duration `json:"idle,omitempty"`
	MaxStreamDuration *gwv1.Duration `json:"maxStreamDuration,omitempty"`
	Connect           *gwv1.Duration `json:"connect,omitempty"`
}

// TrafficRetry says when a request is tried again.
type TrafficRetry struct {
	Attempts     *int32             `json:"attempts,omitempty"`
	Codes        []int32            `json:"codes,omitempty"`
	GRPCStatuses []string           `json:"grpcStatuses,omitempty"`
	Failures     []string           `json:"failures,omitempty"` // not "on", which YAML 1.1 reads as true
	Backoff      *TrafficBackoff    `json:"backoff,omitempty"`
	RetryAfter   *TrafficRetryAfter `json:"retryAfter,omitempty"`
	BodyLimit    *resource.Quantity `json:"bodyLimit,omitempty"`
	SameEndpoint bool               `json:"sameEndpoint,omitempty"`
	Budget       *TrafficBudget     `json:"budget,omitempty"`
}

// TrafficBackoff is the pause between tries.
type TrafficBackoff struct {
	Base *gwv1.Duration `json:"base,omitempty"`
	Max  *gwv1.Duration `json:"max,omitempty"`
}

// TrafficRetryAfter says how a response's Retry-After is heeded.
type TrafficRetryAfter struct {
	Max    *gwv1.Duration `json:"max,omitempty"`
	Ignore bool           `json:"ignore,omitempty"`
}

// TrafficBudget bounds the retries of a service.
type TrafficBudget struct {
	Percent       *float64       `json:"percent,omitempty"`
	Interval      *gwv1.Duration `json:"interval,omitempty"`
	MinConcurrent *int32         `json:"minConcurrent,omitempty"`
	MinRate       *TrafficRate   `json:"minRate,omitempty"`
}

// TrafficRate is a count in each interval.
type TrafficRate struct {
	Count    int32          `json:"count"`
	Interval *gwv1.Duration `json:"interval,omitempty"`
}

// TrafficHedging sends slow requests a second time.
type TrafficHedging struct {
	Delay gwv1.Duration `json:"delay"`
	Max   *int32        `json:"max,omitempty"`
}

// TrafficBreaker bounds what is under way to a service.
type TrafficBreaker struct {
	MaxConnections     *int64 `json:"maxConnections,omitempty"`
	MaxPendingRequests *int64 `json:"maxPendingRequests,omitempty"`
	MaxRequests        *int64 `json:"maxRequests,omitempty"`
	MaxRetries         *int64 `json:"maxRetries,omitempty"`
}

// TrafficOutlier ejects endpoints that fail.
type TrafficOutlier struct {
	Consecutive5xxErrors         *int64                 `json:"consecutive5xxErrors,omitempty"`
	ConsecutiveGatewayErrors     *int64                 `json:"consecutiveGatewayErrors,omitempty"`
	ConsecutiveLocalOriginErrors *int64                 `json:"consecutiveLocalOriginErrors,omitempty"`
	SplitLocalOriginErrors       bool                   `json:"splitLocalOriginErrors,omitempty"`
	Interval                     *gwv1.Duration         `json:"interval,omitempty"`
	BaseEjectionTime             *gwv1.Duration         `json:"baseEjectionTime,omitempty"`
	MaxEjectionTime              *gwv1.Duration         `json:"maxEjectionTime,omitempty"`
	MaxEjectionPercent           *int64                 `json:"maxEjectionPercent,omitempty"`
	MinHealthPercent             *int64                 `json:"minHealthPercent,omitempty"`
	SuccessRate                  *TrafficSuccessRate    `json:"successRate,omitempty"`
	FailurePercentage            *TrafficFailurePercent `json:"failurePercentage,omitempty"`
}

// TrafficSuccessRate ejects endpoints that succeed less than the others.
type TrafficSuccessRate struct {
	StdevFactor   *float64 `json:"stdevFactor,omitempty"`
	MinHosts      *int64   `json:"minHosts,omitempty"`
	RequestVolume *int64   `json:"requestVolume,omitempty"`
}

// TrafficFailurePercent ejects endpoints whose share of failures is too high.
type TrafficFailurePercent struct {
	Threshold     int64  `json:"threshold"`
	MinHosts      *int64 `json:"minHosts,omitempty"`
	RequestVolume *int64 `json:"requestVolume,omitempty"`
}

// TrafficHealthCheck asks endpoints for their health: by exactly one of HTTP, GRPC and TCP.
type TrafficHealthCheck struct {
	HTTP               *TrafficHTTPCheck `json:"http,omitempty"`
	GRPC               *TrafficGRPCCheck `json:"grpc,omitempty"`
	TCP                *TrafficTCPCheck  `json:"tcp,omitempty"`
	Port               *int32            `json:"port,omitempty"`
	Interval           *gwv1.Duration    `json:"interval,omitempty"`
	Timeout            *gwv1.Duration    `json:"timeout,omitempty"`
	HealthyThreshold   *int64            `json:"healthyThreshold,omitempty"`
	UnhealthyThreshold *int64            `json:"unhealthyThreshold,omitempty"`
}

// TrafficHTTPCheck is a GET.
type TrafficHTTPCheck struct {
	Path     string               `json:"path"`
	Host     string               `json:"host,omitempty"`
	Statuses []TrafficStatusRange `json:"statuses,omitempty"`
}

// TrafficStatusRange is a range of statuses, both ends included.
type TrafficStatusRange struct {
	From int32  `json:"from"`
	To   *int32 `json:"to,omitempty"`
}

// TrafficGRPCCheck is grpc.health.v1.Health/Check.
type TrafficGRPCCheck struct {
	Service string `json:"service,omitempty"`
}

// TrafficTCPCheck is a connection that is accepted.
type TrafficTCPCheck struct{}

// TrafficBalancer says how endpoints are chosen.
type TrafficBalancer struct {
	Policy     string            `json:"policy,omitempty"`
	Hash       []TrafficHash     `json:"hash,omitempty"`
	RingSize   *TrafficRingSize  `json:"ringSize,omitempty"`
	TableSize  *int64            `json:"tableSize,omitempty"`
	Locality   *TrafficLocality  `json:"locality,omitempty"`
	SlowStart  *TrafficSlowStart `json:"slowStart,omitempty"`
	Subset     *TrafficSubset    `json:"subset,omitempty"`
	SubsetName string            `json:"subsetName,omitempty"`
}

// TrafficHash is one source of a hash key: exactly one of Header, Cookie, Query and SourceIP.
type TrafficHash struct {
	Header   string             `json:"header,omitempty"`
	Cookie   *TrafficHashCookie `json:"cookie,omitempty"`
	Query    string             `json:"query,omitempty"`
	SourceIP bool               `json:"sourceIP,omitempty"`
	Terminal bool               `json:"terminal,omitempty"`
}

// TrafficHashCookie is a cookie; one is made where TTL is given.
type TrafficHashCookie struct {
	Name string         `json:"name"`
	Path string         `json:"path,omitempty"`
	TTL  *gwv1.Duration `json:"ttl,omitempty"`
}

// TrafficRingSize bounds the size of a hash ring.
type TrafficRingSize struct {
	Min *int64 `json:"min,omitempty"`
	Max *int64 `json:"max,omitempty"`
}

// TrafficLocality prefers endpoints near the waypoint.
type TrafficLocality struct {
	Enabled          *bool               `json:"enabled,omitempty"`
	Distribute       []TrafficDistribute `json:"distribute,omitempty"`
	Failover         []TrafficFailover   `json:"failover,omitempty"`
	FailoverPriority []string            `json:"failoverPriority,omitempty"`
}

// TrafficDistribute gives localities percentages of what comes from one.
type TrafficDistribute struct {
	From string            `json:"from"`
	To   map[string]uint32 `json:"to"`
}

// TrafficFailover names the region that follows one.
type TrafficFailover struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// TrafficSlowStart raises a new endpoint's weight over a time.
type TrafficSlowStart struct {
	Window           gwv1.Duration `json:"window"`
	Aggression       *float64      `json:"aggression,omitempty"`
	MinWeightPercent *int64        `json:"minWeightPercent,omitempty"`
}

// TrafficSubset restricts the endpoints to those with these labels.
type TrafficSubset struct {
	Labels map[string]string `json:"labels"`
}

// TrafficRateLimit limits the rate of requests.
type TrafficRateLimit struct {
	Local  []TrafficLocalLimit `json:"local,omitempty"`
	Global *TrafficGlobalLimit `json:"global,omitempty"`
	Fields string              `json:"fields,omitempty"`
}

// TrafficLocalLimit is a token bucket, or one for each value of Key.
type TrafficLocalLimit struct {
	Name     string         `json:"name"`
	Requests int64          `json:"requests"`
	Per      *gwv1.Duration `json:"per,omitempty"`
	Burst    *int64         `json:"burst,omitempty"`
	When     string         `json:"when,omitempty"`
	Key      []string       `json:"key,omitempty"`
	Cost     string         `json:"cost,omitempty"`
	MaxKeys  *int64         `json:"maxKeys,omitempty"`
	Status   *int32         `json:"status,omitzero"`
	DryRun   bool           `json:"dryRun,omitempty"`
}

// TrafficGlobalLimit asks a RateLimitService.
type TrafficGlobalLimit struct {
	BackendRef  gwv1.BackendObjectReference `json:"backendRef"`
	Domain      string                      `json:"domain"`
	Descriptors []TrafficDescriptor         `json:"descriptors,omitempty"`
	Timeout     *gwv1.Duration              `json:"timeout,omitempty"`
	FailureMode string                      `json:"failureMode,omitempty"`
	Status      *int32                      `json:"status,omitzero"`
	DryRun      bool                        `json:"dryRun,omitempty"`
}

// TrafficDescriptor is a list of pairs that the service counts by.
type TrafficDescriptor struct {
	Entries []TrafficDescriptorEntry `json:"entries"`
	When    string                   `json:"when,omitempty"`
	Cost    string                   `json:"cost,omitempty"`
}

// TrafficDescriptorEntry is one pair; exactly one of Value and Expression is its value.
type TrafficDescriptorEntry struct {
	Key        string `json:"key"`
	Value      string `json:"value,omitempty"`
	Expression string `json:"expression,omitempty"`
}

// TrafficFault is a delay, an abort, or both.
type TrafficFault struct {
	Match     *TrafficFaultMatch `json:"match,omitempty"`
	Delay     *TrafficDelay      `json:"delay,omitempty"`
	Abort     *TrafficAbort      `json:"abort,omitempty"`
	MaxActive *int64             `json:"maxActive,omitempty"`
}

// TrafficFaultMatch chooses requests; all that is given must agree.
type TrafficFaultMatch struct {
	Headers []gwv1.HTTPHeaderMatch `json:"headers,omitempty"`
	When    string                 `json:"when,omitempty"`
}

// TrafficDelay holds requests back.
type TrafficDelay struct {
	Fixed   gwv1.Duration `json:"fixed"`
	Percent *float64      `json:"percent,omitempty"`
}

// TrafficAbort answers requests; exactly one of HTTPStatus and GRPCStatus says with what.
type TrafficAbort struct {
	HTTPStatus *int32   `json:"httpStatus,omitempty"`
	GRPCStatus string   `json:"grpcStatus,omitempty"`
	Percent    *float64 `json:"percent,omitempty"`
}

// TrafficConcurrency bounds the requests in flight by what their latency says.
type TrafficConcurrency struct {
	SampleWindow   *gwv1.Duration `json:"sampleWindow,omitempty"`
	MinRTT         *TrafficMinRTT `json:"minRTT,omitempty"`
	MinConcurrency *int64         `json:"minConcurrency,omitempty"`
	MaxConcurrency *int64         `json:"maxConcurrency,omitempty"`
	Percentile     *float64       `json:"percentile,omitempty"`
	BufferPercent  *float64       `json:"bufferPercent,omitempty"`
}

// TrafficMinRTT says how the minimum round-trip time is measured.
type TrafficMinRTT struct {
	Interval *gwv1.Duration `json:"interval,omitempty"`
	Requests *int64         `json:"requests,omitempty"`
}

// TrafficConnection is of connections to endpoints.
type TrafficConnection struct {
	IdleTimeout              *gwv1.Duration `json:"idleTimeout,omitempty"`
	MaxRequestsPerConnection *int64         `json:"maxRequestsPerConnection,omitempty"`
	HTTP2                    bool           `json:"http2,omitempty"`
}
