package mesh

import (
	"cmp"
	"time"
)

// Never, as a timeout, says "none at all", where 0 says nothing and lets a more
// general policy speak.
const Never time.Duration = -1

// RequestPolicy is what is done with requests before an endpoint is chosen. It is
// what the policies attached to a waypoint, a service and its port say
// together (ServicePort.Requests), or those attached to a route and its rule with what
// the rule itself says (Route.Requests). A nil part says nothing.
type RequestPolicy struct {
	Timeouts  *Timeouts
	Retry     *Retry
	Hedging   *Hedging
	RateLimit *RateLimit
	Faults    *Faults
	Session   *Session
}

// Over returns p where it speaks, and base where it does not: the more specific
// wins field by field. It returns one of the two where that is the same, and
// either may be nil.
func (p *RequestPolicy) Over(base *RequestPolicy) *RequestPolicy {
	if p == nil || base == nil {
		return either(p, base)
	}
	out := *base
	out.Timeouts = p.Timeouts.over(base.Timeouts)
	out.Retry = either(p.Retry, base.Retry)
	out.Hedging = either(p.Hedging, base.Hedging)
	out.RateLimit = either(p.RateLimit, base.RateLimit)
	out.Faults = either(p.Faults, base.Faults)
	out.Session = either(p.Session, base.Session)
	return &out
}

func either[T any](p, base *T) *T {
	if p != nil {
		return p
	}
	return base
}

// Timeouts bound a request. For each, 0 says nothing and Never is none.
type Timeouts struct {
	// Request is for the whole, from the request's head to the response's end.
	Request time.Duration
	// PerTry is for one endpoint to begin its response.
	PerTry time.Duration
	// Idle ends an exchange in which no byte moves, either way.
	Idle time.Duration
	// MaxDuration bounds upgraded and streaming exchanges, which Request does not end
	// once the response has begun.
	MaxDuration time.Duration
}

func (t *Timeouts) over(base *Timeouts) *Timeouts {
	if t == nil || base == nil {
		return either(t, base)
	}
	return &Timeouts{
		cmp.Or(t.Request, base.Request), cmp.Or(t.PerTry, base.PerTry),
		cmp.Or(t.Idle, base.Idle), cmp.Or(t.MaxDuration, base.MaxDuration),
	}
}

// RetryOn is a set of reasons to try again, beside status codes.
type RetryOn uint16

const (
	// RetryConnectFailure: no connection could be made; nothing was sent.
	RetryConnectFailure RetryOn = 1 << iota
	// RetryRefusedStream: the endpoint refused the stream (REFUSED_STREAM, GOAWAY).
	RetryRefusedStream
	// RetryReset: the connection or the stream ended before a response.
	RetryReset
	// RetryResetBeforeRequest is RetryReset before any of the request was sent.
	RetryResetBeforeRequest
	// RetryPerTryTimeout: the endpoint did not begin to answer in time.
	RetryPerTryTimeout
)

// Retry says when and how a request is tried again. Never once bytes of a response
// have gone to the client, and not when more of the request's body was sent than is kept.
type Retry struct {
	// Policy is the object that says so; zero for a route's own field.
	Policy Name
	// Attempts is how many tries may follow the first; 0 for none.
	Attempts int
	// Codes are the statuses of responses to try again after (HTTP), GRPCStatuses those of
	// gRPC: grpc-status in a response's head, or in trailers without content before.
	Codes        []int
	GRPCStatuses []int
	On           RetryOn
	// BackoffBase is the first pause's upper bound; each further one is twice as long, up to
	// BackoffMax (0: ten times the base), and the actual pause is random below it ("full jitter").
	// A Base of 0 means 25 ms, as Envoy has it.
	// No pause is shorter than BackoffMin, which is below BackoffBase.
	BackoffBase, BackoffMax, BackoffMin time.Duration
	// RetryAfterMax bounds the pause that a response's Retry-After asks for; a longer one
	// ends the trying. 0 means 5 s; Never means that Retry-After is not heeded.
	RetryAfterMax time.Duration
	// BodyLimit is how many bytes of a request's body are kept for another
	// try; 0 means 64 KiB.
	BodyLimit int
	// SameEndpoint lets a try go to an endpoint that failed before, where others are there.
	SameEndpoint bool
}

// Hedging sends a second request when the first takes long, and takes whichever
// answer comes first. Only idempotent requests without a body are hedged, and
// each hedge takes from the retry budget.
type Hedging struct {
	Policy Name
	// Delay is after how long without a response's head another request goes out.
	Delay time.Duration
	// Max is how many may go out beside the first.
	Max int
}

// RateLimit is what limits the rate of requests.
type RateLimit struct {
	Policy Name
	// Local limits are counted by each instance of a waypoint by itself.
	Local []LocalLimit
	// Global limits are counted by a RateLimitService that all instances ask; nil for none.
	Global *GlobalLimit
	// Fields says which responses tell the client what is left to it.
	Fields QuotaFields
}

// QuotaFields says which responses carry the RateLimit fields.
type QuotaFields uint8

// The values of QuotaFields.
const (
	QuotaAlways  QuotaFields = iota // all that a limit applied to
	QuotaRefused                    // those that say that a limit was exceeded
	QuotaNever
)

// LocalLimit is a token bucket, or many: one for each value of Key.
type LocalLimit struct {
	// Name tells limits of one policy apart, in metrics and dumps.
	Name string
	// Requests is how many may pass in each Per, and Burst how many at once.
	Requests uint64
	Per      time.Duration
	Burst    uint64
	// When, Key and Cost are CEL expressions over the request: whether the limit
	// applies at all, which bucket, and how many tokens; "" means always, one bucket, 1.
	When string
	Key  []string
	Cost string
	// MaxKeys bounds the buckets that are kept; 0 means 10,000. The one not used for longest goes first.
	MaxKeys int
	// DryRun counts and logs what it would refuse, and lets it pass.
	DryRun bool
	// Status is what is answered; 0 means 429.
	Status int
}

// GlobalLimit asks Envoy's rate limit service (envoy.service.ratelimit.v3).
type GlobalLimit struct {
	// Service and Port are where the service listens, by gRPC.
	Service ServiceKey
	Port    uint16
	Domain  string
	// Descriptors are sent together; one whose When is false, or of which an
	// entry has no value, is left out.
	Descriptors []Descriptor
	// Timeout of one question; 0 means 20 ms, as Envoy has it.
	Timeout time.Duration
	// FailOpen lets requests pass when the service does not answer; otherwise they
	// are refused with 500 (gRPC: UNAVAILABLE).
	FailOpen bool
	DryRun   bool
	// Status is what is answered to those over the limit; 0 means 429.
	Status int
	// Broken, when not empty, says why the service cannot be asked: it is handled like one
	// that does not answer.
	Broken string
}

// Descriptor is one list of key-value pairs that the service counts by.
type Descriptor struct {
	Entries []DescriptorEntry
	// When and Cost are CEL expressions as in LocalLimit.
	When, Cost string
}

// DescriptorEntry is one pair. Expr, a CEL expression that gives a string, a
// number or a bool, is the value where Value is empty.
type DescriptorEntry struct{ Key, Value, Expr string }

// Faults are injected in order: all delays that apply, then the first abort that does.
type Faults struct {
	Policy Name
	List   []Fault
}

// Fault is a delay, an abort, or both.
type Fault struct {
	// Headers and When, a CEL expression, choose requests; both must agree.
	Headers []NamedMatch
	When    string
	// Delay is for DelayPPM of a million requests.
	Delay    time.Duration
	DelayPPM uint32
	// Status (HTTP) or GRPCStatus (-1 for none) is answered to AbortPPM of a million.
	Status     int
	GRPCStatus int
	AbortPPM   uint32
	// MaxActive is how many requests may be under the fault at once; 0 bounds nothing.
	MaxActive uint32
}

// Session keeps a client with the endpoint that it got first (GEP-1619).
type Session struct {
	Policy Name
	// Name is the cookie's or header's name.
	Name   string
	Header bool // a header instead of a cookie
	// Permanent makes the cookie live for AbsoluteTimeout; otherwise it ends with the browser's session.
	Permanent                    bool
	AbsoluteTimeout, IdleTimeout time.Duration
}

// BackendPolicy is what governs the way to the endpoints of one port of a service:
// TrafficPolicy, XBackendTrafficPolicy, DestinationRule and BackendTLSPolicy together.
// A nil part says nothing.
type BackendPolicy struct {
	Connection  *ConnectionSettings
	Breaker     *CircuitBreaker
	Budget      *RetryBudget
	Outlier     *OutlierDetection
	Health      *HealthCheck
	Balancer    *Balancer
	Concurrency *AdaptiveConcurrency
	TLS         *BackendTLS
	// Subset restricts the endpoints to those with these labels; empty for all.
	Subset map[string]string
}

// IsZero reports whether p says nothing.
func (p *BackendPolicy) IsZero() bool {
	return p == nil || p.Connection == nil && p.Breaker == nil && p.Budget == nil && p.Outlier == nil && p.Health == nil &&
		p.Balancer == nil && p.Concurrency == nil && p.TLS == nil && len(p.Subset) == 0
}

// Over returns p where it speaks, and base where it does not. Either may be nil.
func (p *BackendPolicy) Over(base *BackendPolicy) *BackendPolicy {
	if p == nil || base == nil {
		return either(p, base)
	}
	out := *base
	out.Connection = p.Connection.over(base.Connection)
	out.Breaker = p.Breaker.over(base.Breaker)
	out.Budget = either(p.Budget, base.Budget)
	out.Outlier = either(p.Outlier, base.Outlier)
	out.Health = either(p.Health, base.Health)
	out.Balancer = either(p.Balancer, base.Balancer)
	out.Concurrency = either(p.Concurrency, base.Concurrency)
	out.TLS = either(p.TLS, base.TLS)
	if len(p.Subset) > 0 {
		out.Subset = p.Subset
	}
	return &out
}

// ConnectionSettings are of connections to endpoints. 0 takes the default.
type ConnectionSettings struct {
	Policy Name
	// ConnectTimeout is for a connection to be made; the default is 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout closes a connection that nothing has used; the default is 60 s. Never keeps it.
	IdleTimeout time.Duration
	// MaxRequests is after how many requests a connection is closed; 0 for never.
	MaxRequests uint32
	// HTTP2 upgrades what would be HTTP/1.1 (DestinationRule's h2UpgradePolicy).
	HTTP2 bool
}

// over takes each setting where it is given.
func (c *ConnectionSettings) over(base *ConnectionSettings) *ConnectionSettings {
	if c == nil || base == nil {
		return either(c, base)
	}
	return &ConnectionSettings{
		Policy:         c.Policy,
		ConnectTimeout: cmp.Or(c.ConnectTimeout, base.ConnectTimeout),
		IdleTimeout:    cmp.Or(c.IdleTimeout, base.IdleTimeout),
		MaxRequests:    cmp.Or(c.MaxRequests, base.MaxRequests),
		HTTP2:          c.HTTP2 || base.HTTP2,
	}
}

// CircuitBreaker bounds what is under way to a cluster; what is over answers 503 with the flag UO.
// 0 bounds nothing.
type CircuitBreaker struct {
	Policy         Name
	MaxConnections uint32
	// MaxPending is of requests that wait for a connection.
	MaxPending  uint32
	MaxRequests uint32
	MaxRetries  uint32
}

// over takes each bound where it is given.
func (c *CircuitBreaker) over(base *CircuitBreaker) *CircuitBreaker {
	if c == nil || base == nil {
		return either(c, base)
	}
	return &CircuitBreaker{
		Policy:         c.Policy,
		MaxConnections: cmp.Or(c.MaxConnections, base.MaxConnections),
		MaxPending:     cmp.Or(c.MaxPending, base.MaxPending),
		MaxRequests:    cmp.Or(c.MaxRequests, base.MaxRequests),
		MaxRetries:     cmp.Or(c.MaxRetries, base.MaxRetries),
	}
}

// RetryBudget bounds retries and hedges of a cluster by its load.
type RetryBudget struct {
	Policy Name
	// Percent of the requests in flight that may be retries; where Interval is
	// set, of the requests of that time (GEP-3388).
	Percent  float64
	Interval time.Duration
	// MinConcurrency is how many may be in flight whatever the percentage.
	MinConcurrency uint32
	// MinRate retries in each MinRateInterval pass whatever the percentage.
	MinRate         uint32
	MinRateInterval time.Duration
}

// OutlierDetection ejects endpoints that fail. Thresholds of 0 are off.
type OutlierDetection struct {
	Policy Name
	// Consecutive failures: responses 500-599; of these 502, 503 and 504; no response at all.
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal uint32
	// SplitLocal counts what is no response only as ConsecutiveLocal; otherwise as a 5xx, too.
	SplitLocal bool
	// Interval is how often rates are looked at; 0 means 10 s.
	Interval time.Duration
	// An ejection lasts BaseEjection (0: 30 s) times how often it has happened, up to MaxEjection (0: 300 s).
	BaseEjection, MaxEjection time.Duration
	// MaxEjectionPercent of the endpoints may be ejected; 0 means 10. One always may.
	MaxEjectionPercent uint32
	// MinHealthPercent: with fewer healthy, nothing is ejected any more and all endpoints
	// are used ("panic"). 0 turns it off.
	MinHealthPercent uint32
	// SuccessRateStdev, in thousandths, is how far below the mean of all a success rate may be;
	// looked at with SuccessRateHosts (0: 5) endpoints that had RequestVolume (0: 100) requests each in the interval.
	SuccessRateStdev uint32
	SuccessRateHosts uint32
	RequestVolume    uint32
	// FailurePercent is the share of failures from which an endpoint is ejected, with FailureHosts (0: 5) and FailureVolume (0: 50).
	FailurePercent uint32
	FailureHosts   uint32
	FailureVolume  uint32
}

// HealthKind is how health is asked for.
type HealthKind uint8

const (
	// HealthHTTP is a GET that is answered with an expected status.
	HealthHTTP HealthKind = iota
	// HealthGRPC is grpc.health.v1.Health/Check.
	HealthGRPC
	// HealthTCP is a connection that is accepted.
	HealthTCP
)

// HealthCheck asks endpoints for their health.
type HealthCheck struct {
	Policy Name
	Kind   HealthKind
	// Path, Host ("": the service's) and Statuses (empty: 200-299; from, to inclusive) are for HTTP, Service for gRPC.
	Path, Host string
	Statuses   [][2]int
	Service    string
	// Port to ask; 0 means the endpoint's own.
	Port uint16
	// Interval (0: 5 s) and Timeout (0: 1 s) of one check.
	Interval, Timeout time.Duration
	// Healthy and Unhealthy are how many answers in a row change an endpoint's state; 0 means 1 and 3.
	Healthy, Unhealthy uint32
}

// BalancerPolicy is a balancing algorithm.
type BalancerPolicy uint8

const (
	// BalanceDefault is BalanceLeastRequest.
	BalanceDefault BalancerPolicy = iota
	// BalanceLeastRequest takes the less loaded of two random endpoints.
	BalanceLeastRequest
	// BalanceRoundRobin takes the endpoints in turn.
	BalanceRoundRobin
	// BalanceRandom takes any, by weight.
	BalanceRandom
	// BalanceRingHash, BalanceMaglev and BalanceRendezvous take the same for the same hash key.
	BalanceRingHash
	// BalanceMaglev is by a permutation table.
	BalanceMaglev
	// BalanceRendezvous is by the highest random weight.
	BalanceRendezvous
	// BalancePeakEWMA takes the one of two that has answered faster lately, for what waits there.
	BalancePeakEWMA
	// BalancePassthrough sends where the client dialled.
	BalancePassthrough
)

// Balancer says how endpoints are chosen.
type Balancer struct {
	Policy Name
	Kind   BalancerPolicy
	// Hash are the sources of the hash key, in order: all that have a value are mixed, up
	// to and with the first Terminal one. None at all means a random endpoint.
	Hash []HashKey
	// RingMin (0: 1024) and RingMax (0: 8 Mi) bound a ring's size, TableSize (a prime; 0: 65537) is Maglev's.
	RingMin, RingMax, TableSize uint64
	// Locality prefers endpoints near the waypoint; nil leaves it to the service.
	Locality *LocalityPolicy
	// SlowStart lets new endpoints in gradually; nil for at once.
	SlowStart *SlowStart
}

// HashKeyKind is where a part of a hash key comes from.
type HashKeyKind uint8

const (
	// HashHeader is a request header's value.
	HashHeader HashKeyKind = iota
	// HashCookie is a cookie's; where TTL is not 0 and the request has none, one is made and set.
	HashCookie
	// HashQuery is a query parameter's.
	HashQuery
	// HashSource is the client's address.
	HashSource
)

// HashKey is one source of a hash key.
type HashKey struct {
	Kind     HashKeyKind
	Name     string // lower case for headers
	Path     string // of the cookie that is set
	TTL      time.Duration
	Session  bool // a generated cookie without a lifetime (TTL "0s")
	Terminal bool
}

// LocalityPolicy is DestinationRule's localityLbSetting.
type LocalityPolicy struct {
	// Off takes all endpoints alike, whatever the service says.
	Off bool
	// Distribute weighs localities for clients in From; the first that matches counts.
	Distribute []LocalityWeights
	// Failover maps a region to the one that follows it; FailoverLabels ("failoverPriority") rank endpoints
	// by how many of these labels, from the first, they share with the client.
	Failover       map[string]string
	FailoverLabels []string
}

// LocalityWeights are percentages for "region/zone/subzone" patterns that may end in "*".
type LocalityWeights struct {
	From string
	To   map[string]uint32
}

// SlowStart raises a new endpoint's weight over a time.
type SlowStart struct {
	Window time.Duration
	// Aggression above 1 raises it faster at first; 0 means 1, a straight line.
	Aggression float64
	// MinPercent is the weight that it begins with; 0 means 10.
	MinPercent uint32
}

// AdaptiveConcurrency bounds the requests in flight to a cluster by what its latency
// says: the gradient of the minimum round-trip time against the current one.
type AdaptiveConcurrency struct {
	Policy Name
	// SampleWindow is how often the limit changes; 0 means 100 ms. MinRTTInterval is how often
	// the minimum is measured again; 0 means 60 s, with MinRTTRequests (0: 50) requests.
	SampleWindow, MinRTTInterval time.Duration
	MinRTTRequests               uint32
	// Min (0: 3) and Max (0: 1000) bound the limit.
	Min, Max uint32
	// Percentile of the latencies that counts; 0 means 50.
	Percentile float64
	// BufferPercent is how much above the minimum is still well; 0 means 25.
	BufferPercent float64
}

// BackendTLS is TLS to endpoints outside the mesh (BackendTLSPolicy, DestinationRule).
type BackendTLS struct {
	Policy Name
	// SNI is the server name that is sent; Hostname, or one of SANs, must stand in the certificate.
	SNI, Hostname string
	SANs          []string
	// Roots are PEM certificates; empty with System set means the machine's.
	Roots  []byte
	System bool
	// Certificate and Key are the client's, PEM; empty for none.
	Certificate []byte
	Key         Secret
	// Broken, when not empty, says why nothing may be sent: requests get 500.
	Broken string
}
