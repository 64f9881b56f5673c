package object

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The structs of this file carry every field of Istio's published
// DestinationRule. destinationrule.go says which of them are honoured.

// DestinationRule is networking.istio.io DestinationRule.
type DestinationRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              DestinationRuleSpec `json:"spec"`
	Status            any                 `json:"status,omitempty"`
}

// DestinationRuleSpec says how a host is reached.
type DestinationRuleSpec struct {
	Host             string        `json:"host"`
	TrafficPolicy    *RulePolicy   `json:"trafficPolicy,omitempty"`
	Subsets          []RuleSubset  `json:"subsets,omitempty"`
	ExportTo         []string      `json:"exportTo,omitempty"`
	WorkloadSelector *RuleSelector `json:"workloadSelector,omitempty"`
}

// RuleSelector is istio.type.v1beta1.WorkloadSelector.
type RuleSelector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// RuleSubset is a named part of a host's endpoints.
type RuleSubset struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels,omitempty"`
	TrafficPolicy *RulePolicy       `json:"trafficPolicy,omitempty"`
}

// RulePolicy is Istio's TrafficPolicy message.
type RulePolicy struct {
	RuleSettings      `json:",inline"`
	PortLevelSettings []RulePortPolicy   `json:"portLevelSettings,omitempty"`
	Tunnel            *RuleTunnel        `json:"tunnel,omitempty"`
	ProxyProtocol     *RuleProxyProtocol `json:"proxyProtocol,omitempty"`
	RetryBudget       *RuleRetryBudget   `json:"retryBudget,omitempty"`
}

// RuleSettings are what may be said of a host and of one of its ports.
type RuleSettings struct {
	LoadBalancer     *RuleBalancer       `json:"loadBalancer,omitempty"`
	ConnectionPool   *RuleConnectionPool `json:"connectionPool,omitempty"`
	OutlierDetection *RuleOutlier        `json:"outlierDetection,omitempty"`
	TLS              *RuleTLS            `json:"tls,omitempty"`
}

// RulePortPolicy replaces the settings for one port.
type RulePortPolicy struct {
	Port         *RulePort `json:"port,omitempty"`
	RuleSettings `json:",inline"`
}

// RulePort names a port.
type RulePort struct {
	Number uint32 `json:"number,omitempty"`
}

// RuleTunnel carries TCP in another protocol.
type RuleTunnel struct {
	Protocol   string `json:"protocol,omitempty"`
	TargetHost string `json:"targetHost"`
	TargetPort uint32 `json:"targetPort"`
}

// RuleProxyProtocol is HAProxy's PROXY protocol.
type RuleProxyProtocol struct {
	Version string `json:"version,omitempty"`
}

// RuleRetryBudget bounds retries.
type RuleRetryBudget struct {
	Percent             *float64 `json:"percent,omitempty"`
	MinRetryConcurrency *uint32  `json:"minRetryConcurrency,omitempty"`
}

// RuleBalancer is Istio's LoadBalancerSettings.
type RuleBalancer struct {
	Simple             string        `json:"simple,omitempty"`
	ConsistentHash     *RuleHash     `json:"consistentHash,omitempty"`
	LocalityLbSetting  *RuleLocality `json:"localityLbSetting,omitempty"`
	WarmupDurationSecs string        `json:"warmupDurationSecs,omitempty"`
	Warmup             *RuleWarmup   `json:"warmup,omitempty"`
}

// RuleWarmup is slow start.
type RuleWarmup struct {
	Duration       string   `json:"duration,omitempty"`
	MinimumPercent *float64 `json:"minimumPercent,omitempty"`
	Aggression     *float64 `json:"aggression,omitempty"`
}

// RuleHash is Istio's ConsistentHashLB.
type RuleHash struct {
	HTTPHeaderName         string          `json:"httpHeaderName,omitempty"`
	HTTPCookie             *RuleHashCookie `json:"httpCookie,omitempty"`
	UseSourceIP            bool            `json:"useSourceIp,omitempty"`
	HTTPQueryParameterName string          `json:"httpQueryParameterName,omitempty"`
	RingHash               *RuleRing       `json:"ringHash,omitempty"`
	Maglev                 *RuleMaglev     `json:"maglev,omitempty"`
	MinimumRingSize        uint64          `json:"minimumRingSize,omitempty"`
}

// RuleHashCookie is a cookie that is hashed.
type RuleHashCookie struct {
	Name string  `json:"name"`
	Path string  `json:"path,omitempty"`
	TTL  *string `json:"ttl,omitempty"`
}

// RuleRing is a hash ring.
type RuleRing struct {
	MinimumRingSize uint64 `json:"minimumRingSize,omitempty"`
}

// RuleMaglev is a Maglev table.
type RuleMaglev struct {
	TableSize uint64 `json:"tableSize,omitempty"`
}

// RuleLocality is Istio's LocalityLoadBalancerSetting.
type RuleLocality struct {
	Distribute       []TrafficDistribute `json:"distribute,omitempty"`
	Failover         []TrafficFailover   `json:"failover,omitempty"`
	FailoverPriority []string            `json:"failoverPriority,omitempty"`
	Enabled          *bool               `json:"enabled,omitempty"`
}

// RuleConnectionPool is Istio's ConnectionPoolSettings.
type RuleConnectionPool struct {
	TCP  *RuleTCPPool  `json:"tcp,omitempty"`
	HTTP *RuleHTTPPool `json:"http,omitempty"`
}

// RuleTCPPool is of all connections.
type RuleTCPPool struct {
	MaxConnections        int32          `json:"maxConnections,omitempty"`
	ConnectTimeout        string         `json:"connectTimeout,omitempty"`
	TCPKeepalive          *RuleKeepalive `json:"tcpKeepalive,omitempty"`
	MaxConnectionDuration string         `json:"maxConnectionDuration,omitempty"`
	IdleTimeout           string         `json:"idleTimeout,omitempty"`
}

// RuleKeepalive is TCP keepalive.
type RuleKeepalive struct {
	Probes   uint32 `json:"probes,omitempty"`
	Time     string `json:"time,omitempty"`
	Interval string `json:"interval,omitempty"`
}

// RuleHTTPPool is of HTTP connections.
type RuleHTTPPool struct {
	HTTP1MaxPendingRequests  int32  `json:"http1MaxPendingRequests,omitempty"`
	HTTP2MaxRequests         int32  `json:"http2MaxRequests,omitempty"`
	MaxRequestsPerConnection int32  `json:"maxRequestsPerConnection,omitempty"`
	MaxRetries               int32  `json:"maxRetries,omitempty"`
	IdleTimeout              string `json:"idleTimeout,omitempty"`
	H2UpgradePolicy          string `json:"h2UpgradePolicy,omitempty"`
	UseClientProtocol        bool   `json:"useClientProtocol,omitempty"`
	MaxConcurrentStreams     int32  `json:"maxConcurrentStreams,omitempty"`
}

// RuleOutlier is Istio's OutlierDetection.
type RuleOutlier struct {
	ConsecutiveErrors              int32   `json:"consecutiveErrors,omitempty"`
	SplitExternalLocalOriginErrors bool    `json:"splitExternalLocalOriginErrors,omitempty"`
	ConsecutiveLocalOriginFailures *uint32 `json:"consecutiveLocalOriginFailures,omitempty"`
	ConsecutiveGatewayErrors       *uint32 `json:"consecutiveGatewayErrors,omitempty"`
	Consecutive5xxErrors           *uint32 `json:"consecutive5xxErrors,omitempty"`
	Interval                       string  `json:"interval,omitempty"`
	BaseEjectionTime               string  `json:"baseEjectionTime,omitempty"`
	MaxEjectionPercent             int32   `json:"maxEjectionPercent,omitempty"`
	MinHealthPercent               int32   `json:"minHealthPercent,omitempty"`
}

// RuleTLS is Istio's ClientTLSSettings.
type RuleTLS struct {
	Mode               string   `json:"mode,omitempty"`
	ClientCertificate  string   `json:"clientCertificate,omitempty"`
	PrivateKey         string   `json:"privateKey,omitempty"`
	CACertificates     string   `json:"caCertificates,omitempty"`
	CredentialName     string   `json:"credentialName,omitempty"`
	SubjectAltNames    []string `json:"subjectAltNames,omitempty"`
	SNI                string   `json:"sni,omitempty"`
	InsecureSkipVerify *bool    `json:"insecureSkipVerify,omitempty"`
	CACRL              string   `json:"caCrl,omitempty"`
}
