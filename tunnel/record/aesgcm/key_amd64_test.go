//go:build !purego

package aesgcm

import (
	"crypto/aes"
	"encoding/binary"
	"testing"
	"unsafe"
)

// product is the definition of SP 800-38D, section 6.3, a bit at a time, on
// blocks whose bytes are reversed. It has nothing of the ways of the assembly.
func product(a, b element) element {
	var z element
	v := b
	for i := range 128 {
		if a[1-i/64]>>(63-i%64)&1 == 1 {
			z[0] ^= v[0]
			z[1] ^= v[1]
		}
		carry := v[0] & 1
		v[0] = v[0]>>1 | v[1]<<63
		v[1] = v[1]>>1 ^ carry*0xe1<<56
	}
	return z
}

// TestMultiply compares the product in assembly with the definition's. A
// factor times y makes up for the y^-128 in place of y^-127.
func TestMultiply(t *testing.T) {
	vector(t, make([]byte, 16))
	r := newSource(8)
	elements := []element{{}, {0, 1 << 63}, {1, 0}, {0, 1}, {1 << 63, 0}, {^uint64(0), ^uint64(0)}}
	for range 200 {
		elements = append(elements, element{r.Uint64(), r.Uint64()})
	}
	for _, a := range elements {
		for _, b := range elements {
			var got element
			by := timesY(b)
			multiply(&got, &a, &by)
			if want := product(a, b); got != want {
				t.Fatalf("%x · %x = %x, want %x", a, b, got, want)
			}
		}
	}
}

// TestPowers holds that the table has the powers that it says.
func TestPowers(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		g := vector(t, key).(*gcm)
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		var hash [16]byte
		block.Encrypt(hash[:], hash[:])
		h := element{binary.BigEndian.Uint64(hash[8:]), binary.BigEndian.Uint64(hash[:8])}
		power := h
		for i := 1; i <= 17; i++ {
			if got, want := g.powers[17-i], timesY(power); got != want {
				t.Errorf("H^%d·y = %x, want %x", i, got, want)
			}
			power = product(power, h)
		}
	})
}

// TestExpand has the last words of the key expansions in FIPS 197, appendix A.
func TestExpand(t *testing.T) {
	vector(t, make([]byte, 16))
	tests := []struct {
		name string
		key  []byte
		last [4]uint32
	}{
		{
			"aes128",
			[]byte{0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c},
			[4]uint32{0xd014f9a8, 0xc9ee2589, 0xe13f0cc8, 0xb6630ca6},
		},
		{
			"aes256",
			[]byte{
				0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d, 0x77, 0x81,
				0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3, 0x09, 0x14, 0xdf, 0xf4,
			},
			[4]uint32{0xfe4890d1, 0xe6188d0b, 0x046df344, 0x706c631e},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			words := make([]uint32, len(tt.key)+28)
			expand(words, tt.key)
			for i, want := range tt.last {
				var b [4]byte
				binary.LittleEndian.PutUint32(b[:], words[len(words)-4+i])
				if got := binary.BigEndian.Uint32(b[:]); got != want {
					t.Errorf("word %d of the last four: %08x, want %08x", i, got, want)
				}
			}
		})
	}
}

// TestLayout holds what the kernels take for granted of a gcm.
func TestLayout(t *testing.T) {
	var g gcm
	powers, rounds := unsafe.Offsetof(g.powers), unsafe.Offsetof(g.rounds)
	if at := (powers + 16) % 64; at != 0 {
		t.Errorf("the sixteenth power is %d bytes from the beginning of a cache line", at)
	}
	if want := powers + unsafe.Sizeof(g.powers); rounds != want {
		t.Errorf("the round keys are at %d, the powers end at %d", rounds, want)
	}
	// An empty last step reads 256 bytes from H on.
	if end := powers + 16*16 + 256; end > unsafe.Sizeof(g) {
		t.Errorf("the last step may read to %d, a gcm has %d bytes", end, unsafe.Sizeof(g))
	}
}
