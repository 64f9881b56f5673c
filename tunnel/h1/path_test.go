package h1

import (
	"bytes"
	"strings"
	"testing"
)

func TestNormalizePath(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"root", "/", "/"},
		{"plain", "/a/b.c/d", "/a/b.c/d"},
		{"slash-end", "/a/b/", "/a/b/"},
		{"dot", "/a/./b", "/a/b"},
		{"dot-end", "/a/.", "/a/"},
		{"dot-only", "/.", "/"},
		{"dotdot", "/a/b/../c", "/a/c"},
		{"dotdot-end", "/a/b/..", "/a/"},
		{"dotdot-slash", "/a/b/../", "/a/"},
		{"above-root", "/../../a", "/a"},
		{"above-root-only", "/..", "/"},
		{"above-root-late", "/a/../../b/../..", "/"},
		{"three-dots", "/a/.../b", "/a/.../b"},
		{"dot-name", "/a/..b/.c/d..", "/a/..b/.c/d.."},
		{"escaped-dots", "/a/%2e%2E/b", "/b"},
		{"mixed-dots", "/a/.%2e/%2e/b", "/b"},
		{"backslash", "\\a\\b\\..\\c", "/a/c"},
		{"backslash-mixed", "/a/b\\../c", "/a/c"},
		{"unreserved", "/%41%7a%30%2d%2E%5f%7E", "/Az0-._~"},
		{"kept", "/%2f%5C%20%25%3F%23%c3%A9", "/%2f%5C%20%25%3F%23%c3%A9"},
		{"once", "/%252e%252e/a", "/%252e%252e/a"},
		{"no-double", "/a/%25%32%65", "/a/%252e"},
		{"slashes", "//a//b//", "//a//b//"},
		{"slashes-dotdot", "/a//../b", "/a/b"},
		{"slashes-root", "//../a", "/a"},
		{"dot-slashes", "/.//a", "//a"},
		{"odd-bytes", `/"<>^{|}[]@!$&'()*+,;=:` + "`", `/"<>^{|}[]@!$&'()*+,;=:` + "`"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := NormalizePath([]byte(tt.in))
			if err != nil || string(got) != tt.want {
				t.Errorf("NormalizePath(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestNormalizePathRefuses(t *testing.T) {
	for _, in := range []string{"", "a", "%2f", "*", "/%", "/%4", "/%zz", "/%0", "/%00", "/a%4\\", "/ ", "/\t", "/\x7f", "/?", "/#", "/\x80", "/%2 0", "/\n"} {
		if got, err := NormalizePath([]byte(in)); err == nil {
			t.Errorf("NormalizePath(%q) = %q, want an error", in, got)
		}
	}
}

func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/x", "\\..\\", "//.//..//a", "/%25%32%65", "/a/b/c/../../../../d"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := NormalizePath(bytes.Clone(in))
		if err != nil {
			return
		}
		if len(got) > len(in) || got[0] != '/' || bytes.IndexByte(got, '\\') >= 0 {
			t.Fatalf("%q became %q", in, got)
		}
		for s := range strings.SplitSeq(string(got), "/") {
			if s = strings.ToLower(s); s == "." || s == ".." || strings.Contains(s, "%2e") {
				t.Fatalf("%q became %q, with a dot segment", in, got)
			}
		}
		again, err := NormalizePath(bytes.Clone(got))
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%q became %q, then %q, %v", in, got, again, err)
		}
	})
}
