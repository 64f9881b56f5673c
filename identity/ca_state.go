package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// caState is what a CA is: its roots in the order of their making, and what it
// must remember of what it has signed. It is immutable.
type caState struct {
	trustDomain string
	roots       []*caRoot
	// longest is the longest life that a leaf was ever asked for: whatever was
	// issued before now is over by now+longest.
	longest  time.Duration
	tokenKey []byte
}

// caRoot is one root and its part in time:
//
//	made ──────► signsFrom ──────────► successor's signsFrom ──────► retires
//	  trusted        trusted, signs           trusted                  forgotten
type caRoot struct {
	cert *x509.Certificate
	// key goes with the root, and not before: it revokes what the root signed.
	key       *ecdsa.PrivateKey
	signsFrom time.Time
	// retires is when no leaf of it can be left; zero as long as it has no successor.
	retires time.Time
}

func newCAState(trustDomain string, now time.Time) (*caState, error) {
	if !plain(trustDomain) {
		return nil, fmt.Errorf("trust domain %q is not a SPIFFE trust domain (letters, digits, '.', '-', '_')", trustDomain)
	}
	root, err := newCARoot(trustDomain, now)
	if err != nil {
		return nil, err
	}
	root.signsFrom = now.Add(-backdate)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return &caState{trustDomain: trustDomain, roots: []*caRoot{root}, tokenKey: key}, nil
}

func newCARoot(trustDomain string, now time.Time) (*caRoot, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		// Each root has a name of its own: two with one name and different keys
		// make some peers try the wrong one.
		Subject:               pkix.Name{Organization: []string{trustDomain}, CommonName: "Cairn mesh root " + serial.Text(36)[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the root: %w", err)
	}
	return &caRoot{cert: cert, key: key}, nil
}

// signer is the newest root whose time to sign has come; nil if there is none.
func (s *caState) signer(now time.Time) *caRoot {
	for _, r := range slices.Backward(s.roots) {
		if !now.Before(r.signsFrom) {
			return r
		}
	}
	return nil
}

// trusted is all roots that a leaf may chain to now or soon.
func (s *caState) trusted(now time.Time) []*x509.Certificate {
	var out []*x509.Certificate
	for _, r := range s.roots {
		if r.retires.IsZero() || now.Before(r.retires) {
			out = append(out, r.cert)
		}
	}
	return out
}

// tidy drops retired roots with their keys. It returns s itself when there is
// nothing to drop.
func (s *caState) tidy(now time.Time) *caState {
	signer := s.signer(now)
	if signer == nil {
		return s // a clock that is wrong must not cost keys
	}
	out := *s
	out.roots = nil
	before := true // r was made before the signer
	for _, r := range s.roots {
		before = before && r != signer
		if before && !r.retires.IsZero() && !now.Before(r.retires) {
			continue
		}
		out.roots = append(out.roots, r)
	}
	if len(out.roots) == len(s.roots) {
		return s
	}
	return &out
}

// stateFile is a caState as JSON.
type stateFile struct {
	TrustDomain string     `json:"trustDomain"`
	LongestLeaf string     `json:"longestLeaf"`
	TokenKey    []byte     `json:"tokenKey"`
	Roots       []rootFile `json:"roots"`
}

type rootFile struct {
	Certificate string    `json:"certificate"`
	Key         string    `json:"key"`
	SignsFrom   time.Time `json:"signsFrom"`
	Retires     time.Time `json:"retires,omitzero"`
}

func (s *caState) encode() ([]byte, error) {
	f := stateFile{TrustDomain: s.trustDomain, LongestLeaf: s.longest.String(), TokenKey: s.tokenKey}
	for _, r := range s.roots {
		rf := rootFile{Certificate: string(certPEM(r.cert)), SignsFrom: r.signsFrom.UTC(), Retires: r.retires.UTC()}
		if r.retires.IsZero() {
			rf.Retires = time.Time{}
		}
		der, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return nil, errors.New("encoding a root's key")
		}
		rf.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		f.Roots = append(f.Roots, rf)
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, errors.New("encoding the CA's state")
	}
	return append(text, '\n'), nil
}

// decodeCA is encode's inverse. Its errors never quote the text.
func decodeCA(text []byte, trustDomain string, now time.Time) (*caState, error) {
	var f stateFile
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if dec.Decode(&f) != nil {
		return nil, errors.New("file is not a CA's state in JSON")
	}
	longest, err := time.ParseDuration(f.LongestLeaf)
	switch {
	case err != nil || longest < 0:
		return nil, errors.New("longestLeaf is not a duration")
	case f.TrustDomain != trustDomain:
		return nil, fmt.Errorf("it is for trust domain %q, not %q", f.TrustDomain, trustDomain)
	case len(f.TokenKey) < 32:
		return nil, errors.New("tokenKey is shorter than 32 bytes")
	}
	s := &caState{trustDomain: trustDomain, longest: longest, tokenKey: f.TokenKey}
	for i, rf := range f.Roots {
		r, err := rf.decode(trustDomain)
		if err != nil {
			return nil, fmt.Errorf("roots[%d]: %w", i, err)
		}
		s.roots = append(s.roots, r)
	}
	switch signer := s.signer(now); {
	case signer == nil:
		return nil, errors.New("no root in it signs now (is the clock right?)")
	case now.After(signer.cert.NotAfter):
		return nil, fmt.Errorf("root certificate expired on %s; remove the file to make a new root", signer.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return s, nil
}

func (rf *rootFile) decode(trustDomain string) (*caRoot, error) {
	certs, err := parsePEM([]byte(rf.Certificate))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	r := &caRoot{cert: certs[0], signsFrom: rf.SignsFrom, retires: rf.Retires}
	switch {
	case !r.cert.IsCA:
		return nil, errors.New("certificate is not a CA's")
	case !slices.Equal(r.cert.Subject.Organization, []string{trustDomain}):
		return nil, fmt.Errorf("certificate is for trust domain %q, not %q", r.cert.Subject.Organization, trustDomain)
	}
	b, _ := pem.Decode([]byte(rf.Key))
	if b == nil || b.Type != "PRIVATE KEY" {
		return nil, errors.New("key is not a PEM block of type PRIVATE KEY")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, errors.New("key is not PKCS #8")
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("key is not ECDSA P-256")
	}
	if !key.PublicKey.Equal(r.cert.PublicKey) {
		return nil, errors.New("certificate does not belong to the key")
	}
	r.key = key
	return r, nil
}
