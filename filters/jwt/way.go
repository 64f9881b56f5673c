package jwt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"cairnproxy.dev/cairn/mesh"
)

// Mesh is the way to the services of the mesh.
type Mesh interface {
	// ServiceOf returns the Service that a URL's host means, false for a host that is none.
	ServiceOf(host string) (mesh.ServiceKey, bool)
	// DialService connects to an endpoint of a service as requests do. The service's policy says whether there is TLS inside,
	// where alpn is offered; an empty alpn leaves that to the caller.
	DialService(ctx context.Context, service mesh.ServiceKey, port uint16, alpn string) (net.Conn, error)
}

// way asks for keys inside the mesh where a Service has them, and outside else.
type way struct {
	mesh    Mesh // nil: all is outside
	outside http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w *way) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.mesh == nil {
		return w.outside.RoundTrip(r)
	}
	service, ok := w.mesh.ServiceOf(r.URL.Hostname())
	if !ok {
		return w.outside.RoundTrip(r)
	}
	if r.Response != nil && r.Response.Request != nil { // a redirect
		if _, ok := w.mesh.ServiceOf(r.Response.Request.URL.Hostname()); !ok {
			// Who is outside the mesh must not have us ask in it, with our identity.
			return nil, errors.New("it sends us from outside the mesh to one of its services")
		}
	}
	// https goes to the end and is verified as it is everywhere; for http it is the mesh that
	// authenticates, and TLS what the service's policy says.
	port, alpn := uint64(80), "http/1.1"
	if r.URL.Scheme == "https" {
		port, alpn = 443, ""
	}
	if p := r.URL.Port(); p != "" {
		var err error
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return nil, fmt.Errorf("%q is not a port", p)
		}
	}
	// Keys are fetched so rarely that no connection is kept for the next time.
	once := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return w.mesh.DialService(ctx, service, uint16(port), alpn)
		},
		DisableKeepAlives: true, TLSHandshakeTimeout: defaultTimeout, MaxResponseHeaderBytes: 64 << 10, Protocols: new(http.Protocols),
	}
	once.Protocols.SetHTTP1(true)
	return once.RoundTrip(r)
}

// CloseIdleConnections closes those outside; inside none is kept.
func (w *way) CloseIdleConnections() {
	if c, ok := w.outside.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
