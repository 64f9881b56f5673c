package envoy

import (
	"fmt"
	"strconv"
	"strings"
)

// JWTRule is a rule of Istio's RequestAuthentication.
type JWTRule struct {
	Issuer      string
	Audiences   []string
	JWKS        string `json:"jwks"`
	JWKSURI     string `json:"jwksUri"`
	FromHeaders []struct{ Name, Prefix string }
	FromParams  []string
	FromCookies []string

	OutputPayloadToHeader string
	ForwardOriginalToken  bool
	OutputClaimToHeaders  []struct{ Header, Claim string }
	SpaceDelimitedClaims  []string
}

// JWT is the filter that istiod makes of rules. cluster names the cluster of a URL. Remote keys are
// fetched by Envoy itself, as with istiod's PILOT_JWT_ENABLE_REMOTE_JWKS, and, unlike there, are old after a second.
func JWT(rules []JWTRule, cluster func(uri string) string) Object {
	providers := object{}
	var one, each list
	for i, r := range rules {
		name := fmt.Sprintf("origins-%d", i)
		p := object{
			"issuer": r.Issuer, "forward": r.ForwardOriginalToken, "payload_in_metadata": "payload",
			"normalize_payload_in_metadata": object{"space_delimited_claims": append([]string{"scope", "permission"}, r.SpaceDelimitedClaims...)},
		}
		if len(r.Audiences) > 0 {
			p["audiences"] = r.Audiences
		}
		if r.OutputPayloadToHeader != "" {
			p["forward_payload_header"] = r.OutputPayloadToHeader
		}
		var headers, claims list
		for _, h := range r.FromHeaders {
			headers = append(headers, object{"name": h.Name, "value_prefix": h.Prefix})
		}
		for _, c := range r.OutputClaimToHeaders {
			claims = append(claims, object{"header_name": c.Header, "claim_name": c.Claim})
		}
		set := func(k string, n int, v any) {
			if n > 0 {
				p[k] = v
			}
		}
		set("from_headers", len(headers), headers)
		set("claim_to_headers", len(claims), claims)
		set("from_params", len(r.FromParams), r.FromParams)
		set("from_cookies", len(r.FromCookies), r.FromCookies)
		if r.JWKS != "" {
			p["local_jwks"] = object{"inline_string": r.JWKS}
		} else {
			p["remote_jwks"] = object{
				"http_uri":       object{"uri": r.JWKSURI, "cluster": cluster(r.JWKSURI), "timeout": "5s"},
				"cache_duration": "1s",
			}
		}
		providers[name] = p
		one = append(one, object{"provider_name": name})
		each = append(each, object{"requires_any": object{"requirements": list{object{"provider_name": name}, object{"allow_missing": object{}}}}})
	}
	requires := each[0]
	if len(each) > 1 {
		requires = object{"requires_any": object{"requirements": append(one, object{"requires_all": object{"requirements": each}})}}
	}
	return named("envoy.filters.http.jwt_authn", "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", object{
		"providers":             providers,
		"rules":                 list{object{"match": object{"prefix": "/"}, "requires": requires}},
		"bypass_cors_preflight": true,
	})
}

// KeyCluster is the cluster of an http URL of keys, and its name.
func KeyCluster(uri string) (string, Object) {
	host, _, _ := strings.Cut(strings.TrimPrefix(uri, "http://"), "/")
	name, port, _ := strings.Cut(host, ":")
	number, _ := strconv.Atoi(port)
	return "keys|" + host, object{
		"name": "keys|" + host, "type": "STATIC", "connect_timeout": "1s",
		"load_assignment": object{"cluster_name": "keys|" + host, "endpoints": list{object{"lb_endpoints": list{object{"endpoint": object{
			"address": object{"socket_address": object{"address": name, "port_value": number}},
		}}}}}},
	}
}
