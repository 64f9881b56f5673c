package h1

import (
	"bytes"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
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
		{"params", "/a;b=c/..a;/d;", "/a;b=c/..a;/d;"},
		{"dots-before-escaped-slash", "/a..%2fb/...%2fc", "/a..%2fb/...%2fc"},
		{"latin-1", "/%c0b/%e0/%c3%80/%e0%a0%80/%f0%90%80%80", "/%c0b/%e0/%c3%80/%e0%a0%80/%f0%90%80%80"},
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
	for _, in := range []string{
		"", "a", "%2f", "*", "/%", "/%4", "/%zz", "/%0", "/%00", "/a%4\\", "/ ", "/\t", "/\x7f", "/?", "/#", "/\x80", "/%2 0", "/\n",
		"/.;", "/..;a", "/a/%2e.;b/c", "/..%2f", "/a/..%2Fb", "/a%2f..", "/a%5c./b", "/a%5C%2e%2e%2fb", "/%20%2f..;a", "/%c0%ae", "/%C1%A1", "/%e0%80%af", "/%f0%80%80%af",
	} {
		if got, err := NormalizePath([]byte(in)); err == nil {
			t.Errorf("NormalizePath(%q) = %q, want an error", in, got)
		}
	}
}

// TestPathLevels compares Istio's levels. "!" is refused.
func TestPathLevels(t *testing.T) {
	for _, tt := range []struct{ name, in, none, base, merge, decode string }{
		{"plain", "/a/b", "/a/b", "/a/b", "/a/b", "/a/b"},
		{"dots", "/a/../b", "/a/../b", "/b", "/b", "/b"},
		{"escaped-dots", "/a/%2e%2e/b", "/a/%2e%2e/b", "/b", "/b", "/b"},
		{"slashes", "//a///b//", "//a///b//", "//a///b//", "/a/b/", "/a/b/"},
		{"slashes-dots", "/a//../b", "/a//../b", "/a/b", "/a/b", "/a/b"},
		{"only-slashes", "////", "////", "////", "/", "/"},
		{"escaped-slash", "/a%2Fb%2fc", "/a%2Fb%2fc", "/a%2Fb%2fc", "/a%2Fb%2fc", "/a/b/c"},
		{"escaped-backslash", "/a%5Cb%5cc", "/a%5Cb%5cc", "/a%5Cb%5cc", "/a%5Cb%5cc", "/a/b/c"},
		{"backslash", "/a\\b\\\\c", "/a\\b\\\\c", "/a/b//c", "/a/b/c", "/a/b/c"},
		{"escaped-slash-dots", "/a%2f..%2Fb", "/a%2f..%2Fb", "!", "!", "/b"},
		{"escaped-slash-escaped-dots", "/a%2f%2e%2e%2Fb", "/a%2f%2e%2e%2Fb", "!", "!", "/b"},
		{"decoded-slashes", "/a%2f/b%2F%2Fc", "/a%2f/b%2F%2Fc", "/a%2f/b%2F%2Fc", "/a%2f/b%2F%2Fc", "/a/b/c"},
		{"twice-escaped", "/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"},
		{"unreserved", "/%41", "/%41", "/A", "/A", "/A"},
		{"parameters", "/..;/a", "/..;/a", "!", "!", "!"},
		{"malformed", "/%zz", "!", "!", "!", "!"},
		{"nul", "/%00", "!", "!", "!", "!"},
		{"overlong", "/%c0%ae", "/%c0%ae", "!", "!", "!"},
		{"backslash-first", "\\a", "!", "/a", "/a", "/a"},
		{"space", "/a b", "!", "!", "!", "!"},
		{"control", "/a\x01", "!", "!", "!", "!"},
		{"non-ascii", "/\xc3\xa9", "!", "!", "!", "!"},
		{"fragment", "/a#b", "!", "!", "!", "!"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for level, want := range map[mesh.PathLevel]string{mesh.PathNone: tt.none, mesh.PathBase: tt.base, mesh.PathMerge: tt.merge, mesh.PathDecode: tt.decode} {
				got, err := NormalizePathAs(level, []byte(tt.in))
				if err != nil {
					got = []byte("!")
				}
				if string(got) != want {
					t.Errorf("%s: %q became %q, %v; want %q", level, tt.in, got, err, want)
				}
			}
		})
	}
}

func FuzzNormalizePath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/x", "\\..\\", "//.//..//a", "/%25%32%65", "/a%2f..b/c", "/..;/a", "/x%5c..", "/%c0%af", "/%e0%a0%80;", "/a/b/c/../../../../d", "/%2f%2F/..%2f/%5c\\//a", "/%252f", "/%%32f"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, level := range []mesh.PathLevel{mesh.PathBase, mesh.PathNone, mesh.PathMerge, mesh.PathDecode} {
			checkNormalized(t, level, in)
		}
	})
}

func checkNormalized(t *testing.T, level mesh.PathLevel, in []byte) {
	got, err := NormalizePathAs(level, bytes.Clone(in))
	if err != nil {
		return
	}
	if len(got) > len(in) || got[0] != '/' || level != mesh.PathNone && bytes.IndexByte(got, '\\') >= 0 {
		t.Fatalf("%s: %q became %q", level, in, got)
	}
	text := strings.ToLower(string(got))
	switch level {
	case mesh.PathNone:
		if !bytes.Equal(got, in) {
			t.Fatalf("NONE: %q became %q", in, got)
		}
	case mesh.PathMerge, mesh.PathDecode:
		if strings.Contains(text, "//") || level == mesh.PathDecode && (strings.Contains(strings.ReplaceAll(text, "%25", ""), "%2f") || strings.Contains(strings.ReplaceAll(text, "%25", ""), "%5c")) {
			t.Fatalf("%s: %q became %q, with slashes", level, in, got)
		}
		fallthrough
	default:
		for s := range strings.SplitSeq(text, "/") {
			if s == "." || s == ".." || strings.Contains(s, "%2e") {
				t.Fatalf("%s: %q became %q, with a dot segment", level, in, got)
			}
		}
		if servers := resolved(string(got)); servers != "" {
			t.Fatalf("%s: %q became %q, in which a server sees the dot segment %q", level, in, got, servers)
		}
	}
	var req, sent mesh.Request
	if err := SetPathAs(level, bytes.Clone(in), &req); err != nil && in[0] == '/' {
		t.Fatalf("%s: %q became %q, but as a target it is refused: %v", level, in, got, err)
	}
	if in[0] == '/' {
		// What is written for the workload is read back as what policies saw.
		req.Method, req.Authority = "GET", "a"
		head := AppendRequest(nil, &req, Framing{})
		var framing Framing
		if err := ParseRequest(head, &Limits{Paths: level}, &sent, &framing); err != nil || sent.Path != req.Path || sent.Path != string(got) || sent.HasQuery {
			t.Fatalf("%s: policies saw %q of %q; the workload gets %q, %v", level, req.Path, in, sent.Path, err)
		}
	}
	again, err := NormalizePathAs(level, bytes.Clone(got))
	if err != nil || !bytes.Equal(again, got) {
		t.Fatalf("%s: %q became %q, then %q, %v", level, in, got, again, err)
	}
}

// resolved returns a dot segment that is left in path for a server which decodes
// escapes before or drops parameters from its segments; "" for none.
func resolved(path string) string {
	decoded := strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", "/", "%5C", "/").Replace(path)
	for s := range strings.SplitSeq(decoded, "/") {
		if s, _, _ = strings.Cut(s, ";"); s == "." || s == ".." {
			return s
		}
	}
	return ""
}
