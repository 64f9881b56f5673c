package strictyaml_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/strictyaml"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// inner is embedded, as Kubernetes embeds TypeMeta.
type inner struct {
	Kind string `json:"kind,omitempty"`
}

type port struct {
	Name string `json:"name"`
	Port int32  `json:"port"`
}

type sample struct {
	inner  `json:",inline"`
	Text   string            `json:"text"`
	Yes    *bool             `json:"yes"`
	Small  uint16            `json:"small"`
	Float  float64           `json:"float"`
	Ports  []port            `json:"ports"`
	Labels map[string]string `json:"labels"`
	ByPort map[uint16]string `json:"byPort"`
	Free   any               `json:"free"`
	Raw    []byte            `json:"raw"`
	Odd    odd               `json:"odd"`
	Tagged tagged            `json:"tagged"`
	Next   *sample           `json:"next"`
	Hidden string            `json:"-"`
}

type odd int

func (o *odd) UnmarshalJSON(b []byte) error {
	var n int
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if n%2 == 0 {
		return errors.New("it is even")
	}
	*o = odd(n)
	return nil
}

type tagged struct{ Tag, Value string }

func (t *tagged) UnmarshalNode(n *yaml.Node) error {
	t.Tag, t.Value = n.Tag, n.Value
	return nil
}

func decode(t testing.TB, text string) (sample, []strictyaml.Error) {
	t.Helper()
	var errs []strictyaml.Error
	var s sample
	for _, c := range strictyaml.Split([]byte(text)) {
		docs, err := strictyaml.Parse(c)
		if err != nil {
			var e strictyaml.Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse gives a %T, want an Error", err)
			}
			errs = append(errs, e)
		}
		for _, d := range docs {
			errs = append(errs, strictyaml.Decode(d, &s)...)
		}
	}
	return s, errs
}

func TestDecode(t *testing.T) {
	got, errs := decode(t, `
kind: K
text: "1"
yes: true
small: 0x10
float: 1.5
ports: [{name: a, port: 80}, {name: b, port: -1}]
labels: {a: b, date: 2024-01-02}
byPort: {9080: x, "80": y}
free: {a: [1, true, x, null]}
raw: aGk=
odd: 3
tagged: !Exact v
next: {text: null}
`[1:])
	yes := true
	want := sample{
		inner: inner{"K"}, Text: "1", Yes: &yes, Small: 16, Float: 1.5, Ports: []port{{"a", 80}, {"b", -1}},
		Labels: map[string]string{"a": "b", "date": "2024-01-02"}, ByPort: map[uint16]string{9080: "x", 80: "y"},
		Free: map[string]any{"a": []any{1, true, "x", nil}}, Raw: []byte("hi"), Odd: 3,
		Tagged: tagged{"!Exact", "v"}, Next: &sample{},
	}
	if len(errs) > 0 {
		t.Errorf("errors: %v", errs)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(sample{})); d != "" {
		t.Errorf("decoded (-want +got):\n%s", d)
	}
}

func TestErrors(t *testing.T) {
	tests := map[string]struct {
		in   string
		line int
		path string
		msg  string // a part of it
	}{
		"unknown":      {"text: a\ntexxt: b", 2, "texxt", `unknown field "texxt"; did you mean "text"?`},
		"far":          {"whatever: b", 1, "whatever", "correct its name"},
		"nested":       {"ports:\n- name: a\n- naame: b", 3, "ports[1].naame", `did you mean "name"?`},
		"hidden":       {"Hidden: a", 1, "Hidden", "unknown field"},
		"twice":        {"text: a\nsmall: 1\ntext: b", 3, "", `key "text" is given twice, first on line 1`},
		"twice-label":  {"labels:\n  a: b\n  a: b", 3, "labels", "given twice"},
		"number":       {"text: 1", 1, "text", "put it in quotes"},
		"bool":         {"text: true", 1, "text", "put it in quotes"},
		"label-number": {"labels:\n  v: 1.0", 2, "labels[v]", "put it in quotes"},
		"list":         {"ports: a", 1, "ports", `wants a list but has "a"`},
		"mapping":      {"next: [1]", 1, "next", "wants a mapping but has a list"},
		"map":          {"labels: [1]", 1, "labels", "wants a mapping"},
		"range":        {"small: 70000", 1, "small", "0 to 65535"},
		"negative":     {"small: -1", 1, "small", "0 to 65535"},
		"text-number":  {"small: a", 1, "small", "0 to 65535"},
		"quoted":       {`yes: "true"`, 1, "yes", "true or false"},
		"base64":       {"raw: '*'", 1, "raw", "base64"},
		"map-key":      {"byPort: {x: y}", 1, "byPort[x]", "whole number"},
		"json":         {"odd: 2", 1, "odd", "it is even"},
		"float":        {"float: a", 1, "float", "a number"},
		"complex-key":  {"? [a]\n: b", 1, "", "a plain word"},
		"tag":          {"text: !Exact a", 1, "text", "put it in quotes"},
		"syntax":       {"text: a\n  b: c", 2, "", "YAML syntax"},
		"indent":       {"text: a\nsmall: 1\nports:\n- name: a\n  port: 1\n - name: b\n   port: 2", 6, "", "YAML syntax"},
		"dedent":       {"next:\n    text: a\n  small: 1\nkind: k", 3, "", "YAML syntax"},
		"colon":        {"next:\n  text: a\n  small 1\n  kind: k", 3, "", "YAML syntax"},
		"dash":         {"ports:\n- name: a\n  port: 1\nkind: b\n- c: d", 5, "", "YAML syntax"},
		"open-flow":    {"text: a\nports: [\n{name: a}\nkind: b", 2, "", "YAML syntax"},
		"open-quote":   {"text: a\nkind: \"b\nodd: 1\n", 2, "", "YAML syntax"},
		"open-end":     {"text: a\nports: [\n", 2, "", "YAML syntax"},
		"undefined":    {"text: a\nkind: *b\n", 2, "", "YAML syntax"},
		"control":      {"text: a\nkind: \x01\n", 2, "", "YAML syntax"},
		"tab":          {"next:\n\ttext: a", 2, "", "YAML syntax"},
		"recursive":    {"free: &a [*a]", 1, "", "aliases"},
		"merge-text":   {"<<: a", 1, "", "only a mapping"},
		"second":       {"text: a\n---\n\ntexxt: b", 4, "texxt", "unknown"},
		"second-crlf":  {"text: a\r\n---\r\ntexxt: b\r\n", 3, "texxt", "unknown"},
		"bom":          {"\xef\xbb\xbftexxt: b", 1, "texxt", "unknown"},
		"deep":         {strings.Repeat("[", 500) + strings.Repeat("]", 500), 1, "", "nests deeper"},
		"root":         {"- a", 1, "", "wants a mapping"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, errs := decode(t, tt.in)
			if len(errs) != 1 {
				t.Fatalf("got %d errors, want 1: %v", len(errs), errs)
			}
			e := errs[0]
			if e.Line != tt.line || tt.path != "" && e.Path != tt.path || !strings.Contains(e.Message, tt.msg) {
				t.Errorf("got line %d, path %q, %q; want line %d, path %q, %q", e.Line, e.Path, e.Message, tt.line, tt.path, tt.msg)
			}
		})
	}
}

func TestAllErrorsAtOnce(t *testing.T) {
	_, errs := decode(t, "a: 1\nports:\n- port: x\n  b: 1\n---\n}\n---\nc: 1")
	var lines []int
	for _, e := range errs {
		lines = append(lines, e.Line)
	}
	if d := cmp.Diff([]int{1, 3, 4, 6, 8}, lines); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
	if _, errs := decode(t, strings.Repeat("ab: 1\n", 1)+manyKeys(1000)); len(errs) != 50 {
		t.Errorf("%d errors of 1001, want the first 50", len(errs))
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}

func TestAliasBombIsStopped(t *testing.T) {
	var b strings.Builder
	b.WriteString("free:\n  a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "  a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), i-1)
	}
	_, errs := decode(t, b.String())
	if len(errs) != 1 || !strings.Contains(errs[0].Message, "aliases") {
		t.Errorf("got %v, want one error that names the aliases", errs)
	}
}

func TestMerge(t *testing.T) {
	got, errs := decode(t, "next: &a {text: a, small: 1}\n<<: *a\nsmall: 2")
	if len(errs) > 0 || got.Text != "a" || got.Small != 2 {
		t.Errorf("got %q, %d, %v; want a, 2 and no error", got.Text, got.Small, errs)
	}
}

func TestSplit(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []int // lines before each chunk
	}{
		"one":       {"a: b\n", []int{0}},
		"two":       {"a: b\n---\nc: d\n", []int{0, 1}},
		"leading":   {"---\na: b\n--- # x\nc: d", []int{0, 2}},
		"directive": {"%YAML 1.2\n---\na: b\n---\nc: d", []int{0, 3}},
		"not-one":   {"a: |\n  ---\n ---\nb: ---\n----\n", []int{0}},
		"empty":     {"", nil},
		"inline":    {"--- {a: b}\n---\t{a: c}\n---", []int{0, 1, 2}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []int
			size := 0
			for _, c := range strictyaml.Split([]byte(tt.in)) {
				got = append(got, c.Line)
				size += len(c.Data)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("chunks (-want +got):\n%s", d)
			}
			if size != len(tt.in) {
				t.Errorf("chunks hold %d bytes of %d", size, len(tt.in))
			}
		})
	}
}

func TestLine(t *testing.T) {
	docs, err := strictyaml.Parse(strictyaml.Split([]byte("# c\nspec:\n  ports:\n  - a: 1\n  - b:\n    - 1\n    - 2\nlabels:\n  x/y.z: v\n"))[0])
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]int{
		"": 2, "spec": 2, "spec.ports[0]": 4, "spec.ports[1].b[1]": 7, "labels[x/y.z]": 9,
		"spec.ports[1].missing": 5, "spec.ports[9].b": 3, "nothing.here": 2, "spec.ports.x": 3,
	}
	for path, want := range tests {
		if got := strictyaml.Line(docs[0], path); got != want {
			t.Errorf("Line(%q) = %d, want %d", path, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{{"ports", "ports", 0}, {"prots", "ports", 1}, {"port", "ports", 1}, {"Port", "port", 0}, {"abc", "xyz", 3}, {"", "abcdef", 3}}
	for _, tt := range tests {
		if got := strictyaml.Distance(tt.a, tt.b, 3); got != tt.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("kind: K\nports: [{name: a, port: 80}]\n---\nfree: &a {b: [1, 2.5, true]}\nnext: {<<: *a}")
	f.Add("free: &a [*a]")
	f.Add("? [a]\n: !x |\n  b")
	f.Fuzz(func(t *testing.T, text string) {
		_, errs := decode(t, text)
		lines := 1 // by YAML's idea of a line
		for _, r := range text {
			if strings.ContainsRune("\r\n\u0085\u2028\u2029", r) {
				lines++
			}
		}
		for _, e := range errs {
			if e.Message == "" || e.Line < 1 || e.Line > lines+1 {
				t.Errorf("error %+v in a text of %d lines", e, lines)
			}
		}
	})
}
