package extauthz

import (
	"net/netip"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// partialBody says, in a question with a body, whether that is only the body's beginning.
const partialBody = "x-envoy-auth-partial-body"

// check makes the question about a request as Envoy does. It keeps nothing of the request's memory.
func (p *provider) check(x *filters.Exchange, body []byte, whole bool) *auth.CheckRequest {
	r := x.Req
	h := &auth.AttributeContext_HttpRequest{
		Method: text(r.Method), Path: text(target(r)), Host: text(r.Authority), Scheme: text(r.Scheme),
		Protocol: protocol(r), Size: -1, Headers: p.headers(r),
	}
	if id, ok := r.Fields.Get("x-request-id"); ok {
		h.Id = text(id)
	}
	if p.Body > 0 {
		if whole {
			h.Size = int64(len(body))
		}
		if len(body) > 0 {
			h.Headers[partialBody] = yesNo(!whole)
		}
		if p.PackAsBytes {
			h.RawBody = append([]byte(nil), body...)
		} else {
			h.Body = string(clean(append([]byte(nil), body...)))
		}
	}
	return &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:      peer(r.Peer.Addr, r.Peer.Identity.String()),
		Destination: peer(r.Destination, p.own),
		Request:     &auth.AttributeContext_Request{Time: timestamppb.New(x.Now), Http: h},
	}}
}

// headers are those that are told: all, or the ones that are listed. Several fields of a name
// are one, as in Envoy.
func (p *provider) headers(r *mesh.Request) map[string]string {
	out := make(map[string]string, len(r.Fields)+5)
	put := func(name, value string) {
		if p.request.anything && !p.request.has(name) {
			return
		}
		name, value = text(name), text(value)
		old, there := out[name]
		switch {
		case !there:
		case name == "cookie":
			value = old + "; " + value
		default:
			value = old + "," + value
		}
		out[name] = value
	}
	put(":method", r.Method)
	put(":path", target(r))
	put(":authority", r.Authority)
	put(":scheme", r.Scheme)
	for _, f := range r.Fields {
		put(f.Name, f.Value)
	}
	return out
}

func target(r *mesh.Request) string {
	if r.HasQuery {
		return r.Path + "?" + r.Query
	}
	return r.Path
}

func protocol(r *mesh.Request) string {
	switch {
	case r.Proto == 2:
		return "HTTP/2"
	case r.MinorVersion == 0:
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

func peer(a netip.AddrPort, principal string) *auth.AttributeContext_Peer {
	p := &auth.AttributeContext_Peer{Principal: principal}
	if a.IsValid() {
		p.Address = &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: a.Addr().Unmap().String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(a.Port())},
		}}}
	}
	return p
}

// text copies s as protobuf's strings have to be, UTF-8: each byte that is not becomes "!", as in Envoy.
func text(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return string(clean([]byte(s)))
		}
	}
	return strings.Clone(s)
}

func yesNo(b bool) string {
	if b {
		return "true"
	}
	return "false"
}
