package jwt

import (
	"net/http"
	"strings"

	"cairnproxy.dev/cairn/filters"
)

// failure is why a token is refused: Envoy's words, as clients and dashboards know them.
type failure struct {
	status  int
	body    string
	details string
}

func newFailure(body string) *failure {
	return &failure{http.StatusUnauthorized, body, "jwt_authn_access_denied{" + strings.ReplaceAll(body, " ", "_") + "}"}
}

var (
	failForm        = newFailure("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")
	failHeader64    = newFailure("Jwt header is an invalid Base64url encoded")
	failHeaderJSON  = newFailure("Jwt header is an invalid JSON")
	failNoAlg       = newFailure("Jwt header [alg] field is required and must be a string")
	failAlg         = newFailure("Jwt header [alg] is not supported")
	failKid         = newFailure("Jwt header [kid] field must be a string")
	failCritical    = newFailure("Jwt header [crit] is not supported")
	failPayload64   = newFailure("Jwt payload is an invalid Base64url encoded")
	failPayloadJSON = newFailure("Jwt payload is an invalid JSON")
	failIss         = newFailure("Jwt payload [iss] field must be a string")
	failSub         = newFailure("Jwt payload [sub] field must be a string")
	failIat         = newFailure("Jwt payload [iat] field must be an integer")
	failNbf         = newFailure("Jwt payload [nbf] field must be an integer")
	failExp         = newFailure("Jwt payload [exp] field must be an integer")
	failAud         = newFailure("Jwt payload [aud] field must be a string or string list")
	failSignature64 = newFailure("Jwt signature is an invalid Base64url encoded")
	failIssuer      = newFailure("Jwt issuer is not configured")
	failEarly       = newFailure("Jwt not yet valid")
	failExpired     = newFailure("Jwt is expired")
	failSignature   = newFailure("Jwt verification fails")
	failFetch       = newFailure("Jwks remote fetch is failed")
	failNoKey       = newFailure("Jwks doesn't have key to match kid or alg from Jwt")
	failLarge       = newFailure("Jwt is too large")
	failSeveral     = newFailure("Jwt is given more than once")
	// Envoy answers 403 here: it is known who asks.
	failAudience = &failure{http.StatusForbidden, "Audiences in Jwt are not allowed", "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"}
	// A policy that cannot be understood: the client is told no more than of a bad signature.
	failPolicy = &failure{http.StatusUnauthorized, "Jwt verification fails", "jwt_authn_invalid_policy"}
)

// maxRealm bounds the URL in WWW-Authenticate, as Envoy does.
const maxRealm = 256

// answer refuses the request (RFC 6750, 3). The realm is what was asked for, as in Envoy, without
// its query, where tokens may stand.
func (f *failure) answer(x *filters.Exchange) filters.Result {
	x.Answer(f.status, "", f.details, f.body)
	b := append(x.Append(), `Bearer realm="`...)
	n := len(b)
	scheme := x.Req.Scheme
	if v, ok := x.Req.Fields.Get("x-forwarded-proto"); ok {
		scheme = v
	}
	if scheme == "" {
		scheme = "http"
	}
	for _, part := range [...]string{scheme, "://", x.Req.Authority, x.Req.Path} {
		for i := range len(part) {
			switch c := part[i]; {
			case len(b)-n >= maxRealm:
			case c < ' ' || c >= 0x7f:
				b = append(b, '?')
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			default:
				b = append(b, c)
			}
		}
	}
	b = append(b, `", error="invalid_token"`...)
	x.Reply.Fields.Add("www-authenticate", x.Text(b))
	return filters.Replied
}
