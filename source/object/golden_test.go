package object_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// translate decodes and translates one text.
func translate(t testing.TB, file, text string, opts object.Options) (object.Result, []object.Ignored) {
	t.Helper()
	f := object.Decode(file, []byte(text))
	res := object.Translate(f.Objects, opts)
	res.Problems = append(append([]source.Problem{}, f.Problems...), res.Problems...)
	return res, f.Ignored
}

// counter hands out addresses in the order in which it is asked.
type counter struct{ services, pods, waypoints byte }

func (c *counter) Service(mesh.Name) netip.Addr {
	c.services++
	return netip.AddrFrom4([4]byte{10, 1, 0, c.services})
}

func (c *counter) Pod(mesh.Name) netip.Addr {
	c.pods++
	return netip.AddrFrom4([4]byte{10, 2, 0, c.pods})
}

func (c *counter) Waypoint(mesh.Name) netip.Addr {
	c.waypoints++
	return netip.AddrFrom4([4]byte{10, 3, 0, c.waypoints})
}

// TestGolden translates testdata/CASE.in.yaml and compares with CASE.out.yaml.
// The input's first line may hold options: "# enrol allocate".
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, in := range inputs {
		name := strings.TrimSuffix(filepath.Base(in), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			opts := object.Options{Enrol: strings.Contains(first, "enrol")}
			if strings.Contains(first, "allocate") {
				opts.Allocator = &counter{}
				opts.Node = func(mesh.Name) string { return "local" }
			}
			res, ignored := translate(t, name, string(text), opts)
			res.Notices = append(object.Notices(ignored), res.Notices...)
			got := dump(t, res)
			out := strings.TrimSuffix(in, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(out, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatalf("%v (write it with -update)", err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("translation (-want +got):\n%s", d)
			}
			mesh.NewSnapshot(1, res.Parts)
		})
	}
}

func dump(t *testing.T, res object.Result) []byte {
	t.Helper()
	var pods []any
	for _, p := range res.Pods {
		pods = append(pods, map[string]any{"name": p.Name.String(), "deployment": p.Deployment, "workload": p.Workload.UID, "containers": plain(reflect.ValueOf(p.Containers))})
	}
	doc := map[string]any{}
	for k, v := range map[string]any{"parts": plain(reflect.ValueOf(res.Parts)), "pods": pods, "notices": text(res.Notices), "problems": text(res.Problems)} {
		if r := reflect.ValueOf(v); r.IsValid() && r.Len() > 0 {
			doc[k] = v
		}
	}
	b, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func text[T fmt.Stringer](list []T) (out []string) {
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

var enums = map[reflect.Type][]string{
	reflect.TypeFor[mesh.WaypointFor]():  {"service", "workload", "all", "none"},
	reflect.TypeFor[mesh.RouteKind]():    {"http", "grpc", "tcp", "tls"},
	reflect.TypeFor[mesh.MatchKind]():    {"exact", "prefix", "regex"},
	reflect.TypeFor[mesh.MTLSMode]():     {"unset", "permissive", "strict", "disable"},
	reflect.TypeFor[mesh.LocalityMode](): {"none", "failover", "strict", "passthrough"},
}

// plain turns a value into maps and strings, without what is zero.
func plain(v reflect.Value) any {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case mesh.Origin:
		return x.Line
	case time.Time:
		return x.Format(time.RFC3339)
	case time.Duration, netip.Addr, netip.Prefix, mesh.Name, mesh.ServiceKey, mesh.Identity, mesh.AppProtocol, mesh.Action, mesh.TunnelProtocol:
		return fmt.Sprint(x)
	}
	if names := enums[v.Type()]; names != nil {
		return names[v.Uint()]
	}
	switch v.Kind() {
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				out[v.Type().Field(i).Name] = plain(f)
			}
		}
		return out
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = plain(v.Index(i))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for it := v.MapRange(); it.Next(); {
			out[fmt.Sprint(it.Key().Interface())] = plain(it.Value())
		}
		return out
	default:
		return v.Interface()
	}
}
