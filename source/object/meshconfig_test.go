package object

import (
	"slices"
	"strings"
	"testing"
)

const meshConfigObject = `apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |-
`

func TestMeshConfig(t *testing.T) {
	for _, c := range []struct {
		name, text string
		aliases    []string
		problem    string // part of the only problem, "" for none
	}{
		{"none of ours", "accessLogFile: /dev/stdout\ndefaultConfig: {discoveryAddress: istiod}", nil, ""},
		{"aliases", "trustDomainAliases: [old.example, older.example]", []string{"old.example", "older.example"}, ""},
		{"not YAML", "trustDomainAliases: [", nil, "not YAML"},
		{"not a list", "trustDomainAliases: {a: b}", nil, "data.mesh.trustDomainAliases"},
		{"not a text", "trustDomainAliases: [[a]]", nil, "data.mesh.trustDomainAliases[0]"},
		{"two documents", "{}\n---\n{}", nil, "more than one document"},
		{"empty", "", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := meshConfigObject + "    " + strings.ReplaceAll(c.text, "\n", "\n    ") + "\n"
			tr := translatorOf(t, text)
			tr.readMeshConfig()
			problems := tr.problems()
			switch {
			case c.problem == "" && len(problems) > 0:
				t.Fatalf("problems: %v", problems)
			case c.problem != "" && (len(problems) != 1 || !strings.Contains(problems[0].String(), c.problem)):
				t.Fatalf("problems %v, want one with %q", problems, c.problem)
			case c.problem == "" && !slices.Equal(tr.mesh.trustDomainAliases, c.aliases):
				t.Fatalf("aliases %q, want %q", tr.mesh.trustDomainAliases, c.aliases)
			}
		})
	}
}

// translatorOf has indexed what text holds.
func translatorOf(t *testing.T, text string) *translator {
	t.Helper()
	f := Decode("mesh.yaml", []byte(text))
	if len(f.Problems) > 0 {
		t.Fatal(f.Problems)
	}
	tr := &translator{opts: Options{}.withDefaults(), byKey: map[objectKey]*Object{}, namespaces: map[string]*namespace{}}
	tr.index(f.Objects)
	return tr
}
