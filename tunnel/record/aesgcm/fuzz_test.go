package aesgcm

import (
	"bytes"
	"testing"
)

// FuzzAgainstStandard holds that whatever is sealed, and whatever is opened,
// comes out as crypto/cipher has it.
func FuzzAgainstStandard(f *testing.F) {
	f.Add([]byte("key"), []byte("nonce"), []byte("text"), []byte("aad"), uint16(0), uint8(0))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{}, uint16(1), uint8(9))
	f.Add(bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{0xff}, 12), []byte("x"), make([]byte, 70), uint16(17_000), uint8(255))
	f.Fuzz(func(t *testing.T, keyBytes, nonceBytes, pattern, aad []byte, length uint16, where uint8) {
		key := make([]byte, 16<<(len(keyBytes)>>4&1))
		copy(key, keyBytes)
		nonce := make([]byte, 12)
		copy(nonce, nonceBytes)
		text := make([]byte, int(length))
		for i := 0; i < len(text) && len(pattern) > 0; i += len(pattern) {
			copy(text[i:], pattern)
		}
		a, std := vector(t, key), standard(t, key)
		compare(t, a, std, nonce, text, aad, place{where&1 == 1, int(where >> 2), int(where>>1) & 63, int(where & 63)})

		// What the fuzzer made is not sealed by anyone, but for the one that
		// crypto/cipher takes as well.
		want, wantErr := std.Open(nil, nonce, pattern, aad)
		got, err := a.Open(nil, nonce, pattern, aad)
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("Open of %x: %x, %v; crypto/cipher: %x, %v", pattern, got, err, want, wantErr)
		}
	})
}
