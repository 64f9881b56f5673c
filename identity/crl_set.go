package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// revocations are the lists of one file. They are immutable.
type revocations struct {
	lists    []*revocationList
	byIssuer map[string][]*revocationList // by the name's text
}

// revocationList is one issuer's list.
type revocationList struct {
	crl     *x509.RevocationList // without its entries
	issuer  string
	entries map[string]time.Time // when revoked, by the serial number's bytes

	mu     sync.Mutex
	signed map[string]bool // whether it is by this certificate, by DER
}

// extIssuingPoint is the only critical extension of a list that is understood: it
// says that the list is a part, which narrows what is *not* on it, and nothing else.
var extIssuingPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// parseCRL reads lists as PEM, or one as DER.
func parseCRL(text []byte) (*revocations, error) {
	s := &revocations{byIssuer: map[string][]*revocationList{}}
	if len(text) > 0 && text[0] == 0x30 { // a DER SEQUENCE
		return s, s.add(text)
	}
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "X509 CRL" {
			return nil, fmt.Errorf("block %d is %q, not an X509 CRL", len(s.lists)+1, b.Type)
		}
		if err := s.add(b.Bytes); err != nil {
			return nil, fmt.Errorf("block %d: %w", len(s.lists)+1, err)
		}
	}
	if len(s.lists) == 0 {
		return nil, errors.New("found no PEM block of type X509 CRL; to revoke nothing, publish a list without entries")
	}
	return s, nil
}

func (s *revocations) add(der []byte) error {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return err
	}
	for _, e := range crl.Extensions {
		if e.Critical && !e.Id.Equal(extIssuingPoint) {
			return fmt.Errorf("the list of %q has the critical extension %s, which is not understood (is it a delta list? publish the complete one)", crl.Issuer.String(), e.Id)
		}
	}
	l := &revocationList{crl: crl, issuer: crl.Issuer.String(), entries: make(map[string]time.Time, len(crl.RevokedCertificateEntries)), signed: map[string]bool{}}
	for i := range crl.RevokedCertificateEntries {
		e := &crl.RevokedCertificateEntries[i]
		for _, x := range e.Extensions {
			if x.Critical { // that of another issuer's certificate, in a list for several
				return fmt.Errorf("the list of %q has an entry (serial %x) with the critical extension %s, which is not understood; publish a list for each issuer", l.issuer, e.SerialNumber, x.Id)
			}
		}
		l.entries[string(e.SerialNumber.Bytes())] = e.RevocationTime
	}
	// They are large, and the signature is over the raw text.
	crl.RevokedCertificateEntries, crl.Raw = nil, nil
	s.lists = append(s.lists, l)
	s.byIssuer[l.issuer] = append(s.byIssuer[l.issuer], l)
	return nil
}

// size is how many certificates are revoked.
func (s *revocations) size() (n int) {
	for _, l := range s.lists {
		n += len(l.entries)
	}
	return n
}

// overdue returns a list whose successor should have come, or nil.
func (s *revocations) overdue(now time.Time) *revocationList {
	for _, l := range s.lists {
		if n := l.crl.NextUpdate; !n.IsZero() && now.After(n) {
			return l
		}
	}
	return nil
}

// review refuses lists that claim a root's name and key without its signature.
// Lists of others are looked at when one of their certificates comes.
func (s *revocations) review(anchors []*x509.Certificate) error {
	for _, l := range s.lists {
		known, good := false, false
		for _, a := range anchors {
			if a.Subject.String() != l.issuer || l.ofOtherKey(a) {
				continue
			}
			known, good = true, good || l.signedBy(a)
		}
		if known && !good {
			return fmt.Errorf("the list of %q is not signed by the root of that name", l.issuer)
		}
	}
	return nil
}

// ofOtherKey reports whether the list says that a's is not the key of its
// signature: an authority may have had several under one name.
func (l *revocationList) ofOtherKey(a *x509.Certificate) bool {
	return len(l.crl.AuthorityKeyId) > 0 && len(a.SubjectKeyId) > 0 && !bytes.Equal(l.crl.AuthorityKeyId, a.SubjectKeyId)
}

// signedBy reports whether the holder of a's key signed the list.
func (l *revocationList) signedBy(a *x509.Certificate) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ok, known := l.signed[string(a.Raw)]
	if !known {
		ok = l.crl.CheckSignatureFrom(a) == nil
		if len(l.signed) < 64 {
			l.signed[string(a.Raw)] = ok
		}
	}
	return ok
}

// find returns which of certs, the chain that a peer sent, leaf first, was
// revoked; nil for none. anchors gives the trusted roots; it is called only for
// serial numbers that are on a list, and where certs end at a root that has an
// issuer of its own. Without a hit it costs a look-up for each certificate.
func (s *revocations) find(certs []*x509.Certificate, anchors func() []*x509.Certificate) *RevokedError {
	if s == nil {
		return nil
	}
	for i, c := range certs {
		if e := s.lookUp(c, certs, anchors); e != nil {
			if i == 0 {
				e.Identity, _ = leafIdentity(c)
			}
			return e
		}
	}
	// A trusted intermediate authority may have been revoked by the root above it.
	for _, a := range anchors() {
		if bytes.Equal(a.RawIssuer, a.RawSubject) || !slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return bytes.Equal(c.RawIssuer, a.RawSubject) }) {
			continue
		}
		if e := s.lookUp(a, certs, anchors); e != nil {
			return e
		}
	}
	return nil
}

func (s *revocations) lookUp(c *x509.Certificate, certs []*x509.Certificate, anchors func() []*x509.Certificate) *RevokedError {
	for _, l := range s.byIssuer[c.Issuer.String()] {
		at, listed := l.entries[string(c.SerialNumber.Bytes())]
		if !listed {
			continue
		}
		// The list counts if who signed it also signed the certificate.
		by := func(a *x509.Certificate) bool {
			return bytes.Equal(a.RawSubject, c.RawIssuer) && l.signedBy(a) && c.CheckSignatureFrom(a) == nil
		}
		if slices.ContainsFunc(certs, by) || slices.ContainsFunc(anchors(), by) {
			return &RevokedError{Serial: fmt.Sprintf("%#x", c.SerialNumber), Issuer: l.issuer, At: at}
		}
	}
	return nil
}
