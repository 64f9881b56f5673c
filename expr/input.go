package expr

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Input is what an expression is evaluated over. Only Req must be there. It may
// live on the caller's stack: evaluation keeps nothing of it.
type Input struct {
	Req *mesh.Request
	// Resp is for expressions of CompileResponse alone.
	Resp *mesh.Response
	// Service is the service that the request is for, if it is for one.
	Service *mesh.Service
	// Now is request.time; the time of evaluation where it is zero.
	Now time.Time
	// Claims are those of the request's verified token, as JSON decodes them; nil for those of Req.Token.
	Claims map[string]any
	// Connection says that there is a connection and no request: Req tells who is at its other end
	// and what was dialled, and every attribute of a request or a token is an error.
	Connection bool
}

// attr is an attribute.
type attr uint8

const (
	noAttr attr = iota
	requestPath
	requestURLPath
	requestQuery
	requestHost
	requestScheme
	requestMethod
	requestReferer
	requestUserAgent
	requestID
	requestProtocol
	requestSize
	requestTime
	requestHeaders
	sourceAddress
	sourcePort
	sourcePrincipal
	sourceNamespace
	sourceServiceAccount
	sourceTrustDomain
	destinationAddress
	destinationPort
	destinationService
	destinationNamespace
	connectionMTLS
	connectionURISAN
	jwtClaims
	responseCode
	responseHeaders
)

// Sizes for the estimate of cost: what a large request has. The bound of a
// whole head is 60 KiB, so that none of them is exceeded by much.
const (
	wordSize    = 64
	nameSize    = 256
	textSize    = 8 << 10
	headerCount = 100
	claimCount  = 50
)

type attribute struct {
	name string
	id   attr
	typ  typ
	size uint64 // characters of a text, entries of a map
	doc  string
}

type typ uint8

const (
	typText typ = iota
	typInt
	typBool
	typTime
	typHeaders
	typClaims
)

// attributes of requests; those from firstResponse on are only known to CompileResponse.
var attributes = [...]attribute{
	{"request.path", requestPath, typText, textSize, "path and query, as it came but normalised"},
	{"request.url_path", requestURLPath, typText, textSize, "the path alone"},
	{"request.query", requestQuery, typText, textSize, "the query, without its ?"},
	{"request.host", requestHost, typText, nameSize, "host and port as the client sent them"},
	{"request.scheme", requestScheme, typText, wordSize, "http or https"},
	{"request.method", requestMethod, typText, wordSize, "GET, POST, …"},
	{"request.headers", requestHeaders, typHeaders, headerCount, "a map; names are lower case, several values are joined by commas"},
	{"request.referer", requestReferer, typText, textSize, "the header referer, or empty"},
	{"request.useragent", requestUserAgent, typText, textSize, "the header user-agent, or empty"},
	{"request.id", requestID, typText, nameSize, "the header x-request-id, or empty"},
	{"request.protocol", requestProtocol, typText, wordSize, "HTTP/1.0, HTTP/1.1 or HTTP/2"},
	{"request.size", requestSize, typInt, 0, "the header content-length; an error where there is none"},
	{"request.time", requestTime, typTime, 0, "when the request came"},
	{"source.address", sourceAddress, typText, wordSize, "the client's address and port"},
	{"source.port", sourcePort, typInt, 0, "the client's port"},
	{"source.principal", sourcePrincipal, typText, nameSize, "the client's identity, TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT, or empty"},
	{"source.namespace", sourceNamespace, typText, nameSize, "the namespace of its identity"},
	{"source.service_account", sourceServiceAccount, typText, nameSize, "the service account of its identity"},
	{"source.trust_domain", sourceTrustDomain, typText, nameSize, "the trust domain of its identity"},
	{"destination.address", destinationAddress, typText, wordSize, "the address and port that the client dialled"},
	{"destination.port", destinationPort, typInt, 0, "the port that the client dialled"},
	{"destination.service", destinationService, typText, nameSize, "the host name of the service, or empty"},
	{"destination.namespace", destinationNamespace, typText, nameSize, "the namespace of the service, or empty"},
	{"connection.mtls", connectionMTLS, typBool, 0, "whether the client has proven an identity"},
	{"connection.uri_san_peer_certificate", connectionURISAN, typText, nameSize, "the client's identity with spiffe://, or empty"},
	{"jwt.claims", jwtClaims, typClaims, claimCount, "a map of the verified token's claims"},
	{"response.code", responseCode, typInt, 0, "the status of the response"},
	{"response.headers", responseHeaders, typHeaders, headerCount, "as request.headers"},
}

const firstResponse = len(attributes) - 2

// Attributes returns the names that expressions know, each with what it is, in
// the order in which they are documented.
func Attributes() [][2]string {
	out := make([][2]string, 0, len(attributes))
	for i := range attributes {
		out = append(out, [2]string{attributes[i].name, attributes[i].doc})
	}
	return out
}

func attributeOf(name string) *attribute {
	for i := range attributes {
		if attributes[i].name == name {
			return &attributes[i]
		}
	}
	return nil
}

var (
	errNoResponse = errors.New("there is no response yet")
	errNoRequest  = errors.New("there is a connection and no request")
	errNoSize     = errors.New("request.size: the request does not say its length")
)

// lacks returns the error of an attribute of requests where there is none.
func (in *Input) lacks(a attr) error {
	if in.Connection && (a <= requestHeaders || a == jwtClaims) {
		return errNoRequest
	}
	if in.Resp == nil && a >= responseCode {
		return errNoResponse
	}
	return nil
}

// text is the value of an attribute of typText.
func (in *Input) text(a attr) string {
	r := in.Req
	switch a {
	case requestPath:
		if r.HasQuery {
			return r.Path + "?" + r.Query
		}
		return r.Path
	case requestURLPath:
		return r.Path
	case requestQuery:
		return r.Query
	case requestHost:
		return r.Authority
	case requestScheme:
		return r.Scheme
	case requestMethod:
		return r.Method
	case requestReferer:
		return first(r.Fields, "referer")
	case requestUserAgent:
		return first(r.Fields, "user-agent")
	case requestID:
		return first(r.Fields, "x-request-id")
	case requestProtocol:
		switch {
		case r.Proto == 2:
			return "HTTP/2"
		case r.MinorVersion == 0:
			return "HTTP/1.0"
		}
		return "HTTP/1.1"
	case sourceAddress:
		return r.Peer.Addr.String()
	case sourcePrincipal:
		return r.Peer.Principal
	case sourceNamespace:
		return r.Peer.Identity.Namespace
	case sourceServiceAccount:
		return r.Peer.Identity.ServiceAccount
	case sourceTrustDomain:
		return r.Peer.Identity.TrustDomain
	case destinationAddress:
		return r.Destination.String()
	case destinationService:
		if in.Service != nil {
			return in.Service.Key.Hostname
		}
	case destinationNamespace:
		if in.Service != nil {
			return in.Service.Key.Namespace
		}
	case connectionURISAN:
		return r.Peer.Identity.String()
	default:
	}
	return ""
}

func first(f mesh.Fields, name string) string {
	v, _ := f.Get(name)
	return v
}

// number is the value of an attribute of typInt.
func (in *Input) number(a attr) (int64, error) {
	if err := in.lacks(a); err != nil {
		return 0, err
	}
	switch a {
	case sourcePort:
		return int64(in.Req.Peer.Addr.Port()), nil
	case destinationPort:
		return int64(in.Req.Destination.Port()), nil
	case requestSize:
		n, err := strconv.ParseInt(first(in.Req.Fields, "content-length"), 10, 64)
		if err != nil || n < 0 {
			return 0, errNoSize
		}
		return n, nil
	default: // responseCode
		return int64(in.Resp.Status), nil
	}
}

func (in *Input) claims() map[string]any {
	if in.Claims == nil && in.Req.Token != nil {
		return in.Req.Token.Claims
	}
	return in.Claims
}

func (in *Input) mtls() bool { return !in.Req.Peer.Identity.IsZero() }

func (in *Input) now() time.Time {
	if in.Now.IsZero() {
		return time.Now()
	}
	return in.Now
}

// header is one of request.headers (response.headers where a says so). As in Envoy the
// parts of the request line are there too, under the names of HTTP/2.
func (in *Input) header(a attr, name string) (string, bool) {
	if a == responseHeaders {
		if in.Resp == nil {
			return "", false
		}
		return joined(in.Resp.Fields, name)
	}
	r := in.Req
	switch name {
	case ":path":
		return in.text(requestPath), true
	case ":method":
		return r.Method, true
	case ":authority", "host":
		return r.Authority, true
	case ":scheme":
		return r.Scheme, true
	}
	return joined(r.Fields, name)
}

// joined is the value of a field; several are joined by commas (RFC 9110, 5.3), which
// alone takes memory.
func joined(f mesh.Fields, name string) (string, bool) {
	for i := range f {
		if f[i].Name != name {
			continue
		}
		v := f[i].Value
		for _, more := range f[i+1:] {
			if more.Name == name {
				v = v + "," + more.Value
			}
		}
		return v, true
	}
	return "", false
}

// lower is a header name in lower case.
func lower(name string) string {
	for i := range len(name) {
		if 'A' <= name[i] && name[i] <= 'Z' {
			return strings.ToLower(name)
		}
	}
	return name
}
