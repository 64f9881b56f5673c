package record

import (
	"bytes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"cairnproxy.dev/cairn/tunnel/record/aesgcm"
)

// Secrets receives the traffic secrets of one handshake: it is the KeyLogWriter
// of that connection's tls.Config, whose lines have the format of NSS key logs
// ("LABEL client-random secret"). Nothing is written anywhere, unless Next is
// the user's own key log.
type Secrets struct {
	Next           io.Writer // gets the lines too; nil: nobody
	client, server []byte
}

// Write implements io.Writer.
func (s *Secrets) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) == 3 {
		var to *[]byte
		switch string(f[0]) {
		case "CLIENT_TRAFFIC_SECRET_0":
			to = &s.client
		case "SERVER_TRAFFIC_SECRET_0":
			to = &s.server
		}
		if to != nil {
			secret := make([]byte, hex.DecodedLen(len(f[2])))
			if _, err := hex.Decode(secret, f[2]); err != nil {
				return 0, fmt.Errorf("reading a traffic secret: %w", err)
			}
			*to = secret
		}
	}
	if s.Next != nil {
		return s.Next.Write(line)
	}
	return len(line), nil
}

// suite is what a cipher suite means here.
type suite struct {
	hash   func() hash.Hash
	keyLen int
}

func suiteOf(id uint16) (suite, bool) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return suite{sha256.New, 16}, true
	case tls.TLS_AES_256_GCM_SHA384:
		return suite{sha512.New384, 32}, true
	}
	return suite{}, false
}

// Usable reports whether this layer may serve at all: not in FIPS 140-3 mode.
func Usable() bool { return !fips140.Enabled() }

// New returns both directions of a connection whose handshake is complete. ok
// is false when the connection is to stay with crypto/tls.
func New(client bool, cs *tls.ConnectionState, s *Secrets) (o *Opener, w *Sealer, ok bool, err error) {
	su, known := suiteOf(cs.CipherSuite)
	if !Usable() || !known || cs.Version != tls.VersionTLS13 || s.client == nil || s.server == nil {
		return nil, nil, false, nil
	}
	in, out := s.client, s.server
	if client {
		in, out = out, in
	}
	o = &Opener{client: client}
	if o.keys, err = newKeys(su, in); err != nil {
		return nil, nil, false, err
	}
	w = &Sealer{limit: maxRecords}
	if w.keys, err = newKeys(su, out); err != nil {
		return nil, nil, false, err
	}
	return o, w, true, nil
}

// keys are those of one direction (RFC 8446 section 7.3).
type keys struct {
	suite  suite
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte // of the record at hand
	seq    uint64   // of the next record
}

func newKeys(su suite, secret []byte) (keys, error) {
	k := keys{suite: su}
	if len(secret) != su.hash().Size() {
		return k, errSecrets
	}
	return k, k.set(secret)
}

// set derives key and IV from a traffic secret.
func (k *keys) set(secret []byte) error {
	key, err := k.expand(secret, "key", k.suite.keyLen)
	if err != nil {
		return err
	}
	iv, err := k.expand(secret, "iv", len(k.iv))
	if err != nil {
		return err
	}
	if k.aead, err = aesgcm.New(key); err != nil {
		return fmt.Errorf("tls: making the record cipher: %w", err)
	}
	copy(k.iv[:], iv)
	k.secret, k.seq = secret, 0
	return nil
}

// update goes on to the next generation (RFC 8446 section 7.2).
func (k *keys) update() error {
	secret, err := k.expand(k.secret, "traffic upd", len(k.secret))
	if err != nil {
		return err
	}
	return k.set(secret)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func (k *keys) expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	out, err := hkdf.Expand(k.suite.hash, secret, string(info), n)
	if err != nil {
		return nil, fmt.Errorf("tls: deriving %q: %w", label, err)
	}
	return out, nil
}

// next returns the nonce of the next record (RFC 8446 section 5.3). A sequence
// number of 64 bits does not come to its end.
func (k *keys) next() []byte {
	k.nonce = k.iv
	low := binary.BigEndian.Uint64(k.iv[4:]) ^ k.seq
	binary.BigEndian.PutUint64(k.nonce[4:], low)
	k.seq++
	return k.nonce[:]
}
