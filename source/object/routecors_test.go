package object

import (
	"strings"
	"testing"
)

func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://www.example.com:443", "http://*.a:8080", "https://*", "http://[fd00::1]:80", "http://a:0", "ftp://a", "http://a:+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out, ok := canonicalOrigin(s)
		if !ok {
			return
		}
		if again, ok := canonicalOrigin(out); !ok || again != out {
			t.Errorf("%q becomes %q, and that %q (%v)", s, out, again, ok)
		}
		if strings.ContainsAny(out, " ,\r\n\t/?#@") && strings.Count(out, "/") != 2 || strings.ToLower(out) != out {
			t.Errorf("%q becomes %q, which no browser sends", s, out)
		}
	})
}

func TestIntersect(t *testing.T) {
	tests := []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "c.b", false},
		{"a.b", "*.b", true},
		{"b", "*.b", false},
		{"x.a.b", "*.b", true},
		{"*.a.b", "*.b", true},
		{"*.a.b", "*.c.b", false},
		{"xb", "*.b", false},
	}
	for _, tt := range tests {
		if got := intersect(tt.a, tt.b); got != tt.want || intersect(tt.b, tt.a) != tt.want {
			t.Errorf("intersect(%q, %q) = %v, want %v both ways", tt.a, tt.b, got, tt.want)
		}
	}
}
