package object

import (
	"fmt"

	"cairnproxy.dev/cairn/source/strictyaml"
	"go.yaml.in/yaml/v3"
)

// extensionProvider is MeshConfig's ExtensionProvider, as far as it is for external
// authorization. Those of other kinds (tracing, logs, metrics) are passed over: reading one never fails, and
// what is wrong with it is told where a policy names it.
type extensionProvider struct {
	name       string
	grpc, http *extAuthzAPI // at most one
	wrong      string       // what cannot be read; "" for nothing
	wrongAt    string       // the field, below the provider
}

// extAuthzAPI is EnvoyExternalAuthorizationHttpProvider, and EnvoyExternalAuthorizationGrpcProvider, which has
// fewer fields.
type extAuthzAPI struct {
	Service       string `json:"service,omitempty"`
	Port          int64  `json:"port,omitempty"`
	Timeout       string `json:"timeout,omitempty"`
	FailOpen      bool   `json:"failOpen,omitempty"`
	ClearCache    *bool  `json:"clearRouteCache,omitempty"` // rules are chosen after the provider has been asked anyway
	StatusOnError string `json:"statusOnError,omitempty"`

	IncludeRequestBodyInCheck *extAuthzBody `json:"includeRequestBodyInCheck,omitempty"`

	// Of HTTP alone.
	PathPrefix                      string            `json:"pathPrefix,omitempty"`
	IncludeHeadersInCheck           []string          `json:"includeHeadersInCheck,omitempty"` // its old name
	IncludeRequestHeadersInCheck    []string          `json:"includeRequestHeadersInCheck,omitempty"`
	IncludeAdditionalHeadersInCheck map[string]string `json:"includeAdditionalHeadersInCheck,omitempty"`
	HeadersToUpstreamOnAllow        []string          `json:"headersToUpstreamOnAllow,omitempty"`
	HeadersToDownstreamOnDeny       []string          `json:"headersToDownstreamOnDeny,omitempty"`
	HeadersToDownstreamOnAllow      []string          `json:"headersToDownstreamOnAllow,omitempty"`
}

type extAuthzBody struct {
	MaxRequestBytes     int64 `json:"maxRequestBytes,omitempty"`
	AllowPartialMessage bool  `json:"allowPartialMessage,omitempty"`
	PackAsBytes         bool  `json:"packAsBytes,omitempty"`
}

// The kinds of providers, by their fields.
const (
	providerGRPC = "envoyExtAuthzGrpc"
	providerHTTP = "envoyExtAuthzHttp"
)

// UnmarshalNode implements strictyaml.NodeUnmarshaler.
func (p *extensionProvider) UnmarshalNode(n *yaml.Node) error {
	p.name = strictyaml.Text(n, "name")
	p.grpc, p.http = p.read(n, providerGRPC), p.read(n, providerHTTP)
	return nil
}

func (p *extensionProvider) read(n *yaml.Node, field string) *extAuthzAPI {
	node := strictyaml.Field(n, field)
	if node == nil {
		return nil
	}
	api := &extAuthzAPI{}
	for _, e := range strictyaml.Decode(node, api) {
		if p.wrong == "" {
			p.wrongAt, p.wrong = field, e.Message
			if e.Path != "" {
				p.wrongAt += joint(e.Path) + e.Path
			}
		}
	}
	return api
}

// kind is the field that the provider is written in; "" where it is not for external authorization.
func (p *extensionProvider) kind() (string, *extAuthzAPI) {
	switch {
	case p.grpc != nil && p.http != nil:
		return fmt.Sprintf("%s and %s", providerGRPC, providerHTTP), nil
	case p.grpc != nil:
		return providerGRPC, p.grpc
	case p.http != nil:
		return providerHTTP, p.http
	}
	return "", nil
}
