package envoy

import (
	"net/netip"

	"cairnproxy.dev/cairn/conformance/ca"
)

// Client is Envoy in the place of a source's node proxy: what connects to
// Listen is carried in a CONNECT stream for Authority over mutual TLS.
type Client struct {
	Listen    netip.AddrPort // plain TCP
	Admin     netip.AddrPort
	Upstream  netip.AddrPort // the HBONE server: a waypoint or node proxy, port 15008
	Authority string         // :authority of CONNECT
	Expect    string         // the server's SPIFFE URI; empty: any of the trust domain
	Files     ca.Files
	Headers   map[string]string // further CONNECT fields, such as baggage
	AccessLog string            // file that gets a line when a connection ends; empty: none
}

// Config returns the bootstrap.
func (c Client) Config() any {
	tunnel := object{"hostname": c.Authority}
	var headers list
	for name, value := range c.Headers {
		headers = append(headers, object{"header": object{"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
	}
	if headers != nil {
		tunnel["headers_to_add"] = headers
	}
	proxy := object{"stat_prefix": "capture", "cluster": "hbone", "tunneling_config": tunnel}
	if c.AccessLog != "" {
		proxy["access_log"] = list{fileLog(c.AccessLog, clientLogFormat)}
	}
	listener := object{
		"name": "capture", "address": socket(c.Listen),
		"filter_chains": list{object{"filters": list{named("envoy.filters.network.tcp_proxy", kindTCPProxy, proxy)}}},
	}
	cluster := staticCluster("hbone", c.Upstream)
	cluster["typed_extension_protocol_options"] = h2Options()
	cluster["transport_socket"] = upstreamTLS(c.Files, c.Expect)
	return bootstrap(c.Admin, list{listener}, list{cluster}, false)
}

// clientLogFormat tells of a connection what a node proxy does.
const clientLogFormat = "[%START_TIME%] src=%DOWNSTREAM_REMOTE_ADDRESS% dst=%UPSTREAM_HOST% peer=%UPSTREAM_PEER_URI_SAN% " +
	"received=%BYTES_RECEIVED% sent=%BYTES_SENT% duration=%DURATION% flags=%RESPONSE_FLAGS%\n"

// AdminAddr returns where the admin endpoint listens.
func (c Client) AdminAddr() netip.AddrPort { return c.Admin }

// Server is Envoy in the place of a destination's node proxy: it terminates
// CONNECT over mutual TLS and passes the stream's bytes to the application
// that belongs to the CONNECT authority.
type Server struct {
	Listen netip.AddrPort // HBONE: the pod's address, port 15008
	Admin  netip.AddrPort
	Files  ca.Files
	// Apps are the applications behind it, plain TCP, by the CONNECT authority
	// that leads to each. Any other authority gets 404.
	Apps      map[string]netip.AddrPort
	AccessLog string // file that gets a line when a CONNECT is accepted and one when it ends; empty: none
}

// Config returns the bootstrap.
func (s Server) Config() any {
	var hosts, clusters list
	for authority, app := range s.Apps {
		hosts = append(hosts, connectHost(authority, authority))
		clusters = append(clusters, staticCluster(authority, app))
	}
	manager := connectManager("inbound", hosts, nil)
	if s.AccessLog != "" {
		config := manager["typed_config"].(object)
		config["access_log_options"] = object{"flush_log_on_tunnel_successfully_established": true}
		config["access_log"] = list{fileLog(s.AccessLog, serverLogFormat)}
	}
	listener := object{
		"name": "inbound", "address": socket(s.Listen),
		"filter_chains": list{object{"transport_socket": downstreamTLS(s.Files), "filters": list{manager}}},
	}
	return bootstrap(s.Admin, list{listener}, clusters, false)
}

// serverLogFormat tells what a test asks about a CONNECT: who, to where, how.
const serverLogFormat = "authority=%REQ(:AUTHORITY)% peer=%DOWNSTREAM_PEER_URI_SAN% tls=%DOWNSTREAM_TLS_VERSION% " +
	"code=%RESPONSE_CODE% baggage=%REQ(BAGGAGE)% forwarded=%REQ(FORWARDED)% traceparent=%REQ(TRACEPARENT)%\n"

// AdminAddr returns where the admin endpoint listens.
func (s Server) AdminAddr() netip.AddrPort { return s.Admin }
