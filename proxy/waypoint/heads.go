package waypoint

import (
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/h1"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// heads is how a waypoint reads request heads where that is not the default, for
// which there is none: mesh.Reading, compiled.
type heads struct {
	limits      h1.Limits
	underscores mesh.Underscores
	trusting    bool   // there are proxies before us whose word counts
	cert        string // what stands before the client's identity in x-forwarded-client-cert; "" for none
}

func headsOf(w *mesh.Waypoint) *heads {
	if w == nil || w.Reading == (mesh.Reading{}) {
		return nil
	}
	h := &heads{limits: h1.Limits{Paths: w.Reading.Paths}, underscores: w.Reading.Underscores, trusting: w.Reading.TrustedProxies > 0}
	if w.Reading.ClientCert {
		h.cert = "By=" + w.Identity.String() + ";"
	}
	return h
}

// lim returns the limits of heads, nil for the defaults.
func (h *heads) lim() *h1.Limits {
	if h == nil {
		return nil
	}
	return &h.limits
}

// disown removes what a client must not claim. Only a proxy that checked a certificate may say
// whose it is, and only one that is trusted where a request is from. h may be nil.
func (h *heads) disown(f mesh.Fields) mesh.Fields {
	trusting := h != nil && h.trusting
	return slices.DeleteFunc(f, func(e mesh.Field) bool { return h1.ClaimsIdentity(e.Name) || !trusting && h1.ClaimsAddress(e.Name) })
}

// apply does what the waypoint's settings say about a request's fields, and what no client may
// claim has been removed. It reports false when the request was answered.
func (h *heads) apply(t *loop.Turn, x *exchange) bool {
	if !h.noUnderscores(t, x) {
		return false
	}
	// The certificate is the one that the client showed in its tunnel. A client outside the
	// mesh has none, and then nothing is said.
	if h.cert != "" && !x.tun.peer.Identity.IsZero() {
		x.req.Fields = append(x.req.Fields, mesh.Field{Name: clientCert, Value: h.clientCert(x)})
	}
	return true
}

// clientCert is the value of x-forwarded-client-cert, in Envoy's order of its parts.
func (h *heads) clientCert(x *exchange) string {
	b := append(x.fx.Append(), h.cert...)
	if hash := x.tun.cert.Hash(); hash != "" {
		b = append(append(append(b, "Hash="...), hash...), ';')
	}
	return x.fx.Text(append(append(b, "URI="...), x.tun.principalURI...))
}

// noUnderscores drops fields with an underscore in their names, or answers.
func (h *heads) noUnderscores(t *loop.Turn, x *exchange) bool {
	var ok bool
	if x.req.Fields, ok = h.underscored(x.req.Fields); !ok {
		x.details = "unexpected_underscore"
		x.reply(t, 400, "")
	}
	return ok
}

// underscored is f without the fields that have an underscore in their names, where these are dropped. It reports
// false where a request with such a field is refused. h may be nil.
func (h *heads) underscored(f mesh.Fields) (mesh.Fields, bool) {
	if h == nil || h.underscores == mesh.UnderscoresAllow {
		return f, true
	}
	kept := slices.DeleteFunc(f, func(e mesh.Field) bool { return strings.IndexByte(e.Name, '_') >= 0 })
	return kept, len(kept) == len(f) || h.underscores != mesh.UnderscoresReject
}
