package filters

import (
	"errors"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// recorder is a filter that writes down when it runs.
type recorder struct {
	name   string
	result Result
	log    *[]string
}

func (r recorder) Request(*Exchange) Result {
	*r.log = append(*r.log, "+"+r.name)
	return r.result
}

func (r recorder) Response(*Exchange) Result {
	*r.log = append(*r.log, "-"+r.name)
	return r.result
}

func spec(name string, result Result, log *[]string) Spec {
	return Spec{Name: name, Build: func(BuildContext) (Step, error) {
		r := recorder{name, result, log}
		return Step{OnRequest: r, OnResponse: r}, nil
	}}
}

func TestChain(t *testing.T) {
	var log []string
	nothing := Spec{Name: "nothing", Build: func(BuildContext) (Step, error) { return Step{}, nil }}
	tests := []struct {
		name    string
		specs   []Spec
		result  Result
		request string
		resumed string // what runs from the returned position on
		reply   string // what runs for a response
	}{
		{"empty", nil, Continue, "", "", ""},
		{"no_steps", []Spec{nothing}, Continue, "", "", ""},
		{"order", []Spec{spec("a", Continue, &log), nothing, spec("b", Continue, &log)}, Continue, "+a +b", "", "-b -a"},
		{"reply", []Spec{spec("a", Replied, &log), spec("b", Continue, &log)}, Replied, "+a", "+b", "-b -a"},
		{"park", []Spec{spec("a", Continue, &log), spec("b", Park, &log), spec("c", Continue, &log)}, Park, "+a +b", "+c", "-c -b"},
	}
	take := func() string {
		s := strings.Join(log, " ")
		log = nil
		return s
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Compile(tt.specs, BuildContext{})
			if err != nil {
				t.Fatal(err)
			}
			var x Exchange
			got, next := c.Request(&x, 0)
			if ran := take(); got != tt.result || ran != tt.request {
				t.Errorf("Request = %v, ran %q, want %v and %q", got, ran, tt.result, tt.request)
			}
			c.Request(&x, next)
			if ran := take(); ran != tt.resumed {
				t.Errorf("resumed: ran %q, want %q", ran, tt.resumed)
			}
			c.Response(&x, 0)
			if ran := take(); ran != tt.reply {
				t.Errorf("Response ran %q, want %q", ran, tt.reply)
			}
		})
	}
	var half Step
	if a, b := half.Request(nil), half.Response(nil); a != Continue || b != Continue {
		t.Errorf("a step without parts says %v and %v", a, b)
	}
}

func TestCompileError(t *testing.T) {
	bad := Spec{Name: "bad", Build: func(c BuildContext) (Step, error) {
		if c.Filters == nil {
			t.Error("Filters is nil in Build")
		}
		return Step{}, errors.New("no good")
	}}
	if _, err := Compile([]Spec{bad}, BuildContext{}); err == nil || err.Error() != "filter bad: no good" {
		t.Errorf("Compile = %v", err)
	}
}

func TestEditedPath(t *testing.T) {
	prefix := func(s string) *mesh.PathEdit { return &mesh.PathEdit{Prefix: true, Value: s} }
	full := func(s string) *mesh.PathEdit { return &mesh.PathEdit{Value: s} }
	tests := []struct {
		path    string
		matched string
		edit    *mesh.PathEdit
		want    string
	}{
		// Gateway API's table.
		{"/foo/bar", "/foo", prefix("/xyz"), "/xyz/bar"},
		{"/foo/bar", "/foo", prefix("/xyz/"), "/xyz/bar"},
		{"/foo", "/foo", prefix("/xyz"), "/xyz"},
		{"/foo/", "/foo", prefix("/xyz"), "/xyz/"},
		{"/foo/bar", "/foo", prefix(""), "/bar"},
		{"/foo/", "/foo", prefix(""), "/"},
		{"/foo", "/foo", prefix(""), "/"},
		{"/foo/", "/foo", prefix("/"), "/"},
		{"/foo", "/foo", prefix("/"), "/"},
		// Its corners.
		{"/foo", "/foo", prefix("/xyz/"), "/xyz"},
		{"/foo//bar", "/foo", prefix("/xyz"), "/xyz//bar"},
		{"/foo/bar", "", prefix("/xyz"), "/xyz/foo/bar"},
		{"/", "", prefix("/xyz"), "/xyz/"},
		{"/", "", prefix("/"), "/"},
		{"/a", "/longer", prefix("/x"), "/x/a"},
		{"/foo/bar", "/foo", full("/one"), "/one"},
		{"/foo/bar", "/foo", full(""), "/"},
		{"/foo/bar", "/foo", nil, "/foo/bar"},
		{"*", "", prefix("/xyz"), "*"},
		{"", "", full("/xyz"), ""},
	}
	for _, tt := range tests {
		x := Exchange{Req: &mesh.Request{Path: tt.path}, MatchedPrefix: len(tt.matched)}
		if got := x.EditedPath(tt.edit); got != tt.want {
			t.Errorf("%q with prefix %q edited by %+v = %q, want %q", tt.path, tt.matched, tt.edit, got, tt.want)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, p := range []string{"", "/", "/a/b%20c"} {
		if err := CheckPath(&mesh.PathEdit{Value: p}); err != nil {
			t.Errorf("CheckPath(%q) = %v", p, err)
		}
	}
	for _, p := range []string{"a", "/a b", "/a?b", "/a#b", "/a\r\nb", "/ä", "http://x/"} {
		if err := CheckPath(&mesh.PathEdit{Value: p}); err == nil {
			t.Errorf("CheckPath(%q) = nil, want an error", p)
		}
	}
	for _, h := range []string{"", "a.example.com", "A-b_c.1"} {
		if err := CheckHostname(h); err != nil {
			t.Errorf("CheckHostname(%q) = %v", h, err)
		}
	}
	for _, h := range []string{"a b", "a/b", "a:80", "a@b", "a\r\n", strings.Repeat("a", 254)} {
		if err := CheckHostname(h); err == nil {
			t.Errorf("CheckHostname(%q) = nil, want an error", h)
		}
	}
}

// TestMemory: strings of one exchange stay what they are while others are made.
func TestMemory(t *testing.T) {
	var x Exchange
	for round := range 3 {
		var made []string
		for i := range 200 {
			made = append(made, x.Concat("a", strings.Repeat(string(rune('a'+i%26)), i), "z"))
		}
		for i, s := range made {
			if want := "a" + strings.Repeat(string(rune('a'+i%26)), i) + "z"; s != want {
				t.Fatalf("round %d: string %d is %q, want %q", round, i, s, want)
			}
		}
		if x.Concat("", "", "") != "" {
			t.Error("joining nothing is not empty")
		}
		x.Reset()
	}
	if n := testing.AllocsPerRun(100, func() { x.Reset(); x.Concat("a", "b", "c") }); n != 0 {
		t.Errorf("Concat allocates %v times, want 0", n)
	}
}

func FuzzEditedPath(f *testing.F) {
	f.Add("/foo/bar", "/xyz/", 4)
	f.Fuzz(func(t *testing.T, path, value string, matched int) {
		if !strings.HasPrefix(path, "/") {
			return
		}
		e := &mesh.PathEdit{Prefix: true, Value: value}
		if CheckPath(e) != nil {
			return
		}
		// The router says so only of whole elements.
		if matched < 0 || matched > len(path) || matched < len(path) && path[matched] != '/' {
			return
		}
		x := Exchange{Req: &mesh.Request{Path: path}, MatchedPrefix: matched}
		got := x.EditedPath(e)
		if !strings.HasPrefix(got, "/") || !strings.HasPrefix(got, strings.TrimSuffix(value, "/")) || !strings.HasSuffix(got, path[matched:]) {
			t.Fatalf("%q after %d bytes with %q becomes %q", path, matched, value, got)
		}
	})
}
