// Package envoy runs Envoy in every place of the path that Cairn can stand
// in, so that each of Cairn's proxies meets a foreign one on either side:
//
//	Client: TCP ──► CONNECT over mTLS        (a source's node proxy)
//	Waypoint: HBONE ──► HTTP ──► HBONE       (what istiod makes of Envoy)
//	Server: CONNECT over mTLS ──► TCP        (a destination's node proxy)
//
// Configurations are static, with certificates from files: no xDS. The
// waypoint has the shape that istiod gives one, listener by listener, so that
// what is measured on it is what a mesh pays today, short of the filters that
// only Istio's build of Envoy has.
package envoy
