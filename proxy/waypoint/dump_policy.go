package waypoint

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream"
)

// ConfigChoice is how one of a cluster's endpoints is chosen.
type ConfigChoice struct {
	Balancer string `json:"balancer"`
	// Policies are the objects that have a say in the way to the endpoints, Subset the
	// labels that endpoints must have.
	Policies []string          `json:"policies,omitempty"`
	Subset   map[string]string `json:"subset,omitempty"`
}

func (cl *cluster) choice() ConfigChoice {
	c := ConfigChoice{Balancer: describeBalancer(cl.c)}
	if cl.policy != nil {
		c.Policies, c.Subset = policyNames(cl.policy), cl.policy.Subset
	}
	return c
}

// describeBalancer is a cluster's choice in a few words: "Maglev by header x-user, cookie id; slow start 30s".
func describeBalancer(c *upstream.Cluster) string {
	b := c.Balancer()
	out := upstream.BalancerName(b)
	if b == nil {
		b = &mesh.Balancer{}
	}
	var keys []string
	for i := range b.Hash {
		keys = append(keys, describeKey(&b.Hash[i]))
	}
	if len(keys) > 0 {
		out += " by " + strings.Join(keys, ", ")
	}
	switch l := b.Locality; {
	case l != nil && l.Off:
		out += "; any locality"
	case l != nil && len(l.Distribute) > 0:
		out += "; localities by weight"
	case l != nil && len(l.FailoverLabels) > 0:
		out += "; near by " + strings.Join(l.FailoverLabels, ", ")
	case l != nil:
		out += "; near by locality"
	case c.Service == nil:
	case c.Service.Locality == mesh.LocalityFailover:
		out += "; near by " + strings.ToLower(strings.Join(c.Service.RoutingPreferences, ", "))
	case c.Service.Locality == mesh.LocalityStrict:
		out += "; only the same " + strings.ToLower(strings.Join(c.Service.RoutingPreferences, ", "))
	}
	if s := b.SlowStart; s != nil {
		out += fmt.Sprintf("; slow start %v", s.Window)
	}
	return out
}

func describeKey(k *mesh.HashKey) string {
	kind := [...]string{mesh.HashHeader: "header ", mesh.HashCookie: "cookie ", mesh.HashQuery: "query "}
	s := "source address"
	if int(k.Kind) < len(kind) {
		s = kind[k.Kind] + k.Name
	}
	if k.Terminal {
		s += " (terminal)"
	}
	return s
}

// policyNames are the names of the objects that a policy's parts are from.
func policyNames(p *mesh.BackendPolicy) []string {
	names := map[string]bool{}
	for _, f := range reflect.ValueOf(*p).Fields() {
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			if n, ok := reflect.TypeAssert[mesh.Name](f.Elem().FieldByName("Policy")); ok && n != (mesh.Name{}) {
				names[n.String()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// String is a rule's session in a few words.
func (s *sessionRule) String() string {
	out := "cookie " + s.name
	if s.Header {
		out = "header " + s.name
	}
	if s.AbsoluteTimeout > 0 {
		out += fmt.Sprintf(", for %v", s.AbsoluteTimeout)
	}
	if s.IdleTimeout > 0 {
		out += fmt.Sprintf(", idle for %v", s.IdleTimeout)
	}
	return out
}
