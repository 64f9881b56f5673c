package h1

import "strings"

// claimed are fields in which proxies tell applications who a client is: Envoy's client
// certificate, what Istio's proxies tell each other of themselves, and who Envoy says it
// works for. Of those with a "*" all that begin so.
var claimed = []string{
	"x-forwarded-client-cert",
	"x-envoy-peer-metadata*",
	"x-envoy-downstream-service-*",
	"x-istio-*",
}

// claimedAddress are those in which an Envoy at the edge tells where a request is from.
var claimedAddress = []string{"x-envoy-external-address", "x-envoy-internal"}

// ClaimsIdentity reports whether a field of that lower-case name says who the client is, which a
// client must not say of itself. An underscore counts as a hyphen, which is what CGI and
// its like (WSGI, Rack, PHP) take it for.
func ClaimsIdentity(name string) bool { return maybeClaim(name) && among(claimed, name) }

// ClaimsAddress reports the same of the client's address; X-Forwarded-For and Forwarded, which
// are lists to which each proxy adds, are not among them.
func ClaimsAddress(name string) bool { return maybeClaim(name) && among(claimedAddress, name) }

// maybeClaim tells most names apart by a look at a few bytes.
func maybeClaim(name string) bool {
	return len(name) >= len("x-istio-") && name[0] == 'x' && (name[2] == 'f' || name[2] == 'e' || name[2] == 'i') && (name[1] == '-' || name[1] == '_')
}

func among(list []string, name string) bool {
	for _, s := range list {
		prefix, any := strings.CutSuffix(s, "*")
		if len(name) < len(prefix) || !any && len(name) != len(prefix) {
			continue
		}
		i := 0
		for i < len(prefix) && (name[i] == prefix[i] || name[i] == '_' && prefix[i] == '-') {
			i++
		}
		if i == len(prefix) {
			return true
		}
	}
	return false
}
