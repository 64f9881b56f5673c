package mesh

import (
	"net/netip"
	"time"
)

// Action is what an AuthorizationPolicy does when it matches.
type Action uint8

const (
	// ActionAllow admits what it matches and, by existing, refuses the rest.
	ActionAllow Action = iota
	// ActionDeny refuses what it matches.
	ActionDeny
	// ActionAudit logs what it matches and decides nothing.
	ActionAudit
	// ActionCustom asks the provider about what it matches.
	ActionCustom
)

var actions = [...]string{"ALLOW", "DENY", "AUDIT", "CUSTOM"}

// String returns Istio's spelling.
func (a Action) String() string { return actions[a] }

// TargetRef names what a policy is attached to.
type TargetRef struct {
	Group, Kind, Name string
	// Section is a port of a Service, a host's port of a ServiceEntry or a rule of a route, by its
	// name; "" for the whole. AuthorizationPolicies have none.
	Section string
}

// AuthorizationPolicy is Istio's security.istio.io AuthorizationPolicy.
//
// With TargetRefs it is enforced by the waypoint; otherwise it is bound by
// namespace or selector and enforced at L4 by the node proxy of the
// destination. Rules empty means "matches nothing": an ALLOW policy without
// rules refuses everything.
type AuthorizationPolicy struct {
	Name   Name
	Action Action
	DryRun bool
	// Provider is whom ActionCustom asks.
	Provider *ExtAuthz
	// Selector matches workload labels; empty selects the namespace (or the
	// mesh, in the root namespace).
	Selector   map[string]string
	TargetRefs []TargetRef
	Rules      []AuthzRule
	// Invalid, when not empty, says why the policy could not be understood. It
	// is then enforced fail-closed: it refuses everything that it is bound to.
	Invalid string
	Origin  Origin
}

// AuthzRule matches when one of From (if any), one of To (if any) and all of When match.
type AuthzRule struct {
	From []AuthzSource
	To   []AuthzOperation
	When []AuthzCondition
}

// AuthzSource is a conjunction of lists; a list matches when one of its values
// does. String values may carry one leading or trailing "*" (suffix, prefix)
// or be "*" (presence).
type AuthzSource struct {
	Principals, NotPrincipals               []string
	RequestPrincipals, NotRequestPrincipals []string
	TrustDomains, NotTrustDomains           []string
	Namespaces, NotNamespaces               []string
	ServiceAccounts, NotServiceAccounts     []string // "namespace/name"
	IPBlocks, NotIPBlocks                   []netip.Prefix
	RemoteIPBlocks, NotRemoteIPBlocks       []netip.Prefix
}

// AuthzOperation is a conjunction of lists over the request.
type AuthzOperation struct {
	Hosts, NotHosts     []string
	Ports, NotPorts     []uint16
	Methods, NotMethods []string
	Paths, NotPaths     []string
}

// AuthzCondition is one entry of `when`.
type AuthzCondition struct {
	Key               string
	Values, NotValues []string
}

// L4Scope says which workloads an L4Policy is for.
type L4Scope uint8

const (
	// ScopeGlobal policies apply to the whole mesh.
	ScopeGlobal L4Scope = iota
	// ScopeNamespace policies apply to their namespace.
	ScopeNamespace
	// ScopeWorkload policies apply to workloads that list them in Policies.
	ScopeWorkload
)

// L4Policy is the form in which a node proxy enforces authorization: istiod's
// istio.security.Authorization. Rules is a disjunction of conjunctions
// (clauses) of disjunctions (matches). Empty Rules never match.
type L4Policy struct {
	Name   Name
	Scope  L4Scope
	Action Action
	DryRun bool
	Rules  [][][]L4Match
}

// L4Match is a conjunction of lists; an L4Match without any list never matches.
type L4Match struct {
	Namespaces, NotNamespaces             []L4String
	ServiceAccounts, NotServiceAccounts   []Name
	Principals, NotPrincipals             []L4String
	TrustDomains, NotTrustDomains         []L4String
	SourceIPs, NotSourceIPs               []netip.Prefix
	DestinationIPs, NotDestinationIPs     []netip.Prefix
	DestinationPorts, NotDestinationPorts []uint16
}

// L4StringKind says how an L4String compares.
type L4StringKind uint8

const (
	// L4Exact compares the whole string.
	L4Exact L4StringKind = iota
	// L4Prefix compares the beginning.
	L4Prefix
	// L4Suffix compares the end.
	L4Suffix
	// L4Presence matches every string that is not empty.
	L4Presence
)

// L4String is a string comparison of an L4Match.
type L4String struct {
	Kind  L4StringKind
	Value string
}

// MTLSMode is PeerAuthentication's mode.
type MTLSMode uint8

const (
	// MTLSUnset inherits.
	MTLSUnset MTLSMode = iota
	// MTLSPermissive accepts both.
	MTLSPermissive
	// MTLSStrict refuses plain text.
	MTLSStrict
	// MTLSDisable ends what STRICT says further up, and means permissive: in ambient
	// mode a client's node proxy decides what is encrypted.
	MTLSDisable
)

// PeerAuthentication is Istio's security.istio.io PeerAuthentication.
type PeerAuthentication struct {
	Name Name
	// Created orders those of one level: the oldest counts.
	Created  time.Time
	Selector map[string]string
	Mode     MTLSMode
	Ports    map[uint16]MTLSMode
	Origin   Origin
}
