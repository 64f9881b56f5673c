package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadHeader(t *testing.T) {
	mask := "\x01\x02\x03\x04"
	tests := []struct {
		name, in string
		want     header
		wantErr  string
	}{
		{"text", "\x81\x85" + mask, header{fin: true, op: opText, length: 5}, ""},
		{"begin", "\x02\x80" + mask, header{op: opBinary}, ""},
		{"two-bytes", "\x82\xfe\x00\x7e" + mask, header{fin: true, op: opBinary, length: 126}, ""},
		{"eight-bytes", "\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00" + mask, header{fin: true, op: opBinary, length: 65536}, ""},
		{"ping", "\x89\xfd" + mask, header{fin: true, op: opPing, length: 125}, ""},

		{"reserved-bit", "\xc1\x80" + mask, header{}, "reserved bit"},
		{"opcode-3", "\x83\x80" + mask, header{}, "unknown opcode"},
		{"opcode-b", "\x8b\x80" + mask, header{}, "unknown opcode"},
		{"unmasked", "\x81\x00", header{}, "not masked"},
		{"ping-fragment", "\x09\x80" + mask, header{}, "control frame"},
		{"ping-long", "\x89\xfe\x00\x7e" + mask, header{}, "control frame"},
		{"not-minimal-2", "\x82\xfe\x00\x7d" + mask, header{}, "length"},
		{"not-minimal-8", "\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff" + mask, header{}, "length"},
		{"negative", "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00" + mask, header{}, "length"},
		{"cut", "\x82\xff\x00", header{}, "EOF"},
		{"cut-mask", "\x82\x80\x00", header{}, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readHeader(bufio.NewReader(strings.NewReader(tt.in)))
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error %v, want one with %q", err, tt.wantErr)
				}
				return
			}
			copy(tt.want.mask[:], mask)
			if err != nil || got != tt.want {
				t.Errorf("readHeader = %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestUnmask(t *testing.T) {
	mask := [4]byte{1, 2, 3, 4}
	whole := []byte("a text that is longer than the mask")
	parts := bytes.Clone(whole)
	unmask(mask, 0, whole)
	at := 0
	for i := 0; i < len(parts); i += 3 {
		at = unmask(mask, at, parts[i:min(i+3, len(parts))])
	}
	if !bytes.Equal(whole, parts) {
		t.Errorf("unmasked in parts %q, as a whole %q", parts, whole)
	}
}

func TestCloseReply(t *testing.T) {
	tests := []struct {
		name, payload string
		want          uint16
	}{
		{"empty", "", codeNoStatus},
		{"normal", "\x03\xe8bye", codeNormal},
		{"private", "\x0f\xa0", 4000},
		{"half", "\x03", codeProtocol},
		{"reserved-1005", "\x03\xed", codeProtocol},
		{"reserved-1006", "\x03\xee", codeProtocol},
		{"reserved-1015", "\x03\xf7", codeProtocol},
		{"unassigned", "\x0b\xb7", codeProtocol}, // 2999
		{"reason", "\x03\xe8\xff", codeBadData},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got *closing
			if err := closeReply([]byte(tt.payload)); !errors.As(err, &got) || got.code != tt.want {
				t.Errorf("closeReply(%q) = %v, want code %d", tt.payload, err, tt.want)
			}
		})
	}
}

// FuzzUTF8Check cuts text anywhere and wants the verdict of the whole.
func FuzzUTF8Check(f *testing.F) {
	for _, s := range []string{"", "plain", "κόσμε 🪨", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "🪨\xf0\x9f", "\xf0", "\x80"} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var u utf8Check
		ok := true
		for rest := b; ok; {
			n := rnd.IntN(len(rest) + 1)
			last := n == len(rest)
			ok = u.write(rest[:n], last)
			if rest = rest[n:]; last {
				break
			}
		}
		if want := utf8.Valid(b); ok != want {
			t.Errorf("in pieces %q is valid: %v, want %v", b, ok, want)
		}
	})
}

// FuzzReadHeader reads frames until they end, and wants what section 5 promises
// of each.
func FuzzReadHeader(f *testing.F) {
	f.Add([]byte("\x81\x85\x01\x02\x03\x04hello"))
	f.Add([]byte("\x82\xff\x00\x00\x00\x00\x00\x01\x00\x00abcd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			h, err := readHeader(r)
			if err != nil {
				return
			}
			if h.length>>63 != 0 || h.op > opPong || (h.op >= opClose && (!h.fin || h.length > maxControl)) {
				t.Fatalf("accepted %+v", h)
			}
			if n, err := io.CopyN(io.Discard, r, int64(h.length)); err != nil || uint64(n) != h.length {
				return
			}
		}
	})
}
