package tunnel

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"sync"
)

// Certificate is what a peer showed on its connection, which all streams of that share. Its methods may be called
// from any goroutine.
type Certificate struct {
	leaf *x509.Certificate
	once sync.Once
	hash string
}

// Hash returns the SHA-256 of the certificate (DER) in hexadecimal digits, as in Envoy's x-forwarded-client-cert; "" for a nil
// Certificate. It is computed when it is first asked for.
func (c *Certificate) Hash() string {
	if c == nil {
		return ""
	}
	c.once.Do(func() {
		sum := sha256.Sum256(c.leaf.Raw)
		c.hash, c.leaf = hex.EncodeToString(sum[:]), nil
	})
	return c.hash
}
