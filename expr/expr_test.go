package expr

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func input() *Input {
	id := mesh.Identity{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	return &Input{
		Req: &mesh.Request{
			Method: "GET", Scheme: "http", Authority: "reviews:9080", Host: "reviews", Path: "/reviews/7", Query: "page=2", HasQuery: true, Proto: 1, MinorVersion: 1,
			Fields: mesh.Fields{
				{Name: "user-agent", Value: "curl/8"},
				{Name: "x-user", Value: "jane"},
				{Name: "x-many", Value: "a"},
				{Name: "x-many", Value: "b"},
				{Name: "content-length", Value: "12"},
				{Name: "x-request-id", Value: "4711"},
				{Name: "x-empty", Value: ""},
			},
			Peer:        mesh.Peer{Identity: id, Principal: id.Principal(), Addr: netip.MustParseAddrPort("10.0.0.7:1234")},
			Destination: netip.MustParseAddrPort("10.1.0.1:9080"),
		},
		Service: &mesh.Service{Key: mesh.ServiceKey{Namespace: "books", Hostname: "reviews.books.svc.cluster.local"}},
		Now:     time.Date(2026, 11, 27, 20, 0, 0, 0, time.UTC),
		Claims:  map[string]any{"sub": "jane", "groups": []any{"a", "b"}, "level": 3.0, "ratio": 0.5},
	}
}

func TestText(t *testing.T) {
	tests := []struct {
		name, expr, want string
	}{
		{"path", "request.path", "/reviews/7?page=2"},
		{"url_path", "request.url_path", "/reviews/7"},
		{"query", "request.query", "page=2"},
		{"host", "request.host", "reviews:9080"},
		{"scheme", "request.scheme", "http"},
		{"method", "request.method", "GET"},
		{"referer", "request.referer", ""},
		{"useragent", "request.useragent", "curl/8"},
		{"id", "request.id", "4711"},
		{"protocol", "request.protocol", "HTTP/1.1"},
		{"size", "request.size", "12"},
		{"time", "string(request.time)", "2026-11-27T20:00:00Z"},
		{"hours", "request.time.getHours()", "20"},
		{"header", "request.headers['x-user']", "jane"},
		{"header_case", "request.headers['X-User']", "jane"},
		{"header_dynamic", "request.headers['X-' + 'USER']", "jane"},
		{"header_field", "request.headers.host", "reviews:9080"},
		{"header_several", "request.headers['x-many']", "a,b"},
		{"header_pseudo", "request.headers[':method'] + request.headers[':path'] + request.headers[':scheme'] + request.headers[':authority']", "GET/reviews/7?page=2httpreviews:9080"},
		{"header_default", "request.headers[?'x-none'].orValue('none')", "none"},
		{"header_given", "request.headers[?'x-user'].orValue('none')", "jane"},
		{"source_address", "source.address", "10.0.0.7:1234"},
		{"source_port", "source.port", "1234"},
		{"principal", "source.principal", "cluster.local/ns/shop/sa/web"},
		{"namespace", "source.namespace", "shop"},
		{"service_account", "source.service_account", "web"},
		{"trust_domain", "source.trust_domain", "cluster.local"},
		{"uri_san", "connection.uri_san_peer_certificate", "spiffe://cluster.local/ns/shop/sa/web"},
		{"mtls", "connection.mtls", "true"},
		{"destination", "destination.address", "10.1.0.1:9080"},
		{"destination_port", "destination.port", "9080"},
		{"service", "destination.service", "reviews.books.svc.cluster.local"},
		{"service_namespace", "destination.namespace", "books"},
		{"claim", "jwt.claims['sub']", "jane"},
		{"claim_field", "jwt.claims.groups[1]", "b"},
		{"claim_number", "jwt.claims.level", "3"},
		{"claim_fraction", "jwt.claims.ratio", "0.5"},
		{"condition", "source.namespace == 'shop' ? 'inside' : 'outside'", "inside"},
		{"uint", "uint(3)", "3"},
		{"split", "request.headers['x-user'] + '/' + request.method", "jane/GET"},
		{"literal", "'a'", "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Compile(tt.expr, KindScalar)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := p.Text(input()); err != nil || got != tt.want {
				t.Errorf("%s = %q, %v, want %q", tt.expr, got, err, tt.want)
			}
		})
	}
}

func TestBool(t *testing.T) {
	const failed = "an error"
	tests := []struct {
		name, expr string
		want       any
		native     bool
	}{
		{"equal", "request.headers['x-user'] == 'jane'", true, true},
		{"unequal", "request.method != 'GET'", false, true},
		{"prefix", "request.path.startsWith('/reviews/')", true, true},
		{"suffix", "request.url_path.endsWith('/8')", false, true},
		{"contains", "request.path.contains('page')", true, true},
		{"matches", "request.path.matches('^/reviews/[0-9]+')", true, true},
		{"matches_not", "request.path.matches('^/reviews$')", false, true},
		{"in", "request.method in ['PUT', 'GET']", true, true},
		{"has", "'x-user' in request.headers", true, true},
		{"has_case", "'X-User' in request.headers", true, true},
		{"has_not", "'x-none' in request.headers", false, true},
		{"has_macro", "has(request.headers.host)", true, true},
		{"and", "request.method == 'GET' && source.namespace == 'shop' && source.port > 1000", true, true},
		{"or", "request.method == 'PUT' || source.namespace == 'shop'", true, true},
		{"not", "!connection.mtls", false, true},
		{"bools", "connection.mtls == true", true, true},
		{"less", "request.size <= 12 && request.size >= 12 && !(request.size < 12)", true, true},
		{"default", "request.headers[?'x-none'].orValue('') == ''", true, true},
		{"missing", "request.headers['x-none'] == ''", failed, true},
		{"missing_or_true", "request.headers['x-none'] == '' || true", true, true},
		{"missing_and_false", "request.headers['x-none'] == '' && false", false, true},
		{"missing_and_true", "true && request.headers['x-none'] == ''", failed, true},
		{"missing_dynamic", "request.headers['x-' + 'none'] == ''", failed, false},
		{"exists", "request.headers.exists(h, h.startsWith('x-') && request.headers[h] == 'a,b')", true, false},
		{"all", "request.headers.all(h, h != 'cookie')", true, false},
		{"size", "size(request.headers) == 6", true, false},
		{"same", "request.headers == request.headers", true, false},
		{"claim", "'a' in jwt.claims.groups", true, false},
		{"claim_missing", "jwt.claims.none == 'a'", failed, false},
		{"mixed_list", "request.method in ['a', request.method]", true, false},
		{"dyn_not_bool", "jwt.claims.sub", failed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Compile(tt.expr, KindBool)
			if err != nil {
				t.Fatal(err)
			}
			if p.Native() != tt.native {
				t.Errorf("native: %v, want %v", p.Native(), tt.native)
			}
			got, err := p.Bool(input())
			if tt.want == failed {
				if err == nil || got {
					t.Errorf("%s = %v, %v, want an error", tt.expr, got, err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("%s = %v, %v, want %v", tt.expr, got, err, tt.want)
			}
		})
	}
}

func TestInt(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "request.size": 12, "request.size + 1": 13, "size(request.path)": 17, "uint(4)": 4, "jwt.claims.level": 3,
		"request.method == 'POST' ? 10 : 1": 1, "int(request.headers['content-length']) / 5": 2, "source.port": 1234,
	} {
		p, err := Compile(text, KindInt)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Int(input()); err != nil || got != want {
			t.Errorf("%s = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"int(request.method)", "jwt.claims.ratio", "jwt.claims.sub", "uint(18446744073709551615u)", "1 / (request.size - 12)"} {
		p, err := Compile(text, KindInt)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Int(input()); err == nil {
			t.Errorf("%s = %d, want an error", text, got)
		}
	}
	in := input()
	in.Req.Fields.Del("content-length")
	p, _ := Compile("request.size", KindInt)
	if got, err := p.Int(in); err == nil {
		t.Errorf("the size of a request of unknown length is %d, want an error", got)
	}
}

func TestRefused(t *testing.T) {
	all := func(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s+" + ", n), " + ") }
	tests := []struct {
		name, expr string
		kind       Kind
		want       string
	}{
		{"empty", " ", KindBool, "empty"},
		{"syntax", "request.path ==", KindBool, "line 1 column 16"},
		{"unknown", "request.pth == 'a'", KindBool, "there is no 'request.pth' (did you mean 'request.path'?); attributes are request.path"},
		{"response", "response.code == 200", KindBool, "there is no 'response'"},
		{"operands", "request.method == 1", KindBool, "no matching overload"},
		{"kind_bool", "request.method", KindBool, `gives a string, where a bool is needed`},
		{"kind_string", "request.size", KindString, "gives an int, where a string is needed"},
		{"kind_int", "request.method == 'GET'", KindInt, "gives a bool, where an int is needed"},
		{"kind_scalar", "request.headers", KindScalar, "where a string, a number or a bool is needed"},
		{"long", "'" + strings.Repeat("a", MaxText) + "' == 'a'", KindBool, "at most 4096"},
		{"deep", strings.Repeat("(", 500) + "1" + strings.Repeat(")", 500), KindInt, "recursion"},
		{"pattern", "request.path.matches(request.query)", KindBool, "must be a literal"},
		{"pattern_call", "matches(request.path, request.query)", KindBool, "must be a literal"},
		{"bad_pattern", "request.path.matches('(')", KindBool, "invalid matches argument"},
		{"large_pattern", "request.path.matches('[a-z]{900}[a-z]{900}[a-z]{900}')", KindBool, "regex program size"},
		{"cost_concat", "size(" + all("request.path", 40) + ") == 1", KindBool, "units per request; at most 100000"},
		{"cost_nested", "request.headers.all(a, request.headers.all(b, request.headers[a] != request.headers[b]))", KindBool, "units per request"},
		{"three_deep", "request.headers.all(a, request.headers.all(b, request.headers.all(c, a == b)))", KindBool, "comprehension"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(tt.expr, tt.kind)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check = %v, want %q in it", err, tt.want)
			} else if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
}

func TestResponse(t *testing.T) {
	in := input()
	for text, native := range map[string]bool{"response.code == 503 && response.headers['x-a'] == '1'": true, "response.code + 1 == 504": false} {
		p, err := CompileResponse(text, KindBool)
		if err != nil {
			t.Fatal(err)
		}
		in.Resp = nil
		if got, err := p.Bool(in); err == nil {
			t.Errorf("%s without a response = %v, want an error", text, got)
		}
		in.Resp = &mesh.Response{Status: 503, Fields: mesh.Fields{{Name: "x-a", Value: "1"}}}
		if got, err := p.Bool(in); err != nil || !got || p.Native() != native {
			t.Errorf("%s = %v, %v, native %v", text, got, err, p.Native())
		}
	}
}

// TestRunTimeLimit: a request far beyond what the estimate assumed ends an expensive
// expression instead of a processor.
func TestRunTimeLimit(t *testing.T) {
	p, err := Compile("request.headers.exists(h, request.headers[h].contains('aaaaaaaaab'))", KindBool)
	if err != nil {
		t.Fatal(err)
	}
	in := input()
	for range 3000 {
		in.Req.Fields.Add("x-"+strings.Repeat("a", len(in.Req.Fields)%50), strings.Repeat("a", 9000))
	}
	if got, err := p.Bool(in); err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("%v, %v, want the end of its budget", got, err)
	}
}

func TestAttributesAreKnown(t *testing.T) {
	for i, a := range attributes {
		compile := Compile
		if i >= firstResponse {
			compile = CompileResponse
		}
		if a.typ == typHeaders || a.typ == typClaims || a.typ == typTime {
			continue
		}
		p, err := compile(a.name, KindScalar)
		if err != nil || !p.Native() {
			t.Errorf("%s: %v", a.name, err)
		}
	}
	if n := len(Attributes()); n != len(attributes) {
		t.Errorf("%d attributes", n)
	}
}

func FuzzNative(f *testing.F) {
	for _, s := range []string{
		"request.headers['x-user'] == 'jane' && request.path.startsWith('/a')", "!(request.method in ['a']) || connection.mtls",
		"request.headers[?'a'].orValue('b') == 'b' ? source.port < 3 : request.size >= 4", "has(request.headers.x)", "request.path.matches('a+')",
		"request.headers['x'] == 'a' || true", "source.principal", "'a' in request.headers != true", "request.size",
	} {
		f.Add(s, "/a", "jane", "x")
	}
	f.Fuzz(func(t *testing.T, text, path, value, name string) {
		p, err := Compile(text, KindScalar)
		if err != nil {
			return
		}
		in := input()
		in.Req.Path = path
		in.Req.Fields = append(in.Req.Fields, mesh.Field{Name: strings.ToLower(name), Value: value})
		got, gotErr := p.Text(in)
		if !p.Native() {
			return
		}
		env, _ := requestEnv()
		checked, issues := env.Compile(text)
		if issues.Err() != nil {
			t.Fatal(issues.Err())
		}
		q := &Program{text: text, kind: KindScalar}
		if q.program, err = env.Program(checked); err != nil {
			t.Fatal(err)
		}
		want, wantErr := q.Text(in)
		if got != want && wantErr == nil || (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("%s: %q, %v; cel-go says %q, %v", text, got, gotErr, want, wantErr)
		}
	})
}

func TestNoAllocation(t *testing.T) {
	for _, text := range []string{
		"request.headers['x-user'] == 'jane' && request.url_path.startsWith('/reviews') && request.method in ['GET', 'HEAD']",
		"'x-none' in request.headers || request.headers['x-none'] == 'a' || source.principal == 'cluster.local/ns/shop/sa/web'",
		"request.url_path.matches('^/reviews/[0-9]+$') ? connection.mtls : false",
	} {
		p, err := Compile(text, KindBool)
		if err != nil {
			t.Fatal(err)
		}
		shared := input()
		n := testing.AllocsPerRun(100, func() {
			in := Input{Req: shared.Req, Now: shared.Now}
			if ok, err := p.Bool(&in); !ok || err != nil {
				t.Fatal(ok, err)
			}
		})
		if n != 0 {
			t.Errorf("%s allocates %v times, want 0", text, n)
		}
	}
}

func BenchmarkBool(b *testing.B) {
	for _, bb := range []struct{ name, expr string }{
		{"header", "request.headers['x-user'] == 'jane'"},
		{"prefix", "request.url_path.startsWith('/reviews')"},
		{"three", "request.headers['x-user'] == 'jane' && request.url_path.startsWith('/reviews') && source.namespace == 'shop'"},
		{"cel", "request.headers['x-user'] + '' == 'jane'"},
		{"cel_exists", "request.headers.exists(h, h == 'x-user')"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p, err := Compile(bb.expr, KindBool)
			if err != nil {
				b.Fatal(err)
			}
			shared := input()
			b.ReportAllocs()
			for b.Loop() {
				in := Input{Req: shared.Req, Now: shared.Now}
				if ok, _ := p.Bool(&in); !ok {
					b.Fatal("false")
				}
			}
		})
	}
}

// TestDocumented holds docs/expressions.md to the attributes.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/expressions.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range Attributes() {
		if !strings.Contains(string(text), "`"+a[0]+"`") {
			t.Errorf("docs/expressions.md does not tell of %s", a[0])
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	p, err := Compile("request.headers.exists(h, h == 'x-' + request.query) && request.headers['x-user'] + '' == 'jane'", KindBool)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			in, want := input(), i%2 == 0
			in.Req.Query = map[bool]string{true: "user", false: "none"}[want]
			for range 200 {
				if got, err := p.Bool(in); err != nil || got != want {
					t.Errorf("%v, %v, want %v", got, err, want)
				}
			}
		})
	}
	wg.Wait()
}
