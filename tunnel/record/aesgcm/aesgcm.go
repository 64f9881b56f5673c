// Package aesgcm is AES-GCM for TLS records, as fast as the processor can.
//
// New gives a [cipher.AEAD] that does what crypto/cipher's does, byte for byte
// and panic for panic. On processors with AVX-512, VAES and VPCLMULQDQ it is
// an implementation in assembly that encrypts and hashes sixteen blocks at a
// time; everywhere else, under the purego build tag, and in FIPS 140-3 mode it
// is crypto/cipher's own.
//
// An AEAD is immutable after New. Any number of goroutines may use it at once,
// and no call allocates memory unless dst has no room for the result.
//
// # How the vector implementation is laid out
//
//   - gcm_amd64.go checks lengths and overlap, and compares tags.
//   - key_amd64.go expands a key: round keys, and powers of the hash key.
//   - gcm_amd64.s has the two kernels, seal and open, and explains their
//     arithmetic. Branches and addresses in it depend on lengths only, never on
//     keys or data.
//
// The specification is NIST SP 800-38D.
package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
)

// New returns AES-GCM with 12-byte nonces and 16-byte tags for a key of 16 or
// 32 bytes.
func New(key []byte) (cipher.AEAD, error) {
	if len(key) != 16 && len(key) != 32 {
		return nil, fmt.Errorf("making an AES-GCM key: want 16 or 32 bytes, got %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making an AES-GCM key: %w", err)
	}
	if accelerated {
		return newVector(key, block), nil
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making an AES-GCM key: %w", err)
	}
	return aead, nil
}

// Accelerated reports whether New gives the implementation in assembly.
func Accelerated() bool { return accelerated }
