package sni

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// hello records what crypto/tls sends first.
func hello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	c := &capture{}
	cfg.InsecureSkipVerify = cfg.ServerName == ""
	_ = tls.Client(c, cfg).HandshakeContext(context.Background())
	if c.Len() == 0 {
		t.Fatal("crypto/tls sent nothing")
	}
	return c.Bytes()
}

type capture struct{ bytes.Buffer }

func (*capture) Read([]byte) (int, error)         { return 0, errors.New("nobody is there") }
func (*capture) Close() error                     { return nil }
func (*capture) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*capture) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*capture) SetDeadline(time.Time) error      { return nil }
func (*capture) SetReadDeadline(time.Time) error  { return nil }
func (*capture) SetWriteDeadline(time.Time) error { return nil }

// split cuts the one record of a hello into records of n bytes.
func split(b []byte, n int) []byte {
	var out []byte
	for body := b[headerLen:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, typeHandshake, 3, 1, byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

// vec is a vector with a length of size bytes.
func vec(size int, parts ...[]byte) []byte {
	b := bytes.Join(parts, nil)
	out := make([]byte, 8)
	binary.BigEndian.PutUint64(out, uint64(len(b)))
	return append(out[8-size:], b...)
}

func ext(typ uint16, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, typ), vec(2, body)...)
}

func nameExt(name string) []byte {
	return ext(extServerName, vec(2, append([]byte{nameIsHostname}, vec(2, []byte(name))...)))
}

// made is a ClientHello with these extensions; nil leaves them out.
func made(exts []byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, vec(1, make([]byte, 32))...)
	body = append(body, vec(2, []byte{0x13, 1, 0x2a, 0x2a})...)
	body = append(body, vec(1, []byte{0})...)
	if exts != nil {
		body = append(body, vec(2, exts)...)
	}
	return record(append([]byte{clientHello}, vec(3, body)...))
}

func record(msg []byte) []byte { return append([]byte{typeHandshake, 3, 1}, vec(2, msg)...) }

func join(b ...[]byte) []byte { return bytes.Join(b, nil) }

func TestRead(t *testing.T) {
	web := hello(t, &tls.Config{ServerName: "Web.Example.com"})
	old := hello(t, &tls.Config{ServerName: "a.example.com", MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	nameless := hello(t, &tls.Config{})
	grease := ext(0x0a0a, nil)
	ech := ext(0xfe0d, make([]byte, 300))
	long := strings.Repeat(strings.Repeat("a", 61)+".", 4) + "abc"
	for _, tc := range []struct {
		name string
		b    []byte
		want string
		err  error
	}{
		{"tls-1.3", web, "web.example.com", nil},
		{"tls-1.2", old, "a.example.com", nil},
		{"no-name", nameless, "", nil},
		{"no-extensions", made(nil), "", nil},
		{"empty-extensions", made([]byte{}), "", nil},
		{"grease-and-ech", made(join(grease, nameExt("outer.example"), ech, grease)), "outer.example", nil},
		{"more-behind", append(web[:len(web):len(web)], "rest"...), "web.example.com", nil},
		{"in-two", split(web, 100), "web.example.com", nil},
		{"three-bytes-first", append(record(web[5:8]), record(web[8:])...), "web.example.com", nil},
		{"in-32", split(web, len(web)/31), "web.example.com", nil},
		{"in-too-many", split(web, 3), "", ErrTooLong},
		{"underscore", made(nameExt("a_b.example")), "a_b.example", nil},
		{"longest", made(nameExt(long)), long, nil},

		{"nothing", nil, "", ErrMore},
		{"one-byte", web[:1], "", ErrMore},
		{"header", web[:5], "", ErrMore},
		{"all-but-one", web[:len(web)-1], "", ErrMore},
		{"http", []byte("GET / HTTP/1.1\r\n"), "", ErrNotTLS},
		{"ssh", []byte("SSH-2.0-x"), "", ErrNotTLS},
		{"tls-data", []byte{23, 3, 3, 0, 1, 0}, "", ErrNotTLS},
		{"ssl-2", []byte{0x80, 0x2e, 1, 0, 2}, "", ErrNotTLS},
		{"version-9", []byte{22, 9, 1, 0, 1, 1}, "", ErrNotTLS},
		{"empty-record", []byte{22, 3, 1, 0, 0}, "", ErrMalformed},
		{"large-record", []byte{22, 3, 1, 0x40, 1, 1}, "", ErrMalformed},
		{"server-hello", record([]byte{2, 0, 0, 0}), "", ErrMalformed},
		{"alert-inside", append(record(web[5:50]), 21, 3, 3, 0, 2, 1, 0), "", ErrMalformed},
		{"too-long", record([]byte{clientHello, 0, 0x40, 0}), "", ErrTooLong},
		{"endless", record([]byte{clientHello, 0xff, 0xff, 0xff}), "", ErrTooLong},
		{"cut-short", record([]byte{clientHello, 0, 0, 2, 3, 3}), "", ErrMalformed},
		{"two-names", made(join(nameExt("a.example"), nameExt("b.example"))), "", ErrMalformed},
		{"two-in-one", made(ext(0, vec(2, []byte{0}, vec(2, []byte("a")), []byte{0}, vec(2, []byte("b"))))), "", ErrMalformed},
		{"other-type", made(ext(0, vec(2, []byte{1}, vec(2, []byte("a"))))), "", ErrMalformed},
		{"empty-list", made(ext(0, vec(2))), "", ErrMalformed},
		{"empty-ext", made(ext(0, nil)), "", ErrMalformed},
		{"empty-name", made(nameExt("")), "", ErrMalformed},
		{"trailing-dot", made(nameExt("a.example.")), "", ErrMalformed},
		{"leading-dot", made(nameExt(".example")), "", ErrMalformed},
		{"two-dots", made(nameExt("a..example")), "", ErrMalformed},
		{"nul", made(nameExt("a.example\x00.evil")), "", ErrMalformed},
		{"space", made(nameExt("a b")), "", ErrMalformed},
		{"wildcard", made(nameExt("*.example")), "", ErrMalformed},
		{"umlaut", made(nameExt("ä.example")), "", ErrMalformed},
		{"long-label", made(nameExt(strings.Repeat("a", 64))), "", ErrMalformed},
		{"long-name", made(nameExt(long + "abcdefghi")), "", ErrMalformed},
		{"extension-cut", made([]byte{0, 0, 0}), "", ErrMalformed},
		{"extension-overrun", made([]byte{0, 9, 0, 5, 1}), "", ErrMalformed},
		{"bytes-after", func() []byte {
			b := made([]byte{})
			msg := append(b[5:], 1)
			msg[3]++
			return record(msg)
		}(), "", ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Read(tc.b)
			if got != tc.want || err != tc.err {
				t.Errorf("Read = %q, %v; want %q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

// However the bytes of a hello come, the answer is the same, and is not given early.
func TestReadByPieces(t *testing.T) {
	for _, b := range [][]byte{hello(t, &tls.Config{ServerName: "web.example.com"}), split(hello(t, &tls.Config{ServerName: "web.example.com"}), 90)} {
		for n := range len(b) {
			if name, err := Read(b[:n]); err != ErrMore {
				t.Fatalf("after %d of %d bytes: %q, %v", n, len(b), name, err)
			}
		}
		if name, err := Read(b); name != "web.example.com" || err != nil {
			t.Fatalf("at the end: %q, %v", name, err)
		}
	}
}

// MaxBytes are always enough to decide.
func TestMaxBytes(t *testing.T) {
	msg := append([]byte{clientHello, 0, 0x3f, 0xfc}, make([]byte, MaxHello-4)...)
	b := split(append(make([]byte, headerLen), msg...), MaxHello/maxRecords)
	if len(b) != MaxBytes {
		t.Fatalf("the longest hello has %d bytes", len(b))
	}
	if _, err := Read(b); err == ErrMore {
		t.Error("MaxBytes bytes are not enough")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(hello(f, &tls.Config{ServerName: "web.example.com"}))
	f.Add(split(hello(f, &tls.Config{ServerName: "web.example.com"}), 200))
	f.Add(made(join(nameExt("a.example"), ext(0xfe0d, make([]byte, 10)))))
	f.Fuzz(func(t *testing.T, b []byte) {
		was := bytes.Clone(b)
		name, err := Read(b)
		if !bytes.Equal(b, was) {
			t.Fatal("the bytes were changed")
		}
		if err == ErrMore && len(b) >= MaxBytes {
			t.Fatal("more is asked for than there may be")
		}
		if err != nil {
			return
		}
		if name != strings.ToLower(name) || strings.ContainsAny(name, " *\x00") || strings.HasSuffix(name, ".") {
			t.Fatalf("name %q", name)
		}
		// crypto/tls, where it understands the hello, finds the same name.
		var theirs *string
		srv := tls.Server(&replay{b: b}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs = &h.ServerName
			return nil, errors.New("enough")
		}})
		_ = srv.Handshake()
		if theirs != nil && !strings.EqualFold(*theirs, name) {
			t.Fatalf("Read says %q, crypto/tls %q", name, *theirs)
		}
	})
}

type replay struct {
	capture
	b []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, errors.New("no more")
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func BenchmarkRead(b *testing.B) {
	h := hello(b, &tls.Config{ServerName: "web.example.com"})
	b.ReportAllocs()
	for b.Loop() {
		_, _ = Read(h)
	}
}
