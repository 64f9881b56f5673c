package h1

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/mesh"
)

// decode feeds b to a new decoder in pieces of at most step bytes, and returns
// the content, what was left over, and whether the end was reached.
func decode(b []byte, step int, lim *Limits) (data string, trailers mesh.Fields, rest []byte, done bool, err error) {
	var d ChunkDecoder
	d.Reset(lim)
	for len(b) > 0 && !done {
		var piece []byte
		var n int
		piece, n, done, err = d.Next(b[:min(step, len(b))])
		data += string(piece)
		b = b[n:]
		if err != nil {
			return data, nil, b, false, err
		}
	}
	return data, d.Trailers, b, done, nil
}

func TestChunkDecoder(t *testing.T) {
	fields := func(kv ...string) (f mesh.Fields) {
		for i := 0; i < len(kv); i += 2 {
			f.Add(kv[i], kv[i+1])
		}
		return f
	}
	tests := []struct {
		name, in, data, rest string
		trailers             mesh.Fields
	}{
		{"empty", "0\r\n\r\nGET", "", "GET", nil},
		{"zeros", "0000000000000000\r\n\r\n", "", "", nil},
		{"one", "3\r\nabc\r\n0\r\n\r\n", "abc", "", nil},
		{"hex", "A\r\n0123456789\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n\r\n", "0123456789abcdefghijklmnopqrstuvwxyz", "\r\n", nil},
		{"leading-zeros", "0000000000000003\r\nabc\r\n0\r\n\r\n", "abc", "", nil},
		{"extensions", "3;a=b;c=\"d\tx\" \r\nabc\r\n0;x\r\n\r\n", "abc", "", nil},
		{"data-of-crlf", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", "", nil},
		{"trailers", "0\r\nGrpc-Status:  0 \r\nx:\r\n\r\nrest", "", "rest", fields("grpc-status", "0", "x", "")},
		{"trailers-dropped", "0\r\nContent-Length: 5\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAuthorization: x\r\nSet-Cookie: y\r\nX-Forwarded-For: z\r\nok: 1\r\n\r\n", "", "", fields("ok", "1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 2, 3, 1 << 20} {
				data, trailers, rest, done, err := decode([]byte(tt.in), step, nil)
				if err != nil || !done {
					t.Fatalf("step %d: done %v, error %v", step, done, err)
				}
				if data != tt.data || string(rest) != tt.rest {
					t.Errorf("step %d: data %q, rest %q; want %q, %q", step, data, rest, tt.data, tt.rest)
				}
				if diff := cmp.Diff(tt.trailers, trailers); diff != "" {
					t.Errorf("step %d: trailers (-want +got):\n%s", step, diff)
				}
			}
		})
	}
}

func TestChunkDecoderRefuses(t *testing.T) {
	ext := func(n int) string { return "1;" + strings.Repeat("x", n) + "\r\na\r\n" }
	tests := []struct {
		name, in string
		want     error
	}{
		{"no-size", "\r\n", errChunkSize},
		{"sign", "+1\r\na\r\n", errChunkSize},
		{"minus", "-1\r\na\r\n", errChunkSize},
		{"prefix", "0x1\r\na\r\n", errChunkSize},
		{"digit", "g\r\n", errChunkSize},
		{"underscore", "1_0\r\n", errChunkSize},
		{"space-before", " 1\r\na\r\n", errChunkSize},
		{"space-after", "1 \r\na\r\n", errChunkSize},
		{"space-ext", "1 ;x\r\na\r\n", errChunkSize},
		{"overflow", "8000000000000000\r\n", errChunkSize},
		{"overflow-wraps", "10000000000000001\r\na\r\n", errChunkSize},
		{"many-zeros", "00000000000000000\r\n", errChunkSize},
		{"bare-lf", "1\na\r\n", errChunkSize},
		{"bare-cr", "1\ra\r\n", errBareLine},
		{"cr-cr-lf", "1\r\r\na\r\n", errBareLine},
		{"ext-bare-lf", "1;\na\r\n", errChunkExt},
		{"ext-bare-cr", "1;a\rb\r\na\r\n", errBareLine},
		{"ext-nul", "1;\x00\r\na\r\n", errChunkExt},
		{"ext-high", "1;\xff\r\na\r\n", errChunkExt},
		{"ext-long", ext(maxChunkExt + 1), errChunkExt},
		{"ext-total", strings.Repeat(ext(maxChunkExt), 40), errChunkExt},
		{"data-long", "1\r\nab\r\n", errChunkEnd},
		{"data-lf", "1\r\na\n0\r\n\r\n", errChunkEnd},
		{"data-cr", "1\r\na\r0\r\n\r\n", errChunkEnd},
		{"data-end-missing", "1\r\na0\r\n\r\n", errChunkEnd},
		{"trailer-lf", "0\r\na: b\n\r\n", errBareLine},
		{"end-lf", "0\r\n\n", errBareLine},
		{"trailer-end-lf", "0\r\na: b\r\n\n", errBareLine},
		{"trailer-fold", "0\r\na: b\r\n c\r\n\r\n", errFieldFold},
		{"trailer-space", "0\r\na : b\r\n\r\n", errFieldName},
		{"trailer-nul", "0\r\na: \x00\r\n\r\n", errFieldValue},
		{"trailer-cr", "0\r\na: b\rc\r\n\r\n", errBareLine},
		{"trailer-request", "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", errFieldName},
		{"trailer-large", "0\r\na: " + strings.Repeat("b", 16<<10) + "\r\n\r\n", errTrailerSize},
		{"trailer-many", "0\r\n" + strings.Repeat("a: b\r\n", 101) + "\r\n", errFieldCount},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 7, 1 << 20} {
				if _, _, _, done, err := decode([]byte(tt.in), step, nil); done || !errors.Is(err, tt.want) {
					t.Errorf("step %d: done %v, error %v, want %v", step, done, err, tt.want)
				}
			}
		})
	}
}

func TestChunkDecoderErrorStays(t *testing.T) {
	var d ChunkDecoder
	if _, _, _, err := d.Next([]byte("x")); !errors.Is(err, errChunkSize) {
		t.Fatalf("error %v", err)
	}
	if data, n, done, err := d.Next([]byte("0\r\n\r\n")); !errors.Is(err, errChunkSize) || n != 0 || done || data != nil {
		t.Errorf("after an error: %q, %d, %v, %v", data, n, done, err)
	}
	d.Reset(nil)
	if _, n, done, err := d.Next([]byte("0\r\n\r\nx")); err != nil || n != 5 || !done {
		t.Errorf("after Reset: %d, %v, %v", n, done, err)
	}
}

func TestBody(t *testing.T) {
	tests := []struct {
		name, in   string
		f          Framing
		data, rest string
		done       bool
		end        error
	}{
		{"none", "x", Framing{}, "", "x", true, nil},
		{"no-body", "x", Framing{Length: 5, NoBody: true}, "", "x", true, nil},
		{"length", "abcdef", Framing{Length: 4}, "abcd", "ef", true, nil},
		{"length-short", "abc", Framing{Length: 4}, "abc", "", false, ErrUnexpectedEnd},
		{"until-close", "abc", Framing{Length: UntilClose}, "abc", "", false, nil},
		{"chunked", "1\r\na\r\n0\r\n\r\nx", Framing{Length: Chunked}, "a", "x", true, nil},
		{"chunked-short", "1\r\na\r\n0\r\n", Framing{Length: Chunked}, "a", "", false, ErrUnexpectedEnd},
	}
	var d Body
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d.Reset(tt.f, nil)
			b, data := []byte(tt.in), ""
			for {
				piece, n, done, err := d.Next(b)
				if err != nil {
					t.Fatal(err)
				}
				data += string(piece)
				if b = b[n:]; done || len(b) == 0 {
					if done != tt.done || data != tt.data || string(b) != tt.rest {
						t.Errorf("data %q, rest %q, done %v; want %q, %q, %v", data, b, done, tt.data, tt.rest, tt.done)
					}
					break
				}
			}
			if err := d.End(); !errors.Is(err, tt.end) {
				t.Errorf("End: %v, want %v", err, tt.end)
			}
		})
	}
}
