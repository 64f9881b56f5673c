//go:build !purego

package aesgcm

import (
	"crypto/fips140"
	"crypto/subtle"
	"errors"
	"slices"
	"unsafe"

	"golang.org/x/sys/cpu"
)

const (
	nonceSize = 12
	tagSize   = 16

	// maxPlaintext is what a 32-bit counter that starts at 2 has blocks for.
	maxPlaintext = (1<<32 - 2) * 16
)

// accelerated is whether the processor has every instruction that
// gcm_amd64.s uses and the system saves the registers. In FIPS mode only the
// standard library's validated code will do.
var accelerated = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ &&
	cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasAES && cpu.X86.HasBMI2 &&
	!fips140.Enabled()

// errOpen says no more than that, so that a forger learns nothing.
var errOpen = errors.New("aesgcm: message authentication failed")

// seal encrypts src into dst, which is as long, and computes the tag.
//
//go:noescape
func seal(k *gcm, tag *[tagSize]byte, nonce, dst, src, aad []byte)

// open decrypts src into dst, which is as long, and computes the tag that src
// should have. Until the caller has compared it, dst is not to be trusted.
//
//go:noescape
func open(k *gcm, tag *[tagSize]byte, nonce, dst, src, aad []byte)

func (g *gcm) NonceSize() int { return nonceSize }

func (g *gcm) Overhead() int { return tagSize }

// Seal implements [cipher.AEAD].
func (g *gcm) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	if len(nonce) != nonceSize {
		panic("aesgcm: incorrect nonce length")
	}
	if uint64(len(plaintext)) > maxPlaintext {
		panic("aesgcm: message too large")
	}
	ret, out := extend(dst, len(plaintext)+tagSize)
	checkOverlap(out, plaintext, additionalData)

	var tag [tagSize]byte
	seal(g, &tag, nonce, out[:len(plaintext)], plaintext, additionalData)
	copy(out[len(plaintext):], tag[:])
	return ret
}

// Open implements [cipher.AEAD].
func (g *gcm) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	if len(nonce) != nonceSize {
		panic("aesgcm: incorrect nonce length")
	}
	n := len(ciphertext) - tagSize
	if n < 0 || uint64(n) > maxPlaintext {
		return nil, errOpen
	}
	ret, out := extend(dst, n)
	checkOverlap(out, ciphertext, additionalData)

	var want [tagSize]byte
	open(g, &want, nonce, out, ciphertext[:n], additionalData)
	if subtle.ConstantTimeCompare(want[:], ciphertext[n:]) != 1 {
		clear(out)
		return nil, errOpen
	}
	return ret, nil
}

// extend appends n bytes to b, in place if there is room, and returns the
// whole and the new bytes.
func extend(b []byte, n int) (whole, tail []byte) {
	whole = slices.Grow(b, n)[:len(b)+n]
	return whole, whole[len(b):]
}

// checkOverlap panics unless out is in's memory from its first byte on, or
// shares no byte with it; and if out shares any with the additional data.
func checkOverlap(out, in, additionalData []byte) {
	if overlap(out, in) && &out[0] != &in[0] {
		panic("aesgcm: invalid overlap of output and input")
	}
	if overlap(out, additionalData) {
		panic("aesgcm: invalid overlap of output and additional data")
	}
}

// overlap reports whether a and b share a byte.
func overlap(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	a0, b0 := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	return a0 < b0+uintptr(len(b)) && b0 < a0+uintptr(len(a))
}
