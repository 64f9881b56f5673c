package object_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/source/object"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

// schema is what is looked at of an OpenAPI schema.
type schema struct {
	Type        string             `yaml:"type"`
	Properties  map[string]*schema `yaml:"properties"`
	Items       *schema            `yaml:"items"`
	Values      *schema            `yaml:"additionalProperties"`
	Required    []string           `yaml:"required"`
	Enum        []string           `yaml:"enum"`
	IntOrString bool               `yaml:"x-kubernetes-int-or-string"`
	Pattern     string             `yaml:"pattern"`
}

func crdSpec(t *testing.T, plural string) *schema {
	t.Helper()
	data, err := os.ReadFile("../../deploy/crds/policy.cairnproxy.dev_" + plural + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPI schema `yaml:"openAPIV3Schema"`
				} `yaml:"schema"`
			} `yaml:"versions"`
		} `yaml:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	return crd.Spec.Versions[0].Schema.OpenAPI.Properties["spec"]
}

// The schema of the CustomResourceDefinition and the Go types have the same fields,
// of the same types, and a field that YAML 1.1 would read as a bool has no place in either.
func TestCRDMatchesTypes(t *testing.T) {
	compareSchema(t, "spec", crdSpec(t, "trafficpolicies"), reflect.TypeFor[object.TrafficPolicySpec]())
	compareSchema(t, "spec", crdSpec(t, "accesspolicies"), reflect.TypeFor[object.AccessPolicySpec]())
}

func compareSchema(t *testing.T, path string, s *schema, typ reflect.Type) {
	if s == nil {
		t.Errorf("%s is not in the schema", path)
		return
	}
	want := ""
	switch typ.Kind() {
	case reflect.Pointer:
		compareSchema(t, path, s, typ.Elem())
		return
	case reflect.String:
		want = "string"
	case reflect.Bool:
		want = "boolean"
	case reflect.Int32, reflect.Int64, reflect.Uint32:
		want = "integer"
	case reflect.Float64:
		want = "number"
	case reflect.Slice:
		want = "array"
		compareSchema(t, path+"[]", s.Items, typ.Elem())
	case reflect.Map:
		want = "object"
		compareSchema(t, path+"[]", s.Values, typ.Elem())
	case reflect.Struct:
		want = "object"
		if typ == reflect.TypeFor[resource.Quantity]() {
			want = ""
			if !s.IntOrString {
				t.Errorf("%s is a quantity, and the schema does not say x-kubernetes-int-or-string", path)
			}
			break
		}
		fields := map[string]reflect.Type{}
		jsonFields(typ, fields)
		for name, field := range fields {
			if slices.Contains([]string{"on", "off", "yes", "no", "y", "n"}, name) {
				t.Errorf("%s.%s is a bool to the YAML that kubectl reads", path, name)
			}
			compareSchema(t, path+"."+name, s.Properties[name], field)
		}
		for name := range s.Properties {
			if fields[name] == nil {
				t.Errorf("%s.%s is in the schema and not in %s", path, name, typ)
			}
		}
	}
	if s.Type != want {
		t.Errorf("%s is of type %q in the schema, want %q for %s", path, s.Type, want, typ)
	}
}

func jsonFields(typ reflect.Type, out map[string]reflect.Type) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			out[name] = f.Type
		} else {
			jsonFields(f.Type, out)
		}
	}
}

// Every word that the schema allows is one that the translation knows, and the other way
// round: each is said where it stands, and the translation is asked.
func TestCRDEnums(t *testing.T) {
	says := map[string]string{ // how a word is said where others must stand beside it
		"retry.grpcStatuses[]":                         "retry: {grpcStatuses: [WORD]}",
		"retry.failures[]":                             "retry: {failures: [WORD]}",
		"loadBalancer.policy":                          "loadBalancer: {policy: WORD, hash: [{query: a}]}",
		"sessionPersistence.type":                      "sessionPersistence: {type: WORD}",
		"sessionPersistence.cookieConfig.lifetimeType": "sessionPersistence: {absoluteTimeout: 1h, cookieConfig: {lifetimeType: WORD}}",
		"rateLimit.fields":                             "rateLimit: {fields: WORD, local: [{name: a, requests: 1}]}",
		"rateLimit.global.failureMode":                 "rateLimit: {global: {backendRef: {name: web, port: 80}, domain: d, failureMode: WORD, descriptors: [{entries: [{key: a, value: b}]}]}}",
		"faultInjection[].match.headers[].type":        "faultInjection: [{match: {headers: [{name: a, type: WORD, value: b}]}, delay: {fixed: 1s}}]",
		"faultInjection[].abort.grpcStatus":            "faultInjection: [{abort: {grpcStatus: WORD}}]",
	}
	words := map[string][]string{}
	schemaWords("", crdSpec(t, "trafficpolicies"), words)
	for path := range words {
		if says[path] == "" {
			t.Errorf("nobody tests the words of %s", path)
		}
	}
	for path, spec := range says {
		if len(words[path]) == 0 {
			t.Errorf("%s has no enum in the schema", path)
		}
		for _, w := range words[path] {
			text := trafficPolicy(strings.ReplaceAll(spec, "WORD", w))
			if path == "loadBalancer.policy" && !slices.Contains([]string{"RingHash", "Maglev", "Rendezvous"}, w) {
				text = strings.Replace(text, ", hash: [{query: a}]", "", 1)
			}
			if res, _ := translate(t, "f.yaml", text, object.Options{}); len(res.Problems) > 0 {
				t.Errorf("%s: %s: %v", path, w, res.Problems)
			}
		}
		res, _ := translate(t, "f.yaml", trafficPolicy(strings.ReplaceAll(spec, "WORD", "Nonsense")), object.Options{})
		if len(res.Problems) != 1 {
			t.Fatalf("%s: Nonsense: %v", path, res.Problems)
		}
	}
}

func schemaWords(path string, s *schema, out map[string][]string) {
	if len(s.Enum) > 0 {
		out[strings.TrimPrefix(path, ".")] = s.Enum
	}
	for name, p := range s.Properties {
		schemaWords(path+"."+name, p, out)
	}
	if s.Items != nil {
		schemaWords(path+"[]", s.Items, out)
	}
}
