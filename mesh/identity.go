package mesh

import (
	"fmt"
	"strings"
)

// DefaultTrustDomain is the trust domain of a mesh that does not name one.
const DefaultTrustDomain = "cluster.local"

// Identity is the SPIFFE identity of a workload, in the form that Istio gives
// it: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT. The zero Identity
// means "none": the peer was not authenticated.
type Identity struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// IsZero reports whether id is the absent identity.
func (id Identity) IsZero() bool { return id == Identity{} }

// String returns the SPIFFE URI, or "" for the absent identity.
func (id Identity) String() string {
	if id.IsZero() {
		return ""
	}
	return "spiffe://" + id.Principal()
}

// Principal returns the URI without its scheme, the form that
// AuthorizationPolicy's `principals` are written in; "" for the absent identity.
func (id Identity) Principal() string {
	if id.IsZero() {
		return ""
	}
	return id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// ParseIdentity parses a SPIFFE URI of Istio's form. It is strict: exactly
// five path parts, none of them empty.
func ParseIdentity(uri string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return Identity{}, fmt.Errorf("identity %q does not begin with spiffe://", uri)
	}
	p := strings.Split(rest, "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" || p[0] == "" || p[2] == "" || p[4] == "" {
		return Identity{}, fmt.Errorf("identity %q is not spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT", uri)
	}
	return Identity{TrustDomain: p[0], Namespace: p[2], ServiceAccount: p[4]}, nil
}
