package object

import (
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// maxAliases bounds the aliases of a trust domain: each multiplies the principals of policies.
const maxAliases = 32

// aliasTrustDomains takes the MeshConfig's trustDomainAliases: names that the
// mesh's trust domain had, or is to have.
func (t *translator) aliasTrustDomains() {
	list := t.mesh.trustDomainAliases
	if len(list) > maxAliases {
		t.bad(t.mesh.object, t.mesh.path("trustDomainAliases"), "there are %d aliases, and %d are the most; remove those that are not in use", len(list), maxAliases)
		list = list[:maxAliases]
	}
	for i, s := range list {
		if !isTrustDomain(s) {
			t.bad(t.mesh.object, t.mesh.path("trustDomainAliases")+"["+strconv.Itoa(i)+"]", "%q is not a trust domain; write it as in spiffe://TRUST_DOMAIN/ns/…: letters, digits, '.', '-' and '_'", clip(s))
			continue
		}
		if s != t.opts.TrustDomain && !slices.Contains(t.parts.TrustDomainAliases, s) {
			t.parts.TrustDomainAliases = append(t.parts.TrustDomainAliases, s)
		}
	}
}

// isTrustDomain follows SPIFFE ID section 2.1, and lets capitals pass, which certificates may have.
func isTrustDomain(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '.', b == '-', b == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// ofMesh reports whether a policy that says domain means the mesh: its trust
// domain, an alias of it, or "cluster.local", which Istio reads as the mesh's own.
func (t *translator) ofMesh(domain string) bool {
	return domain == mesh.DefaultTrustDomain || domain == t.opts.TrustDomain || slices.Contains(t.parts.TrustDomainAliases, domain)
}

// ofMeshEnding is ofMesh for the names with an ending, as in "*-td/ns/a/sa/b".
func (t *translator) ofMeshEnding(end string) bool {
	return strings.HasSuffix(t.opts.TrustDomain, end) ||
		slices.ContainsFunc(t.parts.TrustDomainAliases, func(s string) bool { return strings.HasSuffix(s, end) })
}

// principals reads what names the mesh under any of its names as naming it
// under all of them, as Istio does. Others, and patterns such as "*/sa/b", which
// match whatever the domain is, stay as they are.
func (t *translator) principals(list []string) []string {
	return t.underAll(list, func(s string) (domain, rest string, ok bool) {
		domain, rest, ok = strings.Cut(s, "/")
		return domain, "/" + rest, ok
	})
}

// trustDomains does the same for names of trust domains.
func (t *translator) trustDomains(list []string) []string {
	return t.underAll(list, func(s string) (domain, rest string, ok bool) { return s, "", true })
}

func (t *translator) underAll(list []string, cut func(string) (domain, rest string, ok bool)) []string {
	if t.opts.TrustDomain == mesh.DefaultTrustDomain && len(t.parts.TrustDomainAliases) == 0 || len(list) == 0 {
		return list
	}
	out := make([]string, 0, len(list)*(1+len(t.parts.TrustDomainAliases)))
	for _, s := range list {
		domain, rest, ok := cut(s)
		end, wild := strings.CutPrefix(domain, "*")
		switch {
		case !ok || domain == "*":
			out = append(out, s)
			continue
		case wild && t.ofMeshEnding(end):
			out = append(out, s) // it may match others as well
		case !t.ofMesh(domain):
			out = append(out, s)
			continue
		}
		out = append(out, t.opts.TrustDomain+rest)
		for _, a := range t.parts.TrustDomainAliases {
			out = append(out, a+rest)
		}
	}
	return out
}
