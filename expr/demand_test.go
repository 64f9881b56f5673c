package expr

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDemands(t *testing.T) {
	list := func(attribute string, exact ...string) Demand { return Demand{Attribute: attribute, Exact: exact} }
	prefix := func(attribute string, p ...string) Demand { return Demand{Attribute: attribute, Prefix: p} }
	tests := []struct {
		expr string
		want []Demand
	}{
		{"source.principal == 'a'", []Demand{list("source.principal", "a")}},
		{"'a' == source.principal", []Demand{list("source.principal", "a")}},
		{"source.namespace in ['a', 'b'] && request.method == 'GET'", []Demand{list("source.namespace", "a", "b"), list("request.method", "GET")}},
		{"request.url_path.startsWith('/a') && (connection.mtls && request.path == '/b')", []Demand{prefix("request.url_path", "/a"), list("request.url_path", "/b")}},
		{"request.path == '/a?b'", nil},
		{"request.path.startsWith('/a?')", nil},
		{"source.namespace == 'a' || source.namespace == 'b'", []Demand{list("source.namespace", "a", "b")}},
		{"source.namespace == 'a' || source.principal == 'b'", nil},
		{"source.namespace == 'a' || connection.mtls", nil},
		{"source.namespace != 'a'", nil},
		{"!(source.namespace == 'a')", nil},
		{"source.namespace == request.method", nil},
		{"request.headers['x'] == 'a' && source.namespace == 'a'", []Demand{list("source.namespace", "a")}},
		{"jwt.claims.sub == 'a' && source.namespace == 'a'", []Demand{list("source.namespace", "a")}}, // in cel-go
		{"request.headers.exists(h, request.headers[h].contains('aaaaaaaaab')) && source.namespace == 'a'", nil},
	}
	for _, tt := range tests {
		p, err := Compile(tt.expr, KindBool)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, p.Demands()); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.expr, diff)
		}
	}
}

// meets reports whether a request meets a demand.
func meets(d Demand, in *Input) bool {
	v := in.text(attributeOf(d.Attribute).id)
	return slices.Contains(d.Exact, v) || slices.ContainsFunc(d.Prefix, func(p string) bool { return strings.HasPrefix(v, p) })
}

// FuzzDemands: a request that does not meet a demand gets false, and no error.
func FuzzDemands(f *testing.F) {
	f.Add("source.namespace == 'shop' && request.headers['x'] == 'a'", "/a", "", "shop")
	f.Add("request.path.startsWith('/a') && request.headers.x == 'a'", "/a", "b", "x")
	f.Add("jwt.claims.sub == 'a' && (source.namespace == 'a' || source.namespace in ['b'])", "/a", "b", "b")
	f.Fuzz(func(t *testing.T, text, path, query, namespace string) {
		p, err := Compile(text, KindBool)
		if err != nil {
			return
		}
		in := input()
		in.Req.Path, in.Req.Query, in.Req.HasQuery = path, query, query != ""
		in.Req.Peer.Identity.Namespace = namespace
		in.Req.Peer.Principal = in.Req.Peer.Identity.Principal()
		for _, d := range p.Demands() {
			if ok, err := p.Bool(in); !meets(d, in) && (ok || err != nil) {
				t.Fatalf("%s demands %+v, which is not met, and gives %v, %v", text, d, ok, err)
			}
		}
	})
}

func TestConnection(t *testing.T) {
	for i := range attributes[:firstResponse] {
		a := &attributes[i]
		text := a.name + " == " + a.name
		p, err := Compile(text, KindBool)
		if err != nil {
			t.Fatal(err)
		}
		in := input()
		in.Connection = true
		ok, err := p.Bool(in)
		if ofRequest := strings.HasPrefix(a.name, "request.") || strings.HasPrefix(a.name, "jwt."); ofRequest != (err != nil) || ok == ofRequest {
			t.Errorf("%s without a request = %v, %v", text, ok, err)
		}
	}
	for text, want := range map[string]string{
		"source.namespace == 'x' && request.method == 'GET'":                      "false <nil>",
		"source.namespace == 'shop' || request.method == 'GET'":                   "true <nil>",
		"source.namespace == 'shop' && request.method == 'GET'":                   "false " + errNoRequest.Error(),
		"'x-user' in request.headers":                                             "false " + errNoRequest.Error(),
		"request.headers[?'x'].orValue('a') == 'a'":                               "false " + errNoRequest.Error(),
		"request.headers['x-user'] == 'jane'":                                     "false " + errNoRequest.Error(),
		"destination.port == 9080 && request.size < 3":                            "false " + errNoRequest.Error(),
		"destination.port == 9080 && destination.address != '' + 'a'":             "true <nil>",
		"source.namespace == 'x' && size(request.headers) > 3":                    "false <nil>",
		"destination.service.endsWith('.svc.cluster.local')":                      "true <nil>",
		"request.headers.size() == 3":                                             "false " + errNoRequest.Error(),
		"has(jwt.claims.sub) || request.time > timestamp('2020-01-01T00:00:00Z')": "false " + errNoRequest.Error(),
	} {
		p, err := Compile(text, KindBool)
		if err != nil {
			t.Fatal(err)
		}
		in := input()
		in.Connection = true
		ok, err := p.Bool(in)
		if got := fmt.Sprint(ok, " ", err); got != want {
			t.Errorf("%s = %s, want %s", text, got, want)
		}
	}
}

func TestFailed(t *testing.T) {
	for text, want := range map[string]string{
		"request.method == 'GET'": "",
		"request.method == 'GET' && source.namespace == 'x' && connection.mtls":                      `source.namespace == "x"`,
		"connection.mtls && (request.method == 'PUT' || request.method == 'POST')":                   `request.method == "PUT" || request.method == "POST"`,
		"connection.mtls && request.headers['x-none'] == 'a' && source.namespace == 'shop'":          `request.headers["x-none"] == "a", no such header`,
		"request.headers.exists(h, h == 'x-none')":                                                   "request.headers.exists(h, h == 'x-none')",
		"jwt.claims.sub == 'joe' && connection.mtls":                                                 `jwt.claims.sub == "joe"`,
		"!('admin' in jwt.claims.groups) && jwt.claims.level > 3.5 && request.path.matches('^/a.*')": `jwt.claims.level > 3.5`,
	} {
		p, err := Compile(text, KindBool)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Failed(input())
		if err != nil {
			got += ", " + err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestManyTexts(t *testing.T) {
	var list []string
	for i := range 30 {
		list = append(list, fmt.Sprintf("'m%d'", i*7%30))
	}
	p, err := Compile("request.method in ["+strings.Join(list, ",")+"]", KindBool)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 32 {
		in := input()
		in.Req.Method = fmt.Sprint("m", i)
		if ok, err := p.Bool(in); ok != (i < 30) || err != nil {
			t.Errorf("m%d: %v, %v", i, ok, err)
		}
	}
}
