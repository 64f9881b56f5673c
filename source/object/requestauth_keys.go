package object

import (
	"crypto/rsa"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// checkJWKS says what is wrong with a key set (RFC 7517) in a manifest; "" for nothing. Where keys are
// used, those of unknown kinds are left out; here nobody but the author is to know of them, who can do something about it.
func checkJWKS(text string) string {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return "it is not a JSON Web Key Set; write {\"keys\": [...]}"
	}
	if len(set.Keys) == 0 {
		return "the key set has no keys; add one"
	}
	for i, raw := range set.Keys {
		at := elem("keys", i)
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err != nil {
			return at + " is not a JSON Web Key that can be used; use an RSA, EC or OKP (Ed25519) key"
		}
		switch _, symmetric := k.Key.([]byte); {
		case symmetric:
			return at + " is a shared secret, with which every reader can make tokens; use a public key"
		case !k.IsPublic():
			return at + " is a private key, with which every reader can make tokens; put its public part there, and make a new one"
		}
		if v, ok := k.Key.(*rsa.PublicKey); ok && v.N.BitLen() < 2048 {
			return at + " is an RSA key of less than 2048 bits; use a longer one"
		}
	}
	return ""
}
