package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// CRLPath is the path of the file with the lists of revoked certificates, which
// exists once something was revoked; "" for a CA in memory.
func (ca *CA) CRLPath() string {
	if ca.dir == "" {
		return ""
	}
	return filepath.Join(ca.dir, CRLFile)
}

// Revoke adds serial numbers to the lists of revoked certificates in the CA's
// folder: one list for each root, with what it revoked before. A list announces no
// successor before its root's end, since it is made anew when something is
// revoked. The file is replaced as a whole; several processes may revoke at once.
func (ca *CA) Revoke(serials ...*big.Int) error {
	if ca.dir == "" {
		return errors.New("revoking certificates: this CA is in memory only and has no place for a list")
	}
	for _, n := range serials {
		if n == nil || n.Sign() <= 0 || n.BitLen() > 159 { // RFC 5280 section 4.1.2.2
			return fmt.Errorf("revoking certificates: %v is not a serial number", n)
		}
	}
	unlock, err := lockFile(ca.CRLPath() + ".lock")
	if err != nil {
		return fmt.Errorf("locking the list of revoked certificates: %w", err)
	}
	defer unlock()
	if err := ca.follow(); err != nil {
		return err
	}
	ca.mu.RLock()
	s := ca.state
	ca.mu.RUnlock()
	old, err := os.ReadFile(ca.CRLPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the list of revoked certificates: %w", err)
	}
	text, err := s.revoke(old, serials, time.Now())
	if err != nil {
		return fmt.Errorf("revoking certificates in %s: %w", ca.CRLPath(), err)
	}
	if err := replaceFile(ca.CRLPath(), text, 0o644); err != nil {
		return fmt.Errorf("storing the list of revoked certificates: %w", err)
	}
	return nil
}

// Revoked returns a *RevokedError if a certificate, with the authorities that came with
// it, was revoked; it reads the lists again if they have changed. When they cannot be
// read, that is the error: nobody knows then. A CA in memory revokes nothing.
func (ca *CA) Revoked(certs []*x509.Certificate) error {
	if ca.crl == nil {
		return nil
	}
	now := time.Now()
	anchors := func() []*x509.Certificate { roots, _ := ca.trusted(now); return roots }
	ca.crl.poll(anchors, now)
	ca.crl.mu.Lock()
	err := ca.crl.failed
	ca.crl.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e := ca.crl.set.Load().find(certs, anchors); e != nil {
		return e
	}
	return nil
}

// revoke returns the lists of all roots as PEM.
func (s *caState) revoke(old []byte, serials []*big.Int, now time.Time) (text []byte, err error) {
	lists, err := decodeLists(old)
	if err != nil {
		return nil, err
	}
	for _, r := range s.roots {
		if slices.ContainsFunc(serials, func(n *big.Int) bool { return n.Cmp(r.cert.SerialNumber) == 0 }) {
			return nil, fmt.Errorf("serial %#x is that of a root, which cannot revoke itself; replace it where it is trusted", r.cert.SerialNumber)
		}
		var prev *x509.RevocationList
		for _, l := range lists {
			if bytes.Equal(l.RawIssuer, r.cert.RawSubject) && l.CheckSignatureFrom(r.cert) == nil {
				prev = l
			}
		}
		der, err := r.list(prev, serials, now)
		if err != nil {
			return nil, err
		}
		text = append(text, crlPEM(der)...)
	}
	return text, nil
}

// list signs the root's list: what is on prev, and serials.
func (r *caRoot) list(prev *x509.RevocationList, serials []*big.Int, now time.Time) ([]byte, error) {
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-backdate), NextUpdate: r.cert.NotAfter}
	known := map[string]bool{}
	add := func(n *big.Int, at time.Time) {
		if !known[string(n.Bytes())] {
			known[string(n.Bytes())] = true
			tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: at})
		}
	}
	if prev != nil {
		for _, e := range prev.RevokedCertificateEntries {
			add(e.SerialNumber, e.RevocationTime)
		}
		if prev.Number != nil {
			tmpl.Number = new(big.Int).Add(prev.Number, big.NewInt(1))
		}
	}
	for _, n := range serials {
		add(n, now)
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, r.cert, r.key)
	if err != nil {
		return nil, fmt.Errorf("signing the list of %q: %w", r.cert.Subject.CommonName, err)
	}
	return der, nil
}

func crlPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// decodeLists reads the lists that revoke wrote.
func decodeLists(text []byte) (out []*x509.RevocationList, err error) {
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, errors.New("the file holds something else than lists; move it away")
			}
			return out, nil
		}
		l, err := x509.ParseRevocationList(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: %w; move the file away", len(out)+1, err)
		}
		out = append(out, l)
	}
}
