// Package aesgcm is AES-GCM.
package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
)

// New returns AES-GCM for a key of 16 or 32 bytes.
func New(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}
