package record

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// pair is a sender and a receiver with the same keys.
func pair(t testing.TB, id uint16, client bool) (*Sealer, *Opener) {
	t.Helper()
	su, ok := suiteOf(id)
	if !ok {
		t.Fatalf("suite %#x is unknown", id)
	}
	secret := bytes.Repeat([]byte{7}, su.hash().Size())
	k, err := newKeys(su, secret)
	if err != nil {
		t.Fatal(err)
	}
	k2, err := newKeys(su, bytes.Clone(secret))
	if err != nil {
		t.Fatal(err)
	}
	return &Sealer{keys: k, limit: maxRecords}, &Opener{keys: k2, client: client}
}

// roomy is b with room for the byte that Seal wants.
func roomy(b []byte) []byte { return append(make([]byte, 0, len(b)+1), b...) }

func seal(t testing.TB, s *Sealer, b []byte) []byte {
	t.Helper()
	out, err := s.Seal(nil, roomy(b))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The traffic secrets, keys and IVs of RFC 8448 section 3.
func TestKeysOfRFC8448(t *testing.T) {
	for name, v := range map[string]struct{ secret, key, iv string }{
		"server": {
			"a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43",
			"9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56", "cf 78 2b 88 dd 83 54 9a ad f1 e9 84",
		},
		"client": {
			"9e 40 64 6c e7 9a 7f 9d c0 5a f8 88 9b ce 65 52 87 5a fa 0b 06 df 00 87 f7 92 eb b7 c1 75 04 a5",
			"17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51", "5b 78 92 3d ee 08 57 90 33 e5 23 d9",
		},
	} {
		t.Run(name, func(t *testing.T) {
			su, _ := suiteOf(tls.TLS_AES_128_GCM_SHA256)
			k, err := newKeys(su, unhex(t, v.secret))
			if err != nil {
				t.Fatal(err)
			}
			if got := k.iv[:]; !bytes.Equal(got, unhex(t, v.iv)) {
				t.Errorf("iv %x, want %s", got, v.iv)
			}
			key, err := k.expand(k.secret, "key", 16)
			if err != nil || !bytes.Equal(key, unhex(t, v.key)) {
				t.Errorf("key %x, %v; want %s", key, err, v.key)
			}
		})
	}
}

func TestSealAndOpen(t *testing.T) {
	for _, id := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384} {
		t.Run(tls.CipherSuiteName(id), func(t *testing.T) {
			s, o := pair(t, id, false)
			rng := rand.New(rand.NewPCG(1, 2))
			var sent, wire, got []byte
			for _, n := range []int{1, 13, 100, maxPlain - 1, maxPlain, maxPlain + 1, 2 * maxPlain, 100000} {
				b := make([]byte, n)
				for i := range b {
					b[i] = byte(rng.Uint32())
				}
				kept := bytes.Clone(b)
				r := append(roomy(b), 0xaa)
				out, err := s.Seal(wire, r[:n])
				if err != nil {
					t.Fatal(err)
				}
				wire = out
				if !bytes.Equal(r[:n], kept) || r[n] != 0xaa {
					t.Fatalf("sealing %d bytes changed them, or the byte behind", n)
				}
				sent = append(sent, kept...)
			}
			// In pieces that end anywhere.
			var waiting []byte
			for len(wire) > 0 {
				n := min(len(wire), 1+rng.IntN(30000))
				waiting = append(waiting, wire[:n]...)
				wire = wire[n:]
				var used int
				var err error
				if got, used, err = o.Open(got, waiting); err != nil {
					t.Fatal(err)
				}
				waiting = waiting[used:]
			}
			if !bytes.Equal(got, sent) || len(waiting) > 0 {
				t.Errorf("got %d bytes, want %d equal ones; %d are left over", len(got), len(sent), len(waiting))
			}
		})
	}
}

// raw seals a record of any type and padding.
func raw(t *testing.T, s *Sealer, typ byte, content string, padding int) []byte {
	t.Helper()
	inner := append([]byte(content), typ)
	inner = append(inner, make([]byte, padding)...)
	size := len(inner) + tagLen
	head := []byte{typeData, 3, 3, byte(size >> 8), byte(size)}
	return s.aead.Seal(head, s.next(), inner, head[:headerLen:headerLen])
}

func TestWhatPeersMaySend(t *testing.T) {
	for _, tc := range []struct {
		name   string
		client bool
		wire   func(t *testing.T, s *Sealer) []byte
		want   string
		err    error
	}{
		{"padding", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeData, "hello", 300) }, "hello", nil},
		{"close", false, func(t *testing.T, s *Sealer) []byte {
			b := seal(t, s, []byte("bye"))
			b, err := s.Close(b)
			if err != nil {
				t.Fatal(err)
			}
			return append(b, "what comes after does not count"...)
		}, "bye", io.EOF},
		{"cancel", false, func(t *testing.T, s *Sealer) []byte {
			return append(raw(t, s, typeAlert, "\x01\x5a", 0), raw(t, s, typeAlert, "\x01\x00", 0)...)
		}, "", io.EOF},
		{"alert", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeAlert, "\x02\x28", 0) }, "", &RemoteError{40}},
		{"short-alert", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeAlert, "\x02", 0) }, "", alertDecodeError},
		{"ticket", true, func(t *testing.T, s *Sealer) []byte {
			ticket := "\x04\x00\x01\x00" + strings.Repeat("t", 256)
			b := raw(t, s, typeHandshake, ticket[:100], 0) // in two records
			b = append(b, raw(t, s, typeHandshake, ticket[100:], 0)...)
			return append(b, seal(t, s, []byte("data"))...)
		}, "data", nil},
		{"ticket-from-client", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeHandshake, "\x04\x00\x00\x00", 0) }, "", alertUnexpectedMessage},
		{"huge-message", true, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeHandshake, "\x04\xff\xff\xff", 0) }, "", alertIllegalParameter},
		{"hello", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeHandshake, "\x01\x00\x00\x00", 0) }, "", alertUnexpectedMessage},
		{"data-inside-message", true, func(t *testing.T, s *Sealer) []byte {
			return append(raw(t, s, typeHandshake, "\x04\x00\x01\x00", 0), seal(t, s, []byte("x"))...)
		}, "", alertUnexpectedMessage},
		{"empty-message", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeHandshake, "", 0) }, "", alertUnexpectedMessage},
		{"update-with-more", false, func(t *testing.T, s *Sealer) []byte {
			return raw(t, s, typeHandshake, "\x18\x00\x00\x01\x00\x18\x00\x00\x01\x00", 0)
		}, "", alertUnexpectedMessage},
		{"update-2", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeHandshake, "\x18\x00\x00\x01\x02", 0) }, "", alertIllegalParameter},
		{"update-long", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeHandshake, "\x18\x00\x00\x02\x00\x00", 0) }, "", alertDecodeError},
		{"unknown-type", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, 99, "x", 0) }, "", alertUnexpectedMessage},
		{"zeros", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, 0, "\x00\x00", 5) }, "", alertUnexpectedMessage},
		{"too-much", false, func(t *testing.T, s *Sealer) []byte { return raw(t, s, typeData, strings.Repeat("x", maxPlain+1), 0) }, "", alertRecordOverflow},
		{"plain-alert", false, func(*testing.T, *Sealer) []byte { return []byte{21, 3, 3, 0, 2, 1, 0} }, "", alertUnexpectedMessage},
		{"ccs", false, func(*testing.T, *Sealer) []byte { return []byte{20, 3, 3, 0, 1, 1} }, "", alertUnexpectedMessage},
		{"version", false, func(*testing.T, *Sealer) []byte { return []byte{23, 3, 4, 0, 20} }, "", alertUnexpectedMessage},
		{"oversized", false, func(*testing.T, *Sealer) []byte { return []byte{23, 3, 3, 0x41, 1} }, "", alertRecordOverflow},
		{"no-room-for-a-tag", false, func(*testing.T, *Sealer) []byte { return append([]byte{23, 3, 3, 0, 16}, make([]byte, 16)...) }, "", alertBadRecordMAC},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, o := pair(t, tls.TLS_AES_128_GCM_SHA256, tc.client)
			got, _, err := o.Open(nil, tc.wire(t, s))
			if string(got) != tc.want || fmt.Sprint(err) != fmt.Sprint(tc.err) {
				t.Errorf("Open = %q, %v; want %q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

// Records that bring nothing are borne for a while.
func TestUselessRecords(t *testing.T) {
	s, o := pair(t, tls.TLS_AES_128_GCM_SHA256, false)
	for round := range 3 {
		for i := range maxUseless {
			if _, _, err := o.Open(nil, raw(t, s, typeData, "", 0)); err != nil {
				t.Fatalf("round %d, empty record %d: %v", round, i, err)
			}
		}
		if _, _, err := o.Open(nil, seal(t, s, []byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for range maxUseless + 1 {
		_, _, err = o.Open(nil, raw(t, s, typeData, "", 0))
	}
	if err != alertUnexpectedMessage {
		t.Errorf("after %d of them: %v", maxUseless+1, err)
	}
}

func TestKeyUpdate(t *testing.T) {
	s, o := pair(t, tls.TLS_AES_128_GCM_SHA256, false)
	s.limit = 3 // records
	var wire []byte
	for i := range 20 {
		wire = append(wire, seal(t, s, fmt.Appendf(nil, "message %02d;", i))...)
	}
	got, used, err := o.Open(nil, wire)
	if err != nil || used != len(wire) || bytes.Count(got, []byte("message")) != 20 {
		t.Fatalf("Open = %q, %d of %d, %v", got, used, len(wire), err)
	}
	if bytes.Equal(o.secret, bytes.Repeat([]byte{7}, 32)) || o.Asked {
		t.Errorf("after six updates the secret is the first one, or an answer is asked for (%v)", o.Asked)
	}
	if err := s.update(); err != nil { // one of which the receiver hears nothing
		t.Fatal(err)
	}
	if _, _, err := o.Open(nil, seal(t, s, []byte("x"))); err != alertBadRecordMAC {
		t.Errorf("a record of the next keys: %v", err)
	}
	s, o = pair(t, tls.TLS_AES_128_GCM_SHA256, false)
	if _, _, err := o.Open(nil, raw(t, s, typeHandshake, "\x18\x00\x00\x01\x01", 0)); err != nil || !o.Asked {
		t.Errorf("an update that asks for one: %v, asked %v", err, o.Asked)
	}
}

// No bit of a record can be changed, no record left out, repeated or moved.
func TestTampering(t *testing.T) {
	s, _ := pair(t, tls.TLS_AES_128_GCM_SHA256, false)
	first, second := seal(t, s, []byte("the first")), seal(t, s, []byte("the second"))
	for i := range first {
		for bit := range 8 {
			_, o := pair(t, tls.TLS_AES_128_GCM_SHA256, false)
			b := bytes.Clone(first)
			b[i] ^= 1 << bit
			got, used, err := o.Open(nil, b)
			if len(got) > 0 || (err == nil && used > 0) {
				t.Fatalf("bit %d of byte %d: Open = %q, %d, %v", bit, i, got, used, err)
			}
		}
	}
	for name, wire := range map[string][][]byte{
		"left out": {second}, "repeated": {first, first}, "moved": {second, first},
	} {
		_, o := pair(t, tls.TLS_AES_128_GCM_SHA256, false)
		if _, _, err := o.Open(nil, bytes.Join(wire, nil)); err != alertBadRecordMAC {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	var next bytes.Buffer
	s := Secrets{Next: &next}
	lines := "CLIENT_HANDSHAKE_TRAFFIC_SECRET 00 aa\nCLIENT_TRAFFIC_SECRET_0 00 0102\nSERVER_TRAFFIC_SECRET_0 00 0304\n"
	for line := range strings.Lines(lines) {
		if n, err := s.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", line, n, err)
		}
	}
	if !bytes.Equal(s.client, []byte{1, 2}) || !bytes.Equal(s.server, []byte{3, 4}) || next.String() != lines {
		t.Errorf("client %x, server %x, passed on %q", s.client, s.server, next.String())
	}
	if _, err := s.Write([]byte("CLIENT_TRAFFIC_SECRET_0 00 xyz\n")); err == nil {
		t.Error("a secret that is not hexadecimal was taken")
	}
	good := Secrets{client: make([]byte, 32), server: make([]byte, 32)}
	for name, tc := range map[string]struct {
		cs tls.ConnectionState
		s  Secrets
		ok bool
	}{
		"good":       {tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, good, true},
		"chacha":     {tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_CHACHA20_POLY1305_SHA256}, good, false},
		"no-secrets": {tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, Secrets{}, false},
		"version":    {tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, good, false},
	} {
		if _, _, ok, err := New(true, &tc.cs, &tc.s); ok != tc.ok || err != nil {
			t.Errorf("%s: New = %v, %v; want %v", name, ok, err, tc.ok)
		}
	}
	short := Secrets{client: make([]byte, 4), server: make([]byte, 4)}
	if _, _, _, err := New(true, &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}, &short); !errors.Is(err, errSecrets) {
		t.Errorf("short secrets: %v", err)
	}
}

// FuzzOpen: whatever a peer with the keys sends, inside its records and
// outside of them, Open ends, stays in bounds and takes nothing for more.
func FuzzOpen(f *testing.F) {
	f.Add(byte(typeData), []byte("hello"), 3, []byte{23, 3, 3, 0, 1})
	f.Add(byte(typeHandshake), []byte{24, 0, 0, 1, 1}, 0, []byte{})
	f.Add(byte(typeHandshake), []byte{4, 0, 0, 9, 1}, 0, []byte{21, 3, 3})
	f.Add(byte(typeAlert), []byte{1, 0}, 0, []byte("x"))
	f.Fuzz(func(t *testing.T, typ byte, content []byte, padding int, after []byte) {
		if padding < 0 || padding > 1000 || len(content) > maxPlain {
			return
		}
		s, o := pair(t, tls.TLS_AES_128_GCM_SHA256, len(after)%2 == 0)
		wire := append(raw(t, s, typ, string(content), padding), after...)
		out, used, err := o.Open([]byte("before"), wire)
		if used > len(wire) || !bytes.HasPrefix(out, []byte("before")) || len(out) > len("before")+len(content) {
			t.Fatalf("Open = %q, %d of %d, %v", out, used, len(wire), err)
		}
		if typ == typeData && len(content) > 0 && content[len(content)-1] != 0 && !bytes.Equal(out[6:], content) {
			t.Fatalf("got %q, want %q", out[6:], content)
		}
	})
}

func TestAllocations(t *testing.T) {
	s, o := pair(t, tls.TLS_AES_128_GCM_SHA256, false)
	b, wire, out := make([]byte, 40000, 40001), make([]byte, 0, 50000), make([]byte, 0, 50000)
	if n := testing.AllocsPerRun(100, func() {
		w, err := s.Seal(wire, b)
		if err != nil {
			t.Fatal(err)
		}
		if _, used, err := o.Open(out, w); err != nil || used != len(w) {
			t.Fatal(used, err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for three records there and back", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	for _, size := range []int{100, 1200, maxPlain} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, o := pair(b, tls.TLS_AES_128_GCM_SHA256, false)
			p, wire, out := make([]byte, size, size+1), make([]byte, 0, 50000), make([]byte, 0, 50000)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				w, _ := s.Seal(wire, p)
				if _, _, err := o.Open(out, w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
