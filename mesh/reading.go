package mesh

// PathLevel is how much of a request's path is normalised before anybody looks
// at it, policies, routes and the application alike (MeshConfig's
// pathNormalization.normalization).
type PathLevel uint8

const (
	// PathBase resolves dot segments, decodes unreserved characters and takes a
	// backslash for a slash (RFC 3986, 6.2.2): Istio's default.
	PathBase PathLevel = iota
	// PathNone leaves the path as it came. Policies see what the application
	// gets, but not what it makes of it: those that name paths are then at the user's risk.
	PathNone
	// PathMerge is PathBase, and several slashes become one.
	PathMerge
	// PathDecode is PathMerge, of a path in which %2F and %5C are decoded first.
	PathDecode
)

var pathLevels = [...]string{"BASE", "NONE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"}

// String returns Istio's word.
func (l PathLevel) String() string { return pathLevels[l] }

// ParsePathLevel reads Istio's word; DEFAULT and "" are BASE.
func ParsePathLevel(s string) (PathLevel, bool) {
	if s == "" || s == "DEFAULT" {
		return PathBase, true
	}
	for i, name := range pathLevels {
		if s == name {
			return PathLevel(i), true
		}
	}
	return PathBase, false
}

// Underscores is what becomes of request fields whose names have an underscore: servers in the
// CGI tradition cannot tell it from a hyphen.
type Underscores uint8

const (
	// UnderscoresAllow passes them on, as Envoy and Istio do where nothing is said.
	UnderscoresAllow Underscores = iota
	// UnderscoresDrop removes them.
	UnderscoresDrop
	// UnderscoresReject answers 400.
	UnderscoresReject
)

var underscores = [...]string{"allow", "drop", "reject"}

// String returns the annotation's word.
func (u Underscores) String() string { return underscores[u] }

// Reading is how a waypoint reads requests, and what it tells applications about those
// who send them. The zero value is the default.
type Reading struct {
	Paths       PathLevel
	Underscores Underscores
	// ClientCert puts x-forwarded-client-cert with the client's identity into requests.
	ClientCert bool
	// TrustedProxies is how many proxies stand before the waypoint whose X-Forwarded-For is
	// believed: the client's address (remote.ip, remoteIpBlocks) is the one that the
	// first of them wrote. 0: the client is whoever opened the connection.
	TrustedProxies uint8
}
