package istioca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"istio.io/api/security/v1alpha1"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

// Where a pod of Istio has its token and the root certificate.
const (
	DefaultTokenFile = "/var/run/secrets/tokens/istio-token"
	DefaultRootFile  = "/var/run/secrets/istio/root-cert.pem"
	// DefaultAddress is istiod's in a cluster.
	DefaultAddress = "istiod.istio-system.svc:15012"
)

// ClientOptions say where the CA is and who asks. Address must be set.
type ClientOptions struct {
	// Address is HOST:PORT, with or without https:// before it.
	Address string
	// TokenFile holds the bearer token; it is read for every request. "" sends none.
	TokenFile string
	// RootFile holds the certificates that the CA's server is trusted by; it is read again
	// when it changes. "SYSTEM" means the machine's.
	RootFile string
	// ServerName is the name in the server's certificate; "" means Address's host.
	ServerName string
	// ClusterID is sent along; "" sends none.
	ClusterID string
	// TTL is the life to ask for, zero: identity.LeafTTL. The CA may give less.
	TTL time.Duration
	// Impersonate asks for identities of others, as a node proxy does for the
	// workloads of its node. Without it the CA gives what the token stands for.
	Impersonate bool
	// Headers are sent along with every request (ztunnel's CA_HEADER_*).
	Headers map[string]string
}

// Client is an identity.Issuer before an IstioCertificateService. Close it.
type Client struct {
	o    ClientOptions
	host string // HOST:PORT

	mu    sync.Mutex
	conn  *grpc.ClientConn
	roots string // the text of RootFile that conn was made with
}

// NewClient returns a client. It does not connect yet.
func NewClient(o ClientOptions) (*Client, error) {
	host, found := strings.CutPrefix(o.Address, "https://")
	if !found && strings.Contains(o.Address, "://") {
		return nil, fmt.Errorf("CA address %q: want HOST:PORT; a token is sent over TLS only", o.Address)
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil || name == "" || port == "" {
		return nil, fmt.Errorf("CA address %q: want HOST:PORT", o.Address)
	}
	if o.ServerName == "" {
		o.ServerName = name
	}
	if o.TTL <= 0 {
		o.TTL = identity.LeafTTL
	}
	return &Client{o: o, host: host}, nil
}

// Close ends the connection to the CA.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn = nil
	return err
}

// Issue asks the CA for a certificate of id once; who calls tries again.
func (c *Client) Issue(ctx context.Context, id mesh.Identity) (*identity.Cert, error) {
	cert, err := c.issue(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("asking the CA at %s: %w", c.host, err)
	}
	return cert, nil
}

func (c *Client) issue(ctx context.Context, id mesh.Identity) (*identity.Cert, error) {
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	if ctx, err = c.outgoing(ctx); err != nil {
		return nil, err
	}
	csr, keyPEM, err := newRequest(id)
	if err != nil {
		return nil, err
	}
	req := &v1alpha1.IstioCertificateRequest{Csr: csr, ValidityDuration: int64(c.o.TTL / time.Second)}
	if c.o.Impersonate {
		req.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{impersonated: structpb.NewStringValue(id.String())}}
	}
	res, err := v1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, req)
	if err != nil {
		return nil, c.explain(err)
	}
	return answered(res.GetCertChain(), keyPEM, id)
}

// answered makes a certificate of the CA's answer: leaf, intermediates, and as
// last element the roots.
func answered(chain []string, keyPEM []byte, id mesh.Identity) (*identity.Cert, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("the answer has %d certificates where a leaf and a root are the least", len(chain))
	}
	var text strings.Builder
	for _, c := range chain[:len(chain)-1] {
		text.WriteString(strings.TrimSpace(c))
		text.WriteByte('\n')
	}
	cert, err := identity.NewCert([]byte(text.String()), keyPEM, []byte(chain[len(chain)-1]))
	if err != nil {
		return nil, fmt.Errorf("the answer is no good: %w", err)
	}
	if cert.Identity != id {
		return nil, fmt.Errorf("the answer is a certificate of %s, not of %s: is the token another service account's, or the trust domain another?", cert.Identity, id)
	}
	return cert, nil
}

// connection returns the connection, a new one if the roots have changed.
func (c *Client) connection() (*grpc.ClientConn, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.o.ServerName}
	var text []byte
	if c.o.RootFile != "SYSTEM" {
		var err error
		if text, err = os.ReadFile(c.o.RootFile); err != nil {
			return nil, fmt.Errorf("reading the CA's root certificates: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", c.o.RootFile)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.roots == string(text) {
		return c.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+c.host,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pause, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<20)))
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	if old := c.conn; old != nil {
		time.AfterFunc(10*time.Second, func() { old.Close() }) // calls under way end first
	}
	c.conn, c.roots = conn, string(text)
	return conn, nil
}

// pause is between attempts to connect: shorter than what the cache waits
// between its calls, so that each of these is an attempt.
var pause = backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 15 * time.Second}

// outgoing adds what goes with a request.
func (c *Client) outgoing(ctx context.Context) (context.Context, error) {
	md := metadata.MD{}
	for name, value := range c.o.Headers {
		md.Set(name, value)
	}
	if c.o.ClusterID != "" {
		md.Set("clusterid", c.o.ClusterID)
	}
	if c.o.TokenFile != "" {
		text, err := os.ReadFile(c.o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading the token: %w", err)
		}
		token := strings.TrimSpace(string(text))
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("%s holds no token", c.o.TokenFile)
		}
		md.Set("authorization", "Bearer "+token)
	}
	return metadata.NewOutgoingContext(ctx, md), nil
}

// explain adds to a refusal what usually is the matter.
func (c *Client) explain(err error) error {
	st := status.Convert(err)
	var hint string
	switch st.Code() {
	case codes.Unauthenticated:
		hint = "the CA does not take the token"
		if c.o.TokenFile != "" {
			hint += " in " + c.o.TokenFile
		}
		hint += " (expired, of another cluster, or without audience istio-ca)"
	case codes.PermissionDenied:
		hint = "the CA does not give this identity to this caller"
		if c.o.Impersonate {
			hint += " (a node proxy must be a trusted node account, and the workload must run on its node)"
		}
	case codes.Unavailable:
		hint = "the CA is not reached"
		if strings.Contains(st.Message(), "x509:") || strings.Contains(st.Message(), "certificate") {
			hint = "the CA's certificate is not trusted by " + c.o.RootFile
		}
	case codes.DeadlineExceeded:
		hint = "the CA did not answer in time"
	case codes.Unimplemented:
		hint = "what answers there is not a CA of Istio's API"
	default:
		return err
	}
	return &RefusedError{Code: st.Code(), Hint: hint, Message: st.Message()}
}

// RefusedError is a request that the CA did not fulfil.
type RefusedError struct {
	Code    codes.Code
	Hint    string // what that usually means
	Message string // the CA's
}

// Error is the hint, then code and message.
func (e *RefusedError) Error() string {
	msg := e.Message
	if len(msg) > 512 {
		msg = msg[:512] + "…"
	}
	return fmt.Sprintf("%s: %s: %q", e.Hint, e.Code, msg)
}

// newRequest makes a key and a certificate request for id: empty subject, the
// URI as its only name.
func newRequest(id mesh.Identity) (csr string, keyPEM []byte, err error) {
	uri, err := url.Parse(id.String())
	if err != nil || id.IsZero() {
		return "", nil, fmt.Errorf("identity %q is not a URI", id.String())
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return "", nil, fmt.Errorf("making a certificate request: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", nil, errors.New("encoding a key")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}
