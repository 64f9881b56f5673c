//go:build !purego

package aesgcm

import (
	"crypto/cipher"
	"encoding/binary"
	"math/bits"
)

// gcm is a key, expanded. The kernels know the order of its fields: powers
// begins at 48, so that the powers 16 to 1, which are read for every 256
// bytes, begin on a cache line; and rounds follows powers, because the last
// step of a message reads beyond powers, to multiply what it reads by zero.
type gcm struct {
	// first is where the first round key is in rounds, in bytes.
	first int64
	_     [5]uint64

	// powers are H^17 down to H, in the form that gcm_amd64.s describes.
	powers [17]element

	// rounds are the round keys, the last at the end: an AES-256 key has
	// fifteen of four words, an AES-128 key eleven, and leaves four unused.
	rounds [60]uint32
}

// element is an element of GHASH's field, as the number that its block is
// when the bytes are read from the last to the first: the low word, the high.
type element [2]uint64

// subWord puts each byte of w through the S-box of AES.
//
//go:noescape
func subWord(w uint32) uint32

// multiply sets p to a·b·y^-128, in the terms of gcm_amd64.s.
//
//go:noescape
func multiply(p, a, b *element)

// newVector expands key; block is AES with that key.
func newVector(key []byte, block cipher.Block) cipher.AEAD {
	g := new(gcm)
	words := g.rounds[len(g.rounds)-len(key)-28:]
	expand(words, key)
	g.first = int64(4 * (len(g.rounds) - len(words)))

	var hash [16]byte
	block.Encrypt(hash[:], hash[:]) // of zeroes
	h := timesY(element{binary.BigEndian.Uint64(hash[8:]), binary.BigEndian.Uint64(hash[:8])})
	last := len(g.powers) - 1
	g.powers[last] = h
	for i := last - 1; i >= 0; i-- {
		multiply(&g.powers[i], &g.powers[i+1], &h)
	}
	return g
}

// expand fills words with key's round keys: FIPS 197, section 5.2, with words
// in little-endian order. They are four for each of the len(key)/4+6 rounds,
// and four more, which makes len(key)+28.
func expand(words []uint32, key []byte) {
	n := len(key) / 4
	for i := range n {
		words[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	constant := uint32(1)
	for i := n; i < len(words); i++ {
		t := words[i-1]
		switch {
		case i%n == 0:
			t = subWord(bits.RotateLeft32(t, -8)) ^ constant
			constant = constant<<1 ^ constant>>7*0x11b
		case n == 8 && i%n == 4:
			t = subWord(t)
		}
		words[i] = words[i-n] ^ t
	}
}

// timesY multiplies e by y: a shift, and where that carries into y^128 the
// four terms that y^128 is equal to. It takes the same time for every e.
func timesY(e element) element {
	carry := e[1] >> 63
	return element{
		e[0]<<1 ^ carry,
		e[1]<<1 ^ e[0]>>63 ^ carry*0xc200000000000000,
	}
}
