package mesh

import (
	"net/netip"
	"time"
)

// WaypointFor says what traffic a waypoint takes (label istio.io/waypoint-for).
type WaypointFor uint8

const (
	// WaypointForService takes traffic addressed to services: the default.
	WaypointForService WaypointFor = iota
	// WaypointForWorkload takes traffic addressed to workloads' own addresses.
	WaypointForWorkload
	// WaypointForAll takes both.
	WaypointForAll
	// WaypointForNone takes nothing.
	WaypointForNone
)

// Waypoint is a Gateway of a waypoint class.
type Waypoint struct {
	Name  Name
	Class string
	// Identity is what its instances present.
	Identity Identity
	// Addresses are where its instances listen, port Port.
	Addresses []netip.Addr
	Port      uint16
	For       WaypointFor
	// ForServiceAccount, when set, restricts the waypoint to the workloads of
	// that account in its namespace (annotation istio.io/for-service-account).
	ForServiceAccount string
	Reading           Reading
	Origin            Origin
}

// Route is one rule of a route object that is attached to a service: a set of
// alternative matches, what to do, and where to send.
type Route struct {
	// Object is the route, Rule its rule's index and RuleName the rule's name, if any.
	Object   Name
	Rule     int
	RuleName string
	// Created orders routes of equal precedence: older first, then by name.
	Created time.Time
	// Hostnames restrict a Gateway-attached route; not used with Service parents.
	Hostnames []string
	// Matches are alternatives; empty means "every request".
	Matches  []RouteMatch
	Filters  RouteFilters
	Backends []Backend
	// Kind is that of the object: requests of a GRPCRoute are answered in gRPC's
	// terms, TCP and TLS routes are for connections.
	Kind RouteKind
	// Requests is what the rule says of its requests, with the policies that are attached to it
	// and to its route; nil for nothing. It goes over ServicePort.Requests.
	Requests *RequestPolicy
	// Broken, when not empty, says why this rule cannot be served: it answers
	// 500 and its neighbours go on.
	Broken string
	Origin Origin
}

// RouteKind is the kind of object that a Route is from.
type RouteKind uint8

const (
	// RouteHTTP is an HTTPRoute.
	RouteHTTP RouteKind = iota
	// RouteGRPC is a GRPCRoute: its matches are paths /SERVICE/METHOD.
	RouteGRPC
	// RouteTCP is a TCPRoute.
	RouteTCP
	// RouteTLS is a TLSRoute: its Hostnames are compared with the SNI.
	RouteTLS
)

var routeKinds = [...]string{"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"}

// String returns the object's kind.
func (k RouteKind) String() string { return routeKinds[k] }

// RouteAttachment binds a Route to a service and, if Port is not 0, to one of its ports.
type RouteAttachment struct {
	Service ServiceKey
	Port    uint16
	Route   *Route
	// ConsumerNamespace, when set, limits the route to clients of that
	// namespace (GAMMA consumer routes).
	ConsumerNamespace string
	// Waypoint, when set, limits the route to that waypoint: it is attached to
	// the waypoint's Gateway and thereby to all that it serves.
	Waypoint Name
}

// MatchKind says how a RouteMatch compares a string.
type MatchKind uint8

const (
	// MatchExact compares the whole string.
	MatchExact MatchKind = iota
	// MatchPrefix compares a path prefix, by whole path elements.
	MatchPrefix
	// MatchRegex is an RE2 expression that must match the whole string.
	MatchRegex
)

// StringMatch compares one string.
type StringMatch struct {
	Kind  MatchKind
	Value string
}

// NamedMatch compares a header or query parameter.
type NamedMatch struct {
	// Name is lower case for headers.
	Name string
	StringMatch
}

// RouteMatch is a conjunction; absent parts match everything.
type RouteMatch struct {
	// Path is nil for "any path".
	Path    *StringMatch
	Method  string
	Headers []NamedMatch
	Query   []NamedMatch
	// Precedence, of a match whose Path is an expression, goes before the expression's length: the
	// higher first. A GRPCRoute's matches have it, whose length is of two parts.
	Precedence uint32
}

// HeaderEdits are the changes of a header modifier filter, in the order that
// Gateway API applies them: set, add, remove. Names are lower case.
type HeaderEdits struct {
	Set, Add []Field
	Remove   []string
}

// IsZero reports whether there is nothing to do.
func (e *HeaderEdits) IsZero() bool {
	return e == nil || len(e.Set)+len(e.Add)+len(e.Remove) == 0
}

// RouteFilters is what a rule or a backend does to a message.
type RouteFilters struct {
	RequestHeaders  *HeaderEdits
	ResponseHeaders *HeaderEdits
	Redirect        *Redirect
	Rewrite         *Rewrite
	// Mirrors are sent copies of requests, and their answers are dropped.
	Mirrors []Mirror
	CORS    *CORS
	// ExternalAuth is asked after CORS, which answers preflight requests that carry no credentials, and before the
	// other filters.
	ExternalAuth *ExtAuthz
}

// Mirror is where copies go: Numerator of Denominator requests, all where Denominator is 0.
type Mirror struct {
	Backend                Backend
	Numerator, Denominator uint32
}

// CORS answers preflight requests and marks responses (Gateway API, GEP-1767).
type CORS struct {
	// Origins are "*", "scheme://host[:port]", or with a "*" as the leftmost label.
	Origins     []string
	Methods     []string // "*" for any
	Headers     []string // "*" for any
	Expose      []string
	Credentials bool
	MaxAge      time.Duration // 0: 5 s
}

// PathEdit replaces a path, or the prefix that the rule matched.
type PathEdit struct {
	// Prefix is true to replace the matched prefix, false for the whole path.
	Prefix bool
	Value  string
}

// Redirect answers with a Location (Gateway API RequestRedirect).
type Redirect struct {
	Scheme   string // "" keeps
	Hostname string // "" keeps
	Port     uint16 // 0: see Gateway API: the scheme's well-known port if Scheme is set, else the listener's
	Path     *PathEdit
	Status   int
}

// Rewrite changes host and path on the way to the backend (Gateway API URLRewrite).
type Rewrite struct {
	Hostname string
	Path     *PathEdit
}

// Backend is one destination of a rule.
type Backend struct {
	Service ServiceKey
	Port    uint16
	Weight  uint32
	Filters RouteFilters
	// Policy goes over the policy of the service's port; nil for that alone.
	Policy *BackendPolicy
	// Broken, when not empty, says why the backend cannot be reached (missing
	// service, no ReferenceGrant): its share of the requests gets 500.
	Broken string
}
