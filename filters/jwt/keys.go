package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// maxKeys bounds a key set, and maxTried how many of its keys are tried for one token that does not
	// name its key.
	maxKeys, maxTried = 100, 8
	// minRSABits is what RFC 7518 (3.3) asks for.
	minRSABits = 2048
)

// algorithms are the signatures that count. All are made with a private key: see the package comment.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// keys is a key set (RFC 7517) as it was read once. It never changes.
type keys struct {
	list []key
	sum  [sha256.Size]byte // of the text
}

// key is a public key.
type key struct {
	id     string // "" for none
	alg    jose.SignatureAlgorithm
	public any
}

// parseKeys reads a key set. Keys of other kinds are left out, as RFC 7517 (5) has it; a
// set without any that can be used is an error.
func parseKeys(text []byte) (*keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("it is not a JSON Web Key Set: an object with a list of keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys; at most %d are possible", len(set.Keys), maxKeys)
	}
	out := &keys{sum: sha256.Sum256(text)}
	var last error
	for _, raw := range set.Keys {
		k, err := parseKey(raw)
		if err != nil {
			last = err
			continue
		}
		out.list = append(out.list, k)
	}
	if len(out.list) == 0 {
		if last != nil {
			return nil, fmt.Errorf("none of its keys can be used; the last: %w", last)
		}
		return nil, errors.New("it has no keys")
	}
	return out, nil
}

func parseKey(raw []byte) (key, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(raw); err != nil {
		return key{}, errors.New("it is not a JSON Web Key of a known kind")
	}
	if k.Use != "" && k.Use != "sig" {
		return key{}, fmt.Errorf("its use is %q, not \"sig\"", k.Use)
	}
	p := k.Public() // of a private one, the public part
	switch v := p.Key.(type) {
	case *rsa.PublicKey:
		if v.N.BitLen() < minRSABits {
			return key{}, fmt.Errorf("an RSA key of %d bits is too short", v.N.BitLen())
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return key{}, errors.New("it is not a public key")
	}
	return key{k.KeyID, jose.SignatureAlgorithm(k.Algorithm), p.Key}, nil
}

// fits reports whether a key may have made a signature of that algorithm.
func (k *key) fits(alg jose.SignatureAlgorithm) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch k.public.(type) {
	case *rsa.PublicKey:
		return alg[0] == 'R' || alg[0] == 'P'
	case *ecdsa.PublicKey:
		return alg[:2] == "ES"
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// find calls try with the keys that may have signed a token with this key id, "" for none, until
// one has. It reports how many there were.
func (ks *keys) find(id string, alg jose.SignatureAlgorithm, try func(public any) bool) (tried int, found bool) {
	for i := range ks.list {
		k := &ks.list[i]
		if id != "" && k.id != "" && id != k.id || !k.fits(alg) {
			continue
		}
		if tried++; tried > maxTried {
			return tried - 1, false
		}
		if try(k.public) {
			return tried, true
		}
	}
	return tried, false
}

// ids are the keys' names, for dumps.
func (ks *keys) ids() (out []string) {
	for i := range ks.list {
		id := ks.list[i].id
		if id == "" {
			id = "(no kid)"
		}
		out = append(out, id)
	}
	return out
}

// names reports whether a key has that name.
func (ks *keys) names(id string) bool {
	return slices.ContainsFunc(ks.list, func(k key) bool { return k.id == id })
}
