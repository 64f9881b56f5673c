package policy

import (
	"net/netip"
	"slices"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
)

// facts is what a decision is about. request is nil at L4.
type facts struct {
	peer        mesh.Identity
	principal   string
	source      netip.Addr
	destination netip.AddrPort
	request     *mesh.Request
	// input is the same for expressions; it is filled in where there are any.
	input expr.Input
}

// attribute is what a check looks at.
type attribute uint8

const (
	attrPrincipal attribute = iota
	attrNamespace
	attrServiceAccount
	attrTrustDomain
	attrSourceIP
	attrRemoteIP
	attrDestinationIP
	attrDestinationPort
	attrSNI
	// The rest are of the request.
	attrHost
	attrMethod
	attrPath
	attrHeader
	// The rest are of its token.
	attrRequestPrincipal
	attrAudience
	attrPresenter
	attrClaim
)

// check compares one attribute with a list of values: it holds when one of
// them is equal, or with not, when none is. Which of the lists is used depends on the
// attribute.
type check struct {
	attr  attribute
	not   bool
	texts *texts
	// fold is used instead of texts for hosts.
	fold *foldTexts
	// templates are further paths.
	templates []template
	names     nameSet
	prefixes  ipSet
	ports     []uint16
	header    string
	// every lets each line of a header count as a value, beside all of them together: the rule refuses more for it.
	every   bool
	trusted uint8    // of remote addresses: proxies whose X-Forwarded-For is believed
	claim   []string // the names on the way to it
	// field is where the policy says so.
	field string
}

func (c *check) holds(f *facts) bool { return c.match(f) != c.not }

func (c *check) match(f *facts) bool {
	switch c.attr {
	case attrPrincipal:
		return f.principal != "" && c.texts.match(f.principal)
	case attrNamespace:
		return c.texts.match(f.peer.Namespace)
	case attrServiceAccount:
		return !f.peer.IsZero() && c.names.has(mesh.Name{Namespace: f.peer.Namespace, Name: f.peer.ServiceAccount})
	case attrTrustDomain:
		return f.peer.TrustDomain != "" && c.texts.match(f.peer.TrustDomain)
	case attrSourceIP:
		return c.prefixes.contains(normal(f.source))
	case attrRemoteIP:
		return c.prefixes.contains(c.remote(f))
	case attrDestinationIP:
		return c.prefixes.contains(normal(f.destination.Addr()))
	case attrDestinationPort:
		return slices.Contains(c.ports, f.destination.Port())
	case attrSNI:
		return c.texts.match("") // HTTP in a tunnel carries none
	default:
		if f.request == nil {
			return c.not // not reached: request attributes are not compiled for L4
		}
		return c.matchRequest(f.request)
	}
}

func (c *check) matchRequest(r *mesh.Request) bool {
	switch c.attr {
	case attrHost:
		return c.fold.match(r)
	case attrMethod:
		return c.texts.match(r.Method)
	case attrPath:
		return c.texts.match(r.Path) || matchTemplate(c.templates, r.Path)
	case attrHeader:
		return c.matchHeader(r)
	default:
		return r.Token != nil && c.matchToken(r.Token)
	}
}

// matchToken compares something of a verified token. A request without one has no attributes of
// this kind: what asks for one does not match, and its not-form does, as in Istio.
func (c *check) matchToken(t *mesh.Token) bool {
	switch c.attr {
	case attrRequestPrincipal:
		return c.texts.match(t.Principal)
	case attrAudience:
		return slices.ContainsFunc(t.Audiences, c.texts.match)
	case attrPresenter:
		return c.texts.match(t.Presenter)
	default: // attrClaim
	}
	var v any = t.Claims
	for _, name := range c.claim {
		m, ok := v.(map[string]any)
		if !ok {
			return false
		}
		v = m[name]
	}
	// Istio compares texts and lists of texts alone.
	switch v := v.(type) {
	case string:
		return c.texts.match(v)
	case []any:
		for _, e := range v {
			if s, ok := e.(string); ok && c.texts.match(s) {
				return true
			}
		}
	case []string:
		return slices.ContainsFunc(v, c.texts.match)
	}
	return false
}

// matchHeader compares the field's value; several lines count as one, joined
// with commas (RFC 9110 section 5.3). Where a match makes the rule refuse more, each line counts as well: a workload
// may look at one of them alone (CVE-2026-26308 of Envoy). "*" matches a field that is there, even
// when it is empty.
func (c *check) matchHeader(r *mesh.Request) bool {
	switch c.header {
	case "host", ":authority":
		return c.texts.match(r.Authority)
	case ":method":
		return c.texts.match(r.Method)
	}
	first, n := "", 0
	for i := range r.Fields {
		if r.Fields[i].Name != c.header {
			continue
		}
		if c.every && c.texts.match(r.Fields[i].Value) {
			return true
		}
		if n == 0 {
			first = r.Fields[i].Value
		}
		n++
	}
	switch n {
	case 0:
		return false
	case 1:
		return c.texts.presence || c.texts.match(first)
	}
	return c.texts.presence || c.texts.matchJoined(r.Fields, c.header)
}

// normal is a as the matchers compare it: IPv4 as IPv4, no zone.
func normal(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
