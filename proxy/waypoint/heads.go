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
		h.cert = "By=" + w.Identity.String() + ";URI="
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
	if h.underscores != mesh.UnderscoresAllow && !h.noUnderscores(t, x) {
		return false
	}
	// The certificate is the one that the client showed in its tunnel. A client outside the
	// mesh has none, and then nothing is said.
	if h.cert != "" && !x.tun.peer.Identity.IsZero() {
		x.req.Fields = append(x.req.Fields, mesh.Field{Name: clientCert, Value: x.fx.Concat(h.cert, x.tun.principalURI, "")})
	}
	return true
}

// noUnderscores drops fields with an underscore in their names, or answers.
func (h *heads) noUnderscores(t *loop.Turn, x *exchange) bool {
	kept := x.req.Fields[:0]
	for _, f := range x.req.Fields {
		if strings.IndexByte(f.Name, '_') < 0 {
			kept = append(kept, f)
		}
	}
	if len(kept) < len(x.req.Fields) && h.underscores == mesh.UnderscoresReject {
		x.details = "unexpected_underscore"
		x.reply(t, 400, "")
		return false
	}
	x.req.Fields = kept
	return true
}
