package aesgcm

import (
	"crypto/cipher"
	"fmt"
	"testing"
)

// each runs a benchmark for both sizes of key, lengths of records, and New's
// implementation beside crypto/cipher's.
func each(b *testing.B, run func(b *testing.B, a cipher.AEAD, n int)) {
	for _, size := range []int{16, 32} {
		key := newSource(byte(size)).bytes(size)
		for _, n := range []int{13, 64, 128, 256, 1024, 1200, 4096, 16384} {
			for _, by := range []struct {
				name string
				a    cipher.AEAD
			}{{"new", aead(b, key)}, {"standard", standard(b, key)}} {
				b.Run(fmt.Sprintf("aes%d/%d/%s", 8*size, n, by.name), func(b *testing.B) {
					b.SetBytes(int64(n))
					b.ReportAllocs()
					run(b, by.a, n)
				})
			}
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	each(b, func(b *testing.B, a cipher.AEAD, n int) {
		nonce, header, buf := make([]byte, 12), make([]byte, 5), make([]byte, n, n+16)
		for b.Loop() {
			a.Seal(buf[:0], nonce, buf, header)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	each(b, func(b *testing.B, a cipher.AEAD, n int) {
		nonce, header := make([]byte, 12), make([]byte, 5)
		sealed := a.Seal(nil, nonce, make([]byte, n), header)
		out := make([]byte, 0, n)
		for b.Loop() {
			if _, err := a.Open(out, nonce, sealed, header); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNew(b *testing.B) {
	for _, size := range []int{16, 32} {
		key := make([]byte, size)
		b.Run(fmt.Sprintf("aes%d/new", 8*size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				aead(b, key)
			}
		})
		b.Run(fmt.Sprintf("aes%d/standard", 8*size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				standard(b, key)
			}
		})
	}
}
