package headers

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

func fields(lines ...string) mesh.Fields {
	var f mesh.Fields
	for _, l := range lines {
		name, value, _ := strings.Cut(l, "=")
		f.Add(name, value)
	}
	return f
}

func TestEdits(t *testing.T) {
	tests := []struct {
		name  string
		edits mesh.HeaderEdits
		in    mesh.Fields
		want  mesh.Fields
	}{
		{"set_new", mesh.HeaderEdits{Set: fields("a=1")}, fields("b=2"), fields("b=2", "a=1")},
		{"set_replaces_all", mesh.HeaderEdits{Set: fields("a=1")}, fields("a=2", "b=3", "a=4"), fields("a=1", "b=3")},
		{"set_upper_case", mesh.HeaderEdits{Set: fields("X-A=1")}, fields("x-a=2"), fields("x-a=1")},
		{"add_new", mesh.HeaderEdits{Add: fields("a=1")}, nil, fields("a=1")},
		{"add_second", mesh.HeaderEdits{Add: fields("a=2")}, fields("a=1"), fields("a=1", "a=2")},
		{"remove", mesh.HeaderEdits{Remove: []string{"A", "c"}}, fields("a=1", "b=2", "a=3"), fields("b=2")},
		{"all", mesh.HeaderEdits{Set: fields("a=1"), Add: fields("a=2"), Remove: []string{"b"}}, fields("b=0", "a=0"), fields("a=1", "a=2")},
		{"remove_what_was_set", mesh.HeaderEdits{Set: fields("a=1"), Remove: []string{"a"}}, nil, nil},
		{"empty_value", mesh.HeaderEdits{Set: fields("a=")}, nil, fields("a=")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, response := range []bool{false, true} {
				f := &mesh.RouteFilters{RequestHeaders: &tt.edits}
				x := filters.Exchange{Req: &mesh.Request{Fields: append(mesh.Fields(nil), tt.in...)}}
				if response {
					f = &mesh.RouteFilters{ResponseHeaders: &tt.edits}
					x = filters.Exchange{Req: &mesh.Request{}, Resp: &mesh.Response{Fields: append(mesh.Fields(nil), tt.in...)}}
				}
				c, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: f})
				if err != nil {
					t.Fatal(err)
				}
				c.Request(&x, 0)
				c.Response(&x, 0)
				got := x.Req.Fields
				if response {
					got = x.Resp.Fields
				}
				if len(got) == 0 {
					got = nil
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("response %v: fields (-want +got):\n%s", response, diff)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name  string
		edits mesh.HeaderEdits
		text  string
	}{
		{"host", mesh.HeaderEdits{Set: fields("Host=x")}, "URLRewrite"},
		{"authority", mesh.HeaderEdits{Set: fields(":authority=x")}, "not a header field"},
		{"connection", mesh.HeaderEdits{Add: fields("connection=close")}, "one connection"},
		{"keep_alive", mesh.HeaderEdits{Remove: []string{"Keep-Alive"}}, "one connection"},
		{"te", mesh.HeaderEdits{Set: fields("te=trailers")}, "one connection"},
		{"upgrade", mesh.HeaderEdits{Set: fields("upgrade=h2c")}, "one connection"},
		{"transfer_encoding", mesh.HeaderEdits{Set: fields("transfer-encoding=chunked")}, "frames"},
		{"content_length", mesh.HeaderEdits{Remove: []string{"content-length"}}, "frames"},
		{"empty_name", mesh.HeaderEdits{Remove: []string{""}}, "not a field name"},
		{"bad_name", mesh.HeaderEdits{Set: fields("a b=1")}, "not a field name"},
		{"bad_value", mesh.HeaderEdits{Set: fields("a=1\r\nb: 2")}, "not a field value"},
		{"nul_value", mesh.HeaderEdits{Add: fields("a=\x00")}, "not a field value"},
		{"padded_value", mesh.HeaderEdits{Add: fields("a= 1")}, "not a field value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, f := range []mesh.RouteFilters{{RequestHeaders: &tt.edits}, {ResponseHeaders: &tt.edits}} {
				_, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: &f})
				if err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("Compile = %v, want an error with %q", err, tt.text)
				}
			}
		})
	}
}

func TestNothing(t *testing.T) {
	for _, f := range []mesh.RouteFilters{{}, {RequestHeaders: &mesh.HeaderEdits{}, ResponseHeaders: &mesh.HeaderEdits{}}} {
		c, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: &f})
		if err != nil {
			t.Fatal(err)
		}
		if len(c) != 0 {
			t.Errorf("nothing to do compiles to %d steps", len(c))
		}
	}
}

func BenchmarkHeaders(b *testing.B) {
	c, err := filters.Compile([]filters.Spec{Spec}, filters.BuildContext{Filters: &mesh.RouteFilters{
		RequestHeaders: &mesh.HeaderEdits{Set: fields("x-a=1"), Add: fields("x-b=2"), Remove: []string{"x-c"}},
	}})
	if err != nil {
		b.Fatal(err)
	}
	in := fields("user-agent=curl/8", "accept=*/*", "x-request-id=8f6c", "x-c=1", "x-a=0")
	x := filters.Exchange{Req: &mesh.Request{}}
	buf := make(mesh.Fields, 0, 16)
	b.ReportAllocs()
	for b.Loop() {
		x.Req.Fields = append(buf, in...)
		c.Request(&x, 0)
	}
}
