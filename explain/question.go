package explain

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// Question is a request to explain.
type Question struct {
	ID string `json:"id,omitempty"`
	// Principal is the client's identity without its scheme; "" for a client that has proven none.
	Principal string         `json:"principal,omitempty"`
	Source    netip.AddrPort `json:"source,omitzero"`
	// Destination is the address that the client dialled. Where it is not valid, Host says which service is meant.
	Destination netip.AddrPort `json:"destination,omitzero"`
	Method      string         `json:"method"`
	Host        string         `json:"host"` // with the port, as the client sends it
	Path        string         `json:"path"` // likewise, with the query
	Headers     []Header       `json:"headers,omitempty"`
	// Claims are those of a token that is taken for valid; nil for no token.
	Claims map[string]any `json:"claims,omitempty"`
	HTTP2  bool           `json:"http2,omitempty"`
	At     time.Time      `json:"at,omitzero"`
	// Partial says that of header fields and token no more is known than Headers and Absent: the question is
	// from a record.
	Partial bool     `json:"partial,omitempty"`
	Absent  []string `json:"absent,omitempty"` // header fields that were not there
	// Service is the host of the service that was asked for, if that is known.
	Service string `json:"service,omitempty"`
}

// Header is a header field; its name in lower case.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// FromRecord is the question that a recorded request was.
func FromRecord(r *decision.Record) Question {
	q := Question{
		ID: r.RequestID, Principal: r.Principal, Source: r.Source, Destination: r.Destination, Method: r.Method, Host: r.Host, Path: r.Path,
		HTTP2: r.Proto == 2, At: r.Start, Partial: true, Service: r.Service,
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		if v := r.Headers[name]; v != nil {
			q.Headers = append(q.Headers, Header{name, *v})
		} else {
			q.Absent = append(q.Absent, name)
		}
	}
	return q
}

// knows reports whether it is known what the header field of that name is.
func (q *Question) knows(field string) bool {
	return !q.Partial || field == "x-request-id" || slices.Contains(q.Absent, field) ||
		slices.ContainsFunc(q.Headers, func(h Header) bool { return h.Name == field })
}

// Identity is the identity of Principal, the zero Identity for none.
func (q *Question) Identity() mesh.Identity {
	id, err := mesh.ParseIdentity("spiffe://" + q.Principal)
	if err != nil {
		return mesh.Identity{}
	}
	return id
}

// Token is the token that Claims stand in; nil for none.
func (q *Question) Token() *mesh.Token {
	if q.Claims == nil {
		return nil
	}
	text := func(name string) string {
		s, _ := q.Claims[name].(string)
		return s
	}
	t := &mesh.Token{Issuer: text("iss"), Subject: text("sub"), Presenter: text("azp"), Claims: q.Claims}
	if t.Issuer != "" && t.Subject != "" {
		t.Principal = t.Issuer + "/" + t.Subject
	}
	switch aud := q.Claims["aud"].(type) {
	case string:
		t.Audiences = []string{aud}
	case []any:
		for _, a := range aud {
			if s, ok := a.(string); ok {
				t.Audiences = append(t.Audiences, s)
			}
		}
	}
	return t
}

// Fields are Headers as a proxy has them.
func (q *Question) Fields() mesh.Fields {
	var out mesh.Fields
	for _, h := range q.Headers {
		out = append(out, mesh.Field{Name: strings.ToLower(h.Name), Value: h.Value})
	}
	return out
}

// Line is the request in a few words: "GET reviews:9080/reviews/7".
func (q *Question) Line() string { return q.Method + " " + q.Host + q.Path }

// Who is the client in a few words.
func (q *Question) Who() string { return cmp.Or(q.Principal, "a client without identity") }
