package envoy

import "maps"

// object and list make configurations readable as Go; they marshal to the
// JSON that Envoy takes.
type (
	object map[string]any
	list   []any
)

const typePrefix = "type.googleapis.com/"

// typed is a typed_config: a message with its type URL.
func typed(kind string, fields object) object {
	o := object{"@type": typePrefix + kind}
	maps.Copy(o, fields)
	return o
}

// named is an extension: a name and its typed_config.
func named(name, kind string, fields object) object {
	return object{"name": name, "typed_config": typed(kind, fields)}
}

// The full names of the messages that several places use.
const (
	kindHCM         = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	kindTCPProxy    = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	kindRouter      = "envoy.extensions.filters.http.router.v3.Router"
	kindOriginalDst = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
	kindHTTPOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	kindDownTLS     = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	kindUpTLS       = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	kindInternal    = "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport"
	kindRaw         = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
	kindFileLog     = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
	kindString      = "google.protobuf.StringValue"
)

// Object and List are for fragments of configuration that others write.
type (
	Object = object
	List   = list
)

// Named is an extension: a name and its typed_config, whose kind is a
// message's full name.
func Named(name, kind string, fields Object) Object { return named(name, kind, fields) }

// Merge puts over's fields into o, object by object, and returns o. Lists are
// replaced. Objects
// within are copied, so that both may share theirs with others.
func Merge(o, over Object) Object {
	for k, v := range over {
		from, ok := v.(object)
		if !ok {
			o[k] = v
			continue
		}
		into, _ := o[k].(object) // may be shared
		o[k] = Merge(Merge(object{}, into), from)
	}
	return o
}
