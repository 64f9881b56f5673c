package aesgcm

import (
	"bytes"
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guarded is memory between two pages that nobody may touch: an access one
// byte outside of it is a fault.
type guarded []byte

func newGuarded(t *testing.T, size int) guarded {
	t.Helper()
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("mapping memory: %v", err)
	}
	t.Cleanup(func() { unix.Munmap(all) })
	for _, guard := range [][]byte{all[:page], all[page+size:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			t.Fatalf("closing a guard page: %v", err)
		}
	}
	return guarded(all[page : page+size])
}

// put copies b to the very end, or to the very beginning.
func (g guarded) put(b []byte, atEnd bool) []byte {
	at := 0
	if atEnd {
		at = len(g) - len(b)
	}
	copy(g[at:], b)
	return g[at : at+len(b) : at+len(b)]
}

// TestGuardPages puts every buffer against a page that faults, at its end and
// at its beginning.
func TestGuardPages(t *testing.T) {
	forKeys(t, func(t *testing.T, key []byte) {
		a, std, r := vector(t, key), standard(t, key), newSource(7)
		const most = 1100
		src, dst, extra, number := newGuarded(t, most+16), newGuarded(t, most+16), newGuarded(t, 70), newGuarded(t, 12)
		for n := range most + 1 {
			for _, atEnd := range []bool{true, false} {
				what := fmt.Sprintf("%d bytes, at the end %v", n, atEnd)
				nonce, text, aad := r.bytes(12), r.bytes(n), r.bytes(n%71)
				want := std.Seal(nil, nonce, text, aad)
				nonce, aad = number.put(nonce, atEnd), extra.put(aad, atEnd)
				in, out := src.put(text, atEnd), dst.put(make([]byte, n+16), atEnd)
				withFaults(t, what, func() {
					if got := a.Seal(out[:0], nonce, in, aad); !bytes.Equal(got, want) {
						t.Errorf("%s: Seal differs", what)
					}
				})
				in, out = src.put(want, atEnd), dst.put(make([]byte, n), atEnd)
				withFaults(t, what, func() {
					if got, err := a.Open(out[:0], nonce, in, aad); err != nil || !bytes.Equal(got, text) {
						t.Errorf("%s: Open differs: %v", what, err)
					}
				})
			}
		}
	})
}

// TestGuardFaults holds that the guard pages do guard.
func TestGuardFaults(t *testing.T) {
	g := newGuarded(t, 1)
	for name, at := range map[string]int{"before": -1, "after": len(g)} {
		if fault(func() { *byteAt(g, at) = 1 }) == nil {
			t.Errorf("the byte %s guarded memory can be written", name)
		}
	}
}

func withFaults(t *testing.T, what string, call func()) {
	t.Helper()
	if err := fault(call); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// fault makes a call and returns what it panicked with, or the fault.
func fault(call func()) (err any) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { err = recover() }()
	call()
	return nil
}

// byteAt is &g[i] for any i.
func byteAt(g guarded, i int) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(&g[0]), i)) }
