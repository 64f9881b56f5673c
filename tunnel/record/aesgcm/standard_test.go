package aesgcm

import (
	"bytes"
	"crypto/cipher"
	"sync"
	"testing"
)

// canary is how many bytes around each buffer must not change.
const canary = 64

// island is a buffer at an odd place with canaries around it.
type island struct{ all, b []byte }

// newIsland returns one of n bytes, which begins shift bytes after a multiple
// of 64 if the allocator aligns its memory so, which it does for large sizes.
func newIsland(n, shift int) island {
	all := bytes.Repeat([]byte{0xa5}, canary+shift+n+canary)
	return island{all, all[canary+shift : canary+shift+n : canary+shift+n]}
}

// intact reports whether nothing around the buffer has changed.
func (s island) intact() bool {
	before := len(s.all) - canary - len(s.b)
	for _, part := range [][]byte{s.all[:before], s.all[before+len(s.b):]} {
		for _, c := range part {
			if c != 0xa5 {
				return false
			}
		}
	}
	return true
}

// place is where a comparison puts its buffers.
type place struct {
	inPlace          bool
	src, dst, beside int // offsets, 0 to 63
}

// compare seals and opens with both and fails at a difference, or if a byte
// beside a buffer changed.
func compare(t *testing.T, a, std cipher.AEAD, nonce, text, aad []byte, at place) {
	t.Helper()
	n := len(text)
	want := std.Seal(nil, nonce, text, aad)
	in, extra := newIsland(n, at.src), newIsland(len(aad), at.beside)
	out := newIsland(n+16, at.dst)
	if at.inPlace {
		in = island{out.all, out.b[:n]}
	}
	copy(in.b, text)
	copy(extra.b, aad)
	if got := a.Seal(out.b[:0], nonce, in.b, extra.b); !bytes.Equal(got, want) || !out.intact() {
		t.Fatalf("Seal, %d bytes, %d of additional data, %+v: first difference at %d, canaries intact: %v",
			n, len(aad), at, firstDifference(got, want), out.intact())
	}
	if !at.inPlace && (!bytes.Equal(in.b, text) || !in.intact()) {
		t.Fatalf("Seal, %d bytes, %+v: wrote to its input", n, at)
	}
	back := newIsland(n, at.src)
	if at.inPlace {
		back = island{out.all, out.b[:n]}
	}
	got, err := a.Open(back.b[:0], nonce, out.b, extra.b)
	if err != nil || !bytes.Equal(got, text) || !out.intact() || (!at.inPlace && !back.intact()) {
		t.Fatalf("Open, %d bytes, %d of additional data, %+v: %v, first difference at %d", n, len(aad), at, err, firstDifference(got, text))
	}
	if !bytes.Equal(out.b[n:], want[n:]) || !bytes.Equal(extra.b, aad) || !extra.intact() {
		t.Fatalf("Open, %d bytes, %+v: wrote to its input", n, at)
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

// TestAgainstStandard compares with crypto/cipher at every length to 1100, in
// place and not, with every length of additional data and every alignment
// to 63 many times over.
func TestAgainstStandard(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a, std, r := vector(t, key), standard(t, key), newSource(2)
		for n := range 1101 {
			for _, inPlace := range []bool{false, true} {
				at := place{inPlace, n % 64, r.below(64), r.below(64)}
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(n%71), at)
				at.src, at.dst = at.dst, at.src
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(5), at)
			}
		}
	})
}

// TestAdditionalData takes every length to 70, and some long ones, with texts
// on both sides of the limits of blocks, vectors and steps.
func TestAdditionalData(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a, std, r := vector(t, key), standard(t, key), newSource(3)
		for _, n := range []int{0, 1, 15, 16, 17, 63, 64, 65, 240, 255, 256, 257, 272, 512, 513, 769} {
			for m := range 71 {
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(m), place{beside: m % 64})
			}
			for _, m := range []int{255, 256, 257, 1000, 20_000} {
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(m), place{})
			}
		}
	})
}

// TestAlignment moves source and destination through a cache line.
func TestAlignment(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a, std, r := vector(t, key), standard(t, key), newSource(4)
		for _, n := range []int{1, 60, 250, 300, 700, 1200} {
			for i := range 64 {
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(13), place{false, i, r.below(64), i})
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(13), place{false, r.below(64), i, 63 - i})
				compare(t, a, std, r.bytes(12), r.bytes(n), r.bytes(13), place{true, i, i, i})
			}
		}
	})
}

// TestRandomLengths goes on to 20,000 bytes, with a new key each time.
func TestRandomLengths(t *testing.T) {
	r := newSource(5)
	for i := range 600 {
		key := r.bytes(16 << (i % 2))
		at := place{r.below(2) == 0, r.below(64), r.below(64), r.below(64)}
		compare(t, vector(t, key), standard(t, key), r.bytes(12), r.bytes(r.below(20_001)), r.bytes(r.below(71)), at)
	}
}

// TestCounter takes texts so long that the counter, which begins at 2, carries
// out of its lowest byte (after 254 blocks) and its second (after 65,534). The
// blocks around a carry are compared with those before and after.
func TestCounter(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a, std, r := vector(t, key), standard(t, key), newSource(6)
		for _, blocks := range []int{253, 254, 255, 270, 65_533, 65_534, 65_535, 65_551, 140_000} {
			compare(t, a, std, r.bytes(12), r.bytes(16*blocks+r.below(16)), r.bytes(5), place{})
		}
		ones := bytes.Repeat([]byte{0xff}, 12)
		compare(t, a, std, ones, r.bytes(16*65_600), nil, place{inPlace: true})
	})
}

// TestConcurrent has one AEAD used by many goroutines.
func TestConcurrent(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a, std := vector(t, key), standard(t, key)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				r := newSource(byte(10 + i))
				for range 300 {
					nonce, text, aad := r.bytes(12), r.bytes(r.below(2000)), r.bytes(5)
					sealed := a.Seal(nil, nonce, text, aad)
					if !bytes.Equal(sealed, std.Seal(nil, nonce, text, aad)) {
						t.Errorf("goroutine %d: Seal differs at %d bytes", i, len(text))
					}
					if back, err := a.Open(nil, nonce, sealed, aad); err != nil || !bytes.Equal(back, text) {
						t.Errorf("goroutine %d: Open of %d bytes: %v", i, len(text), err)
					}
				}
			})
		}
		wg.Wait()
	})
}
