package mesh

import (
	"net/netip"
	"strings"
)

// Field is one header field. Name is lower case.
type Field struct{ Name, Value string }

// Fields is a header or trailer section in the order in which it came.
type Fields []Field

// Get returns the first value of the named field. name must be lower case.
func (f Fields) Get(name string) (string, bool) {
	for i := range f {
		if f[i].Name == name {
			return f[i].Value, true
		}
	}
	return "", false
}

// Has reports whether the field is there. name must be lower case.
func (f Fields) Has(name string) bool {
	_, ok := f.Get(name)
	return ok
}

// Set replaces the first field of that name and drops the others, or appends.
func (f *Fields) Set(name, value string) {
	done := false
	out := (*f)[:0]
	for _, e := range *f {
		if e.Name == name {
			if done {
				continue
			}
			e.Value, done = value, true
		}
		out = append(out, e)
	}
	if !done {
		out = append(out, Field{name, value})
	}
	*f = out
}

// Add appends a field.
func (f *Fields) Add(name, value string) { *f = append(*f, Field{name, value}) }

// Del removes every field of that name. Where there is none it writes nothing.
func (f *Fields) Del(name string) {
	if !f.Has(name) {
		return
	}
	out := (*f)[:0]
	for _, e := range *f {
		if e.Name != name {
			out = append(out, e)
		}
	}
	*f = out
}

// Peer is who is at the other end of a connection.
type Peer struct {
	// Identity is from the peer's certificate; zero for plain text.
	Identity Identity
	// Principal caches Identity.Principal(), "" for plain text.
	Principal string
	// Addr is the peer's address: the original client's where a tunnel tells it.
	Addr netip.AddrPort
}

// Request is what is known of one HTTP request when routes, policies and
// filters look at it.
//
// Its strings are views of memory that belongs to the exchange: they are valid
// until the exchange ends and must be cloned (strings.Clone) by whoever keeps
// one longer.
type Request struct {
	Method string
	Scheme string
	// Authority is as received; Host is it without the port, in lower case.
	Authority string
	Host      string
	// Path is the normalised path, Query what stands behind '?', which is kept
	// apart; HasQuery tells "/a?" from "/a".
	Path     string
	Query    string
	HasQuery bool
	Fields   Fields
	Peer     Peer
	// Token is the request's verified token; nil for none.
	Token *Token
	// Destination is the address that the client dialled: a service's VIP, or
	// a workload's own address.
	Destination netip.AddrPort
	// Proto is 1 for HTTP/1.1 (MinorVersion tells 1.0) or 2 for HTTP/2.
	Proto        uint8
	MinorVersion uint8
}

// Response is the head of an HTTP response.
type Response struct {
	Status int
	Fields Fields
}

// Cookie returns the value of the first cookie of that name (RFC 6265, 4.2), without the
// quotes that may stand around it. A request may have several Cookie fields (RFC 9113, 8.2.3).
func (f Fields) Cookie(name string) (string, bool) {
	for i := range f {
		if f[i].Name != "cookie" {
			continue
		}
		rest := f[i].Value
		for rest != "" {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			k, v, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !ok || k != name {
				continue
			}
			if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
				v = v[1 : n-1]
			}
			return v, true
		}
	}
	return "", false
}
