package archtest

import (
	"go/ast"
	"strconv"
	"strings"
	"testing"
)

// arrow says what the packages of one folder may import of this module.
// Patterns: "a" is a itself, "a/*" everything below a.
type arrow struct {
	from string
	to   []string
}

// arrows lists every package of the module. The first line that matches a
// package counts, so the special stand before the general. They all point
// towards mesh.
var arrows = []arrow{
	{"mesh", nil},
	{"router", []string{"mesh"}},
	{"policy", []string{"mesh", "expr"}},
	{"explain", []string{"policy", "telemetry/decision", "mesh"}},
	{"explain/*", []string{"explain", "proxy/*", "source", "source/*", "policy", "identity", "telemetry", "telemetry/decision", "mesh"}},
	{"expr", []string{"mesh"}},

	{"filters/builtin", []string{"filters", "filters/*", "mesh"}},
	{"filters/authz", []string{"filters", "policy", "mesh"}},
	{"filters/extauthz", []string{"filters", "filters/remote", "policy", "mesh"}},
	{"filters/ratelimit", []string{"filters", "filters/remote", "expr", "mesh"}},
	{"filters/remote", []string{"mesh"}},
	{"filters", []string{"mesh"}},
	{"filters/*", []string{"filters", "expr", "mesh"}},

	{"upstream/lb", []string{"mesh"}},
	{"upstream", []string{"upstream/lb", "mesh"}},
	{"upstream/*", []string{"upstream", "upstream/lb", "mesh"}},

	{"identity", []string{"mesh"}},
	{"identity/*", []string{"identity", "mesh"}},
	{"tunnel", []string{"tunnel/*", "identity", "mesh"}},
	{"tunnel/*", []string{"tunnel", "tunnel/*", "identity", "mesh"}},

	{"telemetry", []string{"mesh"}},
	{"telemetry/*", []string{"telemetry", "mesh"}},

	{"source", []string{"mesh"}},
	{"source/*", []string{"source", "source/*", "expr", "mesh"}},

	{"proxy/*", []string{"proxy/*", "tunnel", "tunnel/*", "router", "filters", "filters/*", "upstream", "upstream/*", "policy", "explain", "identity", "telemetry", "telemetry/*", "mesh", "host"}},

	{"sample", []string{"sample/*"}},
	{"sample/*", []string{"sample", "sample/*"}},
	{"host", []string{"mesh"}},
	{"host/*", []string{"host", "mesh"}},

	{"up", []string{"proxy/*", "source", "source/*", "identity", "identity/*", "telemetry", "sample", "host", "host/*", "mesh"}},
	{"cmd/*", []string{"up", "explain", "explain/*", "proxy/*", "source", "source/*", "identity", "identity/*", "telemetry", "telemetry/*", "sample", "sample/*", "host", "host/*", "mesh"}},

	// Test plumbing: may use what it tests.
	{"internal/*", []string{"mesh", "identity", "tunnel", "tunnel/*", "source", "internal/*"}},
}

// foreign says which packages may import from outside the module and the
// standard library, by prefix of the import path. A prefix that stands here is
// confined to these places; what does not stand here may be used anywhere.
var foreign = []struct {
	prefix string
	from   []string
	why    string
}{
	{"k8s.io/", []string{"source/*"}, "Kubernetes types stop at the sources"},
	{"sigs.k8s.io/gateway-api", []string{"source/*"}, "Gateway API types stop at the sources"},
	{"github.com/envoyproxy/", []string{"source/*", "filters/*", "sample/*"}, "Envoy's types stop at the sources, at filters that ask services of their API, and at samples of these"},
	{"github.com/go-jose/", []string{"filters/jwt", "source/object"}, "tokens are verified in one place, and keys checked where they are written"},
	{"cel.dev/cel-go", []string{"expr"}, "one place knows how expressions are compiled and bounded"},
	{"github.com/spf13/cobra", []string{"cmd/*"}, "the command line belongs to cmd"},
	{"github.com/prometheus/", []string{"telemetry", "telemetry/*"}, "series are resolved in telemetry"},
	{"github.com/vishvananda/", []string{"host", "host/*"}, "namespaces and links belong to host"},
	{"google.golang.org/grpc", []string{"source/*", "sample", "sample/*", "filters/*", "identity/*"}, "no gRPC runtime on the data path"},
	{"istio.io/api/security", []string{"source/*", "identity/istioca"}, "the API of Istio's CA is spoken in one place"},
	{"github.com/spiffe/", []string{"identity/spiffe"}, "the Workload API is spoken in one place"},
}

// pure packages import the standard library and this module only.
var pure = []string{"mesh", "router", "policy", "upstream", "upstream/*"}

func TestArrows(t *testing.T) {
	for _, s := range tree(t) {
		a, ok := arrowOf(s.pkg)
		if !ok {
			t.Errorf("%s: package %s stands in no line of arrows; say what it may import", s.path, s.pkg)
			continue
		}
		for _, imp := range s.file.Imports {
			p, ours := strings.CutPrefix(importPath(imp), module+"/")
			if ours && !matchAny(a.to, p) {
				t.Errorf("%s: %s must not import %s (it may import %v)", s.path, s.pkg, p, a.to)
			}
		}
	}
}

func TestForeignImports(t *testing.T) {
	for _, s := range tree(t) {
		for _, imp := range s.file.Imports {
			p := importPath(imp)
			for _, f := range foreign {
				if strings.HasPrefix(p, f.prefix) && !matchAny(f.from, s.pkg) {
					t.Errorf("%s: imports %s: %s", s.path, p, f.why)
				}
			}
			first, _, _ := strings.Cut(p, "/")
			if strings.Contains(first, ".") && !strings.HasPrefix(p, module+"/") && matchAny(pure, s.pkg) {
				t.Errorf("%s: imports %s: %s stands on the standard library alone", s.path, p, s.pkg)
			}
		}
	}
}

func TestMatchPattern(t *testing.T) {
	tests := []struct {
		pattern, pkg string
		want         bool
	}{
		{"mesh", "mesh", true},
		{"mesh", "mesh/x", false},
		{"source/*", "source", false},
		{"source/*", "source/file", true},
		{"source/*", "sources/file", false},
		{"source/*", "source/a/b", true},
	}
	for _, tt := range tests {
		if got := matchPattern(tt.pattern, tt.pkg); got != tt.want {
			t.Errorf("matchPattern(%q, %q) = %v, want %v", tt.pattern, tt.pkg, got, tt.want)
		}
	}
}

func importPath(imp *ast.ImportSpec) string {
	p, err := strconv.Unquote(imp.Path.Value)
	if err != nil {
		return imp.Path.Value
	}
	return p
}

func arrowOf(pkg string) (arrow, bool) {
	for _, a := range arrows {
		if matchPattern(a.from, pkg) {
			return a, true
		}
	}
	return arrow{}, false
}

func matchAny(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if matchPattern(p, pkg) {
			return true
		}
	}
	return false
}

func matchPattern(pattern, pkg string) bool {
	if base, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(pkg, base+"/")
	}
	return pattern == pkg
}
