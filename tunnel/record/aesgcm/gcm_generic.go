//go:build !amd64 || purego

package aesgcm

import "crypto/cipher"

const accelerated = false

// newVector is never called: there is no vector implementation in this build.
func newVector([]byte, cipher.Block) cipher.AEAD {
	panic("aesgcm: no vector implementation in this build")
}
