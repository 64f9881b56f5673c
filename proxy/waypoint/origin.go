package waypoint

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// originTLS is TLS that begins at the waypoint, to endpoints outside the mesh and, inside
// their tunnels, to those in it, compiled from a mesh.BackendTLS. It does not change.
//
// It fails closed: what cannot be verified gets nothing, and settings that cannot
// be used (broken) answer 500 before anything is dialled. Nothing ever goes in plain
// text in its place.
type originTLS struct {
	// broken says why nothing may be sent; "" for no reason.
	broken string
	// digest tells settings apart, those of the client's key included, which it does not tell.
	digest string
	config *tls.Config
	names  []string // one of which the certificate must have
	// sniff is set where the port does not say which HTTP its endpoints speak: they are
	// offered both, and what they take decides.
	sniff bool
}

// newOriginTLS compiles b for a port's protocol; nil for nil. host stands for the
// name where b has none: the service's own.
func newOriginTLS(b *mesh.BackendTLS, host string, proto mesh.AppProtocol) *originTLS {
	if b == nil {
		return nil
	}
	o := &originTLS{broken: b.Broken, sniff: proto == mesh.ProtocolSniff}
	if o.broken != "" {
		return o
	}
	if err := o.compile(b, host); err != nil {
		o.broken = err.Error()
	}
	return o
}

func (o *originTLS) compile(b *mesh.BackendTLS, host string) error {
	host = firstOf(b.SNI, b.Hostname, wildless(host))
	names := b.SANs
	if len(names) == 0 {
		if name := firstOf(b.Hostname, host); name != "" {
			names = []string{name}
		}
	}
	if len(names) == 0 {
		return errors.New("there is no name to verify the certificate by; set a hostname")
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: host,
		// The names to verify need not be the one that is sent, and there may be several:
		// verify does all that crypto/tls would.
		InsecureSkipVerify: true,
	}
	roots, err := rootsOf(b)
	if err != nil {
		return err
	}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return verifyOrigin(&cs, roots, names) }
	if len(b.Certificate) > 0 || len(b.Key) > 0 {
		cert, err := tls.X509KeyPair(b.Certificate, b.Key)
		if err != nil {
			return fmt.Errorf("client certificate: %w", err) // tells what does not fit, and nothing of the key
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	o.config, o.names = cfg, names
	o.digest = digestOf([]byte(host), b.Roots, b.Certificate, b.Key, []byte(strings.Join(names, "\x00")), []byte{byte(len(names))})
	return nil
}

// String says for people what is spoken, and no secret.
func (o *originTLS) String() string {
	if o.broken != "" {
		return "broken: " + o.broken
	}
	s := "SNI " + o.config.ServerName + ", verifies " + strings.Join(o.names, " or ")
	if len(o.config.Certificates) > 0 {
		s += ", with a client certificate"
	}
	return s
}

func firstOf(names ...string) string {
	i := slices.IndexFunc(names, func(s string) bool { return s != "" })
	if i < 0 {
		return ""
	}
	return names[i]
}

// wildless is a name that a certificate can be compared with, or "".
func wildless(host string) string {
	if strings.Contains(host, "*") {
		return ""
	}
	return host
}

// digestOf is a digest of parts with their lengths.
func digestOf(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	return "tls:" + hex.EncodeToString(h.Sum(nil)[:16])
}

// rootsOf returns the certificates to trust; nil for the machine's.
func rootsOf(b *mesh.BackendTLS) (*x509.CertPool, error) {
	switch {
	case len(b.Roots) > 0:
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(b.Roots) {
			return nil, errors.New("the CA certificates hold no certificate in PEM form")
		}
		return pool, nil
	case b.System:
		return nil, nil
	}
	return nil, errors.New("there are no CA certificates to verify by; name some, or the system's")
}

// verifyOrigin checks an endpoint's certificate: its chain, and that it has one of names,
// which are DNS names, addresses or URIs.
func verifyOrigin(cs *tls.ConnectionState, roots *x509.CertPool, names []string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the endpoint presents no certificate")
	}
	leaf := cs.PeerCertificates[0]
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return fmt.Errorf("failed to verify certificate: %w", err)
	}
	for _, n := range names {
		if strings.Contains(n, "://") {
			for _, u := range leaf.URIs {
				if u.String() == n {
					return nil
				}
			}
			continue
		}
		if leaf.VerifyHostname(n) == nil {
			return nil
		}
	}
	return fmt.Errorf("failed to verify certificate: it is not for %s", strings.Join(names, " or "))
}

// spoken is which HTTP an endpoint has chosen, as far as it is known.
type spoken struct{ v atomic.Uint32 } // 0: not known, else the version

// offer is what a connection offers by ALPN that is to speak the given version of
// HTTP; 0 is for bytes.
func (d *destination) offer(version uint32) []string {
	switch {
	case version == 0:
		return nil
	case d.tls.sniff && d.spoken.v.Load() == 0:
		return []string{"h2", "http/1.1"}
	case version == 2:
		return []string{"h2"}
	}
	return []string{"http/1.1"}
}

// errOtherVersion is what a connection ends with whose endpoint chose the other
// version of HTTP: the requests that wait for it go out again, accordingly.
var errOtherVersion = errors.New("the endpoint speaks the other version of HTTP")

// secure makes TLS of a connection, or closes it.
func (d *destination) secure(ctx context.Context, nc *net.TCPConn, version uint32) (*loop.Socket, error) {
	if d.tls.broken != "" { // requests were refused before they came here
		nc.Close()
		return nil, errors.New(d.tls.broken)
	}
	cfg := d.tls.config.Clone()
	cfg.NextProtos = d.offer(version)
	sock, err := loop.NewTLS(ctx, nc, cfg, true, handshakeTimeout)
	if err != nil {
		return nil, err
	}
	cs, _ := sock.TLS()
	if len(cfg.NextProtos) < 2 {
		return sock, nil // it was asked for one, and takes it or says nothing
	}
	if d.learn(cs.NegotiatedProtocol) != version {
		sock.Close()
		return nil, errOtherVersion
	}
	return sock, nil
}

// learn notes what an endpoint has chosen, and returns the version of HTTP.
func (d *destination) learn(protocol string) uint32 {
	got := uint32(1)
	if protocol == "h2" {
		got = 2
	}
	d.spoken.v.Store(got)
	return got
}

const handshakeTimeout = 10 * time.Second

// client speaks TLS on c, for clients that block. On error c is closed.
func (o *originTLS) client(ctx context.Context, c net.Conn, protos ...string) (*tls.Conn, error) {
	if o.broken != "" {
		c.Close()
		return nil, errors.New(o.broken)
	}
	cfg := o.config.Clone()
	cfg.NextProtos = protos
	tc := tls.Client(c, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("tls handshake with %s: %w", c.RemoteAddr(), err)
	}
	return tc, nil
}

// version is which HTTP the endpoints of cl are spoken to with, if the certificate's
// owner has said: 0 leaves it to the client.
func (d *destination) version() uint32 {
	if d.tls == nil || !d.tls.sniff {
		return 0
	}
	return d.spoken.v.Load()
}
