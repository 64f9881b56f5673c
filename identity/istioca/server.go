package istioca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"istio.io/api/security/v1alpha1"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

// maxRequest bounds a request: a CSR of the largest key is a fraction of it.
const maxRequest = 64 << 10

// ServerOptions say how a Server serves. CA and Tokens must be set.
type ServerOptions struct {
	CA     *identity.CA
	Tokens *Tokens
	// TTL is the longest life of a certificate, and what a request gets that does
	// not say. Zero means identity.LeafTTL.
	TTL time.Duration
	// Hosts are the names and addresses that clients reach the server by.
	Hosts []string
	// MayImpersonate decides whether caller, a node proxy, gets a certificate of
	// id. The error says why not. Nil refuses everybody.
	MayImpersonate func(caller Caller, id mesh.Identity) error
	// Known says whether the mesh has somebody who may still get certificates as the caller:
	// tokens and certificates outlive the account. Nil is yes, always.
	Known func(Caller) error
	// Log receives what was issued (info) and refused (warn). Nil discards.
	Log *slog.Logger
}

// Server is an IstioCertificateService before a CA.
type Server struct {
	v1alpha1.UnimplementedIstioCertificateServiceServer
	o   ServerOptions
	log *slog.Logger

	mu   sync.Mutex
	cert *tls.Certificate
}

// NewServer returns a server; Serve starts it.
func NewServer(o ServerOptions) *Server {
	if o.TTL <= 0 {
		o.TTL = identity.LeafTTL
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, log: log}
}

// Serve answers on ln until ctx ends; then it closes ln and returns nil.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, GetConfigForClient: s.config, NextProtos: []string{"h2"},
		})),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(16<<10), grpc.MaxConcurrentStreams(16),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, MaxConnectionAge: 30 * time.Minute}),
	)
	v1alpha1.RegisterIstioCertificateServiceServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving certificates on %s: %w", ln.Addr(), err)
	}
	return nil
}

// config is for one handshake: certificate and roots change.
func (s *Server) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	cert, err := s.certificate()
	if err != nil {
		s.log.Error("making the certificate authority's own certificate", "error", err)
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.o.CA.RootPEM())
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{*cert},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: roots,
	}, nil
}

// certificate is the server's own, made anew at half of its life.
func (s *Server) certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cert; c != nil {
		if life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore); time.Now().Before(c.Leaf.NotAfter.Add(-life / 2)) {
			return c, nil
		}
	}
	c, err := s.o.CA.IssueServer(s.o.Hosts, s.o.TTL)
	if err == nil {
		s.cert = c
	}
	return c, err
}

// CreateCertificate answers one request.
func (s *Server) CreateCertificate(ctx context.Context, req *v1alpha1.IstioCertificateRequest) (*v1alpha1.IstioCertificateResponse, error) {
	caller, err := s.caller(ctx)
	if err == nil && s.o.Known != nil {
		err = s.o.Known(caller)
	}
	if err != nil {
		s.log.Warn("refused a certificate", "reason", err)
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	id, err := s.subject(caller, req)
	if err != nil {
		s.log.Warn("refused a certificate", "caller", caller.Identity.String(), "reason", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	csr, err := parseCSR(req.GetCsr())
	if err != nil {
		s.log.Warn("refused a certificate", "caller", caller.Identity.String(), "reason", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ttl := s.o.TTL
	if n := req.GetValidityDuration(); n > 0 && n < int64(ttl/time.Second) {
		ttl = time.Duration(n) * time.Second
	}
	leaf, roots, err := s.o.CA.Sign(csr.PublicKey, id, ttl)
	if err != nil {
		s.log.Error("signing a certificate", "caller", caller.Identity.String(), "identity", id.String(), "error", err)
		return nil, status.Error(codes.Internal, "the CA cannot sign now; its log says why")
	}
	s.log.Info("issued a certificate", "identity", id.String(), "caller", caller.Identity.String(), "node", caller.Node, "ttl", ttl.String())
	return &v1alpha1.IstioCertificateResponse{CertChain: []string{string(leaf), string(roots)}}, nil
}

// subject is whose certificate the caller gets.
func (s *Server) subject(caller Caller, req *v1alpha1.IstioCertificateRequest) (mesh.Identity, error) {
	v, ok := req.GetMetadata().GetFields()[impersonated]
	if !ok || v.GetStringValue() == "" {
		return caller.Identity, nil
	}
	id, err := mesh.ParseIdentity(v.GetStringValue())
	switch {
	case err != nil:
		return mesh.Identity{}, fmt.Errorf("%s: %w", impersonated, err)
	case s.o.MayImpersonate == nil:
		return mesh.Identity{}, errors.New("this CA lets nobody ask for others")
	}
	if err := s.o.MayImpersonate(caller, id); err != nil {
		return mesh.Identity{}, fmt.Errorf("%s may not have a certificate of %s: %w", caller.Identity, id, err)
	}
	return id, nil
}

// impersonated is the metadata by which a node proxy asks for a workload's certificate.
const impersonated = "ImpersonatedIdentity"

// caller finds out who asks: by the token, or else by the certificate. A token
// that is no good is refused even beside a good certificate.
func (s *Server) caller(ctx context.Context) (Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	switch auth := md.Get("authorization"); len(auth) {
	case 0:
	case 1:
		token, ok := strings.CutPrefix(auth[0], "Bearer ")
		if !ok {
			return Caller{}, errors.New(`authorization is not "Bearer TOKEN"`)
		}
		return s.o.Tokens.Check(token, time.Now())
	default:
		return Caller{}, errors.New("more than one authorization")
	}
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return Caller{}, errors.New("caller presents neither a token nor a certificate of this mesh")
	}
	id, err := identity.PeerOf(info.State)
	if err != nil {
		return Caller{}, err
	}
	if id.TrustDomain != s.o.CA.TrustDomain() {
		return Caller{}, fmt.Errorf("caller %s is of another trust domain", id)
	}
	// The handshake has looked at dates, and maybe long ago; of revocation it knows nothing.
	certs := info.State.PeerCertificates
	if end := certs[0].NotAfter; !time.Now().Before(end) {
		return Caller{}, fmt.Errorf("caller's certificate expired on %s", end.UTC().Format(time.RFC3339))
	}
	if err := s.o.CA.Revoked(certs); err != nil {
		return Caller{}, fmt.Errorf("caller %s: %w", id, err)
	}
	return Caller{Identity: id}, nil
}

// parseCSR reads a certificate request and checks that its sender has the key.
func parseCSR(text string) (*x509.CertificateRequest, error) {
	b, rest := pem.Decode([]byte(text))
	if b == nil || (b.Type != "CERTIFICATE REQUEST" && b.Type != "NEW CERTIFICATE REQUEST") || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("csr is not one PEM block of type CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, errors.New("csr does not parse")
	}
	// Before the signature, which with a key of a hundred thousand bits takes seconds to check.
	if err := identity.CheckKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("csr is not signed with its own key")
	}
	return csr, nil
}
