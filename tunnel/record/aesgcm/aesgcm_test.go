package aesgcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// vector returns the implementation in assembly, or skips the test.
func vector(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	if !Accelerated() {
		t.Skip("skipped: nothing of the assembly was tested. The processor lacks AVX-512 F, BW, VL or DQ, VAES, VPCLMULQDQ or BMI2, " +
			"or this is a purego build, or FIPS 140-3 mode is on")
	}
	return aead(t, key)
}

func aead(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	a, err := New(key)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return a
}

// standard returns crypto/cipher's implementation.
func standard(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatalf("aes.NewCipher: %v", err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatalf("cipher.NewGCM: %v", err)
	}
	return a
}

// source is random bytes that are the same in every run.
type source struct{ *rand.ChaCha8 }

func newSource(seed byte) source { return source{rand.NewChaCha8([32]byte{seed})} }

func (s source) bytes(n int) []byte {
	b := make([]byte, n)
	s.Read(b)
	return b
}

func (s source) below(n int) int { return int(s.Uint64() % uint64(n)) }

// forKeys runs a test for both sizes of key.
func forKeys(t *testing.T, run func(t *testing.T, key []byte)) {
	for _, size := range []int{16, 32} {
		t.Run(fmt.Sprintf("aes%d", 8*size), func(t *testing.T) {
			run(t, newSource(byte(size)).bytes(size))
		})
	}
}

// TestKnownAnswers has the cases with 12-byte nonces of McGrew and Viega, "The
// Galois/Counter Mode of Operation", appendix B.
func TestKnownAnswers(t *testing.T) {
	const (
		key   = "feffe9928665731c6d6a8f9467308308"
		nonce = "cafebabefacedbaddecaf888"
		aad   = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
		text  = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
		out3  = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985"
		out15 = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
	)
	zeroes := func(n int) string { return strings.Repeat("00", n) }
	tests := []struct {
		name, key, nonce, aad, text, out, tag string
	}{
		{"case1", zeroes(16), zeroes(12), "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"},
		{"case2", zeroes(16), zeroes(12), "", zeroes(16), "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"},
		{"case3", key, nonce, "", text, out3, "4d5c2af327cd64a62cf35abd2ba6fab4"},
		{"case4", key, nonce, aad, text[:120], out3[:120], "5bc94fbc3221a5db94fae95ae7121a47"},
		{"case13", zeroes(32), zeroes(12), "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
		{"case14", zeroes(32), zeroes(12), "", zeroes(16), "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
		{"case15", key + key, nonce, "", text, out15, "b094dac5d93471bdec1a502270e3cc6c"},
		{"case16", key + key, nonce, aad, text[:120], out15[:120], "76fc6ece0f4e1768cddf8853bb2d551b"},
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := aead(t, unhex(tt.key))
			got := a.Seal(nil, unhex(tt.nonce), unhex(tt.text), unhex(tt.aad))
			if want := unhex(tt.out + tt.tag); !bytes.Equal(got, want) {
				t.Errorf("Seal:\n got %x\nwant %x", got, want)
			}
			back, err := a.Open(nil, unhex(tt.nonce), unhex(tt.out+tt.tag), unhex(tt.aad))
			if want := unhex(tt.text); err != nil || !bytes.Equal(back, want) {
				t.Errorf("Open:\n got %x, %v\nwant %x", back, err, want)
			}
		})
	}
}

func TestKeySizes(t *testing.T) {
	for n := range 40 {
		a, err := New(make([]byte, n))
		if good := n == 16 || n == 32; (err == nil) != good || (a != nil) != good {
			t.Errorf("a key of %d bytes: %v, %v", n, a, err)
		}
	}
}

func TestSizes(t *testing.T) {
	a := aead(t, make([]byte, 16))
	if a.NonceSize() != 12 || a.Overhead() != 16 {
		t.Errorf("NonceSize %d, Overhead %d; want 12, 16", a.NonceSize(), a.Overhead())
	}
}

// TestAppends holds that dst is kept and appended to, with and without room.
func TestAppends(t *testing.T) {
	key, nonce := make([]byte, 16), make([]byte, 12)
	a, std := aead(t, key), standard(t, key)
	for _, room := range []int{0, 1, 20, 36, 100} {
		dst := append(make([]byte, 0, 3+room), "abc"...)
		got := a.Seal(dst, nonce, make([]byte, 20), nil)
		want := std.Seal([]byte("abc"), nonce, make([]byte, 20), nil)
		if !bytes.Equal(got, want) {
			t.Errorf("room %d: Seal got %x, want %x", room, got, want)
		}
		if inPlace := &got[0] == &dst[0] && cap(got) == cap(dst); inPlace != (room >= 36) {
			t.Errorf("room %d: sealed into dst's memory: %v", room, inPlace)
		}
		back, err := a.Open(append(make([]byte, 0, 3+room), "abc"...), nonce, want[3:], nil)
		if err != nil || !bytes.Equal(back, append([]byte("abc"), make([]byte, 20)...)) {
			t.Errorf("room %d: Open got %x, %v", room, back, err)
		}
	}
}

func TestPanics(t *testing.T) {
	a := aead(t, make([]byte, 16))
	buf, nonce := make([]byte, 200), make([]byte, 12)
	tests := []struct {
		name string
		call func()
	}{
		{"seal short nonce", func() { a.Seal(nil, nonce[:11], nil, nil) }},
		{"seal long nonce", func() { a.Seal(nil, make([]byte, 13), nil, nil) }},
		{"open short nonce", func() { a.Open(nil, nonce[:11], buf[:16], nil) }},
		{"open no nonce", func() { a.Open(nil, nil, buf[:16], nil) }},
		{"seal one byte on", func() { a.Seal(buf[1:1], nonce, buf[:50], nil) }},
		{"seal one byte before", func() { a.Seal(buf[:0], nonce, buf[1:50], nil) }},
		{"seal tag over input", func() { a.Seal(buf[:0], nonce, buf[60:110], nil) }},
		{"seal over additional data", func() { a.Seal(buf[:0], nonce, buf[:50], buf[65:70]) }},
		{"open one byte on", func() { a.Open(buf[1:1], nonce, buf[:50], nil) }},
		{"open over additional data", func() { a.Open(buf[:0], nonce, buf[:50], buf[33:40]) }},
		{"open over the tag", func() { a.Open(buf[40:40], nonce, buf[:50], nil) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("did not panic")
				}
			}()
			tt.call()
		})
	}
}

// TestTouching holds that buffers may lie side by side.
func TestTouching(t *testing.T) {
	a := aead(t, make([]byte, 16))
	buf, nonce := make([]byte, 200), make([]byte, 12)
	sealed := a.Seal(buf[50:50:116], nonce, buf[:50], buf[116:130])
	if _, err := a.Open(buf[:0:50], nonce, sealed, buf[116:130]); err != nil {
		t.Errorf("Open: %v", err)
	}
}

// TestTampered holds that one flipped bit anywhere is refused, and that
// nothing of the text is left in dst.
func TestTampered(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a := aead(t, key)
		r := newSource(1)
		for _, n := range []int{0, 1, 15, 16, 17, 63, 64, 100, 255, 256, 257, 511, 513, 1200} {
			nonce, text, aad := r.bytes(12), r.bytes(n), r.bytes(5+r.below(30))
			sealed := a.Seal(nil, nonce, text, aad)
			for name, b := range map[string][]byte{"nonce": nonce, "additional data": aad, "ciphertext": sealed[:n], "tag": sealed[n:]} {
				for bit := range 8 * len(b) {
					if len(b) > 100 && bit%8 != bit/8%8 {
						continue // of a long text, one bit of each byte
					}
					b[bit/8] ^= 1 << (bit % 8)
					refused(t, a, nonce, sealed, aad, fmt.Sprintf("%d bytes, bit %d of the %s", n, bit, name))
					b[bit/8] ^= 1 << (bit % 8)
				}
			}
			for short := range sealed {
				if _, err := a.Open(nil, nonce, sealed[:short], aad); err == nil {
					t.Errorf("%d bytes: the first %d of ciphertext and tag were accepted", n, short)
				}
			}
			if _, err := a.Open(nil, nonce, sealed, aad); err != nil {
				t.Errorf("%d bytes, untampered: %v", n, err)
			}
		}
	})
}

// refused checks that Open fails and zeroes what it may have written, no more
// and no less, elsewhere and in place.
func refused(t *testing.T, a cipher.AEAD, nonce, sealed, aad []byte, what string) {
	t.Helper()
	n := len(sealed) - 16
	dst := bytes.Repeat([]byte{0xa5}, n+40)
	got, err := a.Open(dst[:7], nonce, sealed, aad)
	if err == nil || got != nil {
		t.Fatalf("%s: accepted", what)
	}
	for i, b := range dst {
		if inside := i >= 7 && i < 7+n; inside && b != 0 || !inside && b != 0xa5 {
			t.Fatalf("%s: byte %d of dst, whose text is [7:%d], is %#x", what, i, 7+n, b)
		}
	}
	own := bytes.Clone(sealed)
	if _, err := a.Open(own[:0], nonce, own, aad); err == nil {
		t.Fatalf("%s: accepted in place", what)
	}
	if !bytes.Equal(own[:n], make([]byte, n)) || !bytes.Equal(own[n:], sealed[n:]) {
		t.Fatalf("%s: in place: text not zeroed, or more than the text", what)
	}
}

func TestAllocations(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a := aead(t, key)
		nonce, aad, buf := make([]byte, 12), make([]byte, 5), make([]byte, 1200, 1216)
		got := testing.AllocsPerRun(1000, func() {
			sealed := a.Seal(buf[:0], nonce, buf, aad)
			if _, err := a.Open(sealed[:0], nonce, sealed, aad); err != nil {
				t.Error(err)
			}
		})
		if got != 0 {
			t.Errorf("Seal and Open allocate %v times, want 0", got)
		}
	})
}
