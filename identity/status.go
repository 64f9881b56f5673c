package identity

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Status is what the cache knows of one identity. As JSON it is an element of
// "certificates" in a node proxy's config_dump, in ztunnel's form, which
// istioctl reads.
type Status struct {
	Identity mesh.Identity
	// Cert is the certificate in use; nil if there is none. It may have expired.
	Cert *Cert
	// Err is why the last fetch or renewal failed; nil after a success.
	Err error
	// RenewAt is when Run will next try; zero if nothing is planned.
	RenewAt time.Time
}

// Status lists all identities, sorted by name.
func (c *Cache) Status() []Status {
	var out []Status
	for _, e := range c.list() {
		s := Status{Identity: e.id}
		if h := e.held.Load(); h != nil {
			s.Cert = h.cert
		}
		e.mu.Lock()
		s.Err, s.RenewAt = e.err, c.dueLocked(e, s.Cert != nil)
		e.mu.Unlock()
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Identity.String(), b.Identity.String()) })
	return out
}

// state is ztunnel's word for it.
func (s *Status) state() string {
	switch {
	case s.Cert != nil && time.Now().Before(s.Cert.NotAfter):
		return "Available"
	case s.Err != nil:
		return "Unavailable: " + s.Err.Error()
	case s.Cert != nil:
		return "Unavailable: expired on " + s.Cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return "Initializing"
}

type certStatus struct {
	PEM            string `json:"pem"` // base64 of the PEM text
	SerialNumber   string `json:"serialNumber"`
	ValidFrom      string `json:"validFrom"`
	ExpirationTime string `json:"expirationTime"`
}

// MarshalJSON writes the public half of what the cache holds.
func (s Status) MarshalJSON() ([]byte, error) {
	out := struct {
		Identity  string       `json:"identity"`
		State     string       `json:"state"`
		CertChain []certStatus `json:"certChain"`
		RootCerts []certStatus `json:"rootCerts"`
	}{s.Identity.String(), s.state(), []certStatus{}, []certStatus{}}
	if s.Cert != nil {
		for _, der := range s.Cert.Certificate.Certificate {
			if c, err := x509.ParseCertificate(der); err == nil {
				out.CertChain = append(out.CertChain, statusOf(c))
			}
		}
		roots, _ := parsePEM(s.Cert.RootPEM) // it was parsed before
		for _, c := range roots {
			out.RootCerts = append(out.RootCerts, statusOf(c))
		}
	}
	return json.Marshal(out)
}

func statusOf(c *x509.Certificate) certStatus {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	return certStatus{
		PEM:            base64.StdEncoding.EncodeToString(text),
		SerialNumber:   c.SerialNumber.String(),
		ValidFrom:      c.NotBefore.UTC().Format(time.RFC3339),
		ExpirationTime: c.NotAfter.UTC().Format(time.RFC3339),
	}
}
