package strictyaml

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// NodeUnmarshaler is implemented by types that read a YAML node themselves,
// for instance because they look at its tag. An error's text becomes the
// message of an Error; it should end with what to do.
type NodeUnmarshaler interface {
	UnmarshalNode(n *yaml.Node) error
}

// Decode fills the struct, map or slice that into points to and returns what
// is wrong, in the order of the document. What could be read is in place even
// when there are errors.
func Decode(n *yaml.Node, into any) []Error {
	d := decoder{budget: 2*count(n) + aliasBudget} // values that go by way of JSON are seen twice
	d.value(n, reflect.ValueOf(into).Elem())
	return d.errs
}

// count is the number of nodes written below n, aliases not followed.
func count(n *yaml.Node) int {
	sum := 1
	for _, c := range n.Content {
		sum += count(c)
	}
	return sum
}

type step struct {
	name  string
	index int // -1 for a struct's field, -2 for a map's key, otherwise an index
}

type decoder struct {
	errs   []Error
	path   []step
	budget int // nodes that may still be visited
	over   bool
}

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	if d.over || len(d.errs) >= maxErrors {
		return
	}
	d.errs = append(d.errs, Error{Line: n.Line, Path: d.pathString(), Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) pathString() string {
	var b strings.Builder
	for _, s := range d.path {
		switch {
		case s.index == -2:
			b.WriteString("[" + s.name + "]")
		case s.index >= 0:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
		}
	}
	return b.String()
}

// enter follows aliases and guards depth and budget; nil means "stop here".
func (d *decoder) enter(n *yaml.Node) *yaml.Node {
	if d.budget--; d.budget < 0 || len(d.path) > maxDepth {
		d.fail(n, "its aliases expand too far; write the values out")
		d.over = true
		return nil
	}
	return target(n)
}

func (d *decoder) value(n *yaml.Node, v reflect.Value) {
	at := n
	if n = d.enter(n); n == nil || d.over {
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		v.SetZero()
		return
	}
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		d.budget++ // the same node again
		d.value(n, p.Elem())
		v.Set(p)
		return
	}
	if d.custom(at, n, v) {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.object(n, v)
	case reflect.Map:
		d.dict(n, v)
	case reflect.Slice:
		d.list(n, v)
	case reflect.Interface:
		if x := d.generic(n); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		d.scalar(n, v)
	}
}

func (d *decoder) custom(at, n *yaml.Node, v reflect.Value) bool {
	if !v.CanAddr() {
		return false
	}
	switch u := v.Addr().Interface().(type) {
	case NodeUnmarshaler:
		if err := u.UnmarshalNode(n); err != nil {
			d.fail(at, "%s", err)
		}
	case json.Unmarshaler:
		text, err := json.Marshal(d.generic(n))
		if err == nil && !d.over {
			err = u.UnmarshalJSON(text)
		}
		if err != nil {
			d.fail(at, "%s is not a valid value (%s); correct it", short(n), strings.TrimPrefix(err.Error(), "json: "))
		}
	case encoding.TextUnmarshaler:
		if n.Kind != yaml.ScalarNode {
			d.wrong(n, "a string")
		} else if err := u.UnmarshalText([]byte(n.Value)); err != nil {
			d.fail(at, "%s is not a valid value (%s); correct it", short(n), err)
		}
	default:
		return false
	}
	return true
}

// pairs calls f for each key of a mapping, merge keys ("<<") resolved, and
// reports keys that are given twice.
func (d *decoder) pairs(n *yaml.Node, f func(k, v *yaml.Node)) {
	seen := make(map[string]int, len(n.Content)/2)
	d.mapping(n, seen, false, f)
}

func (d *decoder) mapping(n *yaml.Node, seen map[string]int, merged bool, f func(k, v *yaml.Node)) {
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content) && !d.over; i += 2 {
		k, v := target(n.Content[i]), n.Content[i+1]
		if k == nil || k.Kind != yaml.ScalarNode {
			d.fail(n.Content[i], "a key must be a plain word; use a string")
			continue
		}
		if k.ShortTag() == "!!merge" {
			merges = append(merges, v)
			continue
		}
		if line, dup := seen[k.Value]; dup {
			if !merged {
				d.fail(n.Content[i], "key %s is given twice, first on line %d; remove one", strconv.Quote(clip(k.Value)), line)
			}
			continue
		}
		seen[k.Value] = n.Content[i].Line
		f(k, v)
	}
	for _, m := range merges {
		if m = d.enter(m); m == nil {
			return
		}
		list := []*yaml.Node{m}
		if m.Kind == yaml.SequenceNode {
			list = m.Content
		}
		for _, e := range list {
			at := e
			if e = d.enter(e); e == nil {
				return
			}
			if e.Kind != yaml.MappingNode {
				d.fail(at, "only a mapping can be merged; give << a mapping")
				continue
			}
			d.path = append(d.path, step{"<<", -1}) // counts the depth of merges in merges
			d.mapping(e, seen, true, f)
			d.path = d.path[:len(d.path)-1]
		}
	}
}

func (d *decoder) object(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, "a mapping")
		return
	}
	info := fieldsOf(v.Type())
	d.pairs(n, func(k, val *yaml.Node) {
		d.path = append(d.path, step{k.Value, -1})
		if index, ok := info.index[k.Value]; ok {
			d.value(val, v.FieldByIndex(index))
		} else if len(d.errs) < maxErrors { // looking for the nearest name takes time
			d.fail(k, "unknown field %s; %s", strconv.Quote(clip(k.Value)), info.remedy(k.Value))
		}
		d.path = d.path[:len(d.path)-1]
	})
}

func (d *decoder) dict(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, "a mapping")
		return
	}
	t := v.Type()
	v.Set(reflect.MakeMapWithSize(t, len(n.Content)/2))
	d.pairs(n, func(k, val *yaml.Node) {
		d.path = append(d.path, step{k.Value, -2})
		key := reflect.New(t.Key()).Elem()
		elem := reflect.New(t.Elem()).Elem()
		before := len(d.errs)
		switch key.Kind() {
		case reflect.String:
			key.SetString(k.Value)
		default:
			plain := *k
			plain.Style, plain.Tag = 0, "" // JSON can only write keys in quotes
			d.scalar(&plain, key)
		}
		d.value(val, elem)
		if len(d.errs) == before {
			v.SetMapIndex(key, elem)
		}
		d.path = d.path[:len(d.path)-1]
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		b, err := base64.StdEncoding.DecodeString(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			d.wrong(n, "base64 text")
			return
		}
		v.SetBytes(b)
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		if d.over {
			break
		}
		d.path = append(d.path, step{"", i})
		d.value(c, out.Index(i))
		d.path = d.path[:len(d.path)-1]
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value) {
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if n.Kind != yaml.ScalarNode {
			d.wrong(n, "a string")
		} else if tag != "!!str" && tag != "!!timestamp" {
			d.fail(n, "wants a string but has %s; put it in quotes", short(n))
		} else {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		var b bool
		if n.Kind != yaml.ScalarNode || tag == "!!str" && n.Style != 0 || n.Decode(&b) != nil {
			d.wrong(n, "true or false")
			return
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		x, err := integer[int64](n)
		if err || v.OverflowInt(x) {
			d.wrong(n, rangeOf(v.Type()))
			return
		}
		v.SetInt(x)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		x, err := integer[uint64](n)
		if err || v.OverflowUint(x) {
			d.wrong(n, rangeOf(v.Type()))
			return
		}
		v.SetUint(x)
	case reflect.Float32, reflect.Float64:
		var f float64
		if n.Kind != yaml.ScalarNode || tag != "!!float" && tag != "!!int" || n.Decode(&f) != nil {
			d.wrong(n, "a number")
			return
		}
		v.SetFloat(f)
	default:
		d.fail(n, "cannot be set from a file; remove it")
	}
}

func integer[T int64 | uint64](n *yaml.Node) (x T, bad bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" {
		return 0, true
	}
	return x, n.Decode(&x) != nil
}

func rangeOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Uint16:
		return "a whole number from 0 to 65535"
	case reflect.Uint32, reflect.Uint64, reflect.Uint, reflect.Uint8:
		return "a whole number that is not negative"
	default:
		return "a whole number"
	}
}

func (d *decoder) wrong(n *yaml.Node, want string) {
	d.fail(n, "wants %s but has %s; correct it", want, short(n))
}

// generic turns a node into maps, slices and scalars, as encoding/json does.
func (d *decoder) generic(n *yaml.Node) any {
	if n = d.enter(n); n == nil || d.over {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		d.pairs(n, func(k, v *yaml.Node) {
			d.path = append(d.path, step{k.Value, -1})
			m[k.Value] = d.generic(v)
			d.path = d.path[:len(d.path)-1]
		})
		return m
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			d.path = append(d.path, step{"", i})
			list = append(list, d.generic(c))
			d.path = d.path[:len(d.path)-1]
		}
		return list
	default:
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!int", "!!float", "!!bool":
		var x any
		if n.Decode(&x) == nil {
			return x
		}
	}
	return n.Value
}

// short is a node's value as a message shows it.
func short(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	if n.ShortTag() == "!!str" {
		return strconv.Quote(clip(n.Value))
	}
	return clip(n.Value)
}

func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// fields is what is known of a struct type: its fields by their json names.
type fields struct {
	index map[string][]int
}

var fieldCache sync.Map // reflect.Type -> *fields

func fieldsOf(t reflect.Type) *fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(*fields)
	}
	f := &fields{index: map[string][]int{}}
	f.add(t, nil)
	fieldCache.Store(t, f)
	return f
}

func (f *fields) add(t reflect.Type, prefix []int) {
	for i := range t.NumField() {
		sf := t.Field(i)
		index := append(append([]int(nil), prefix...), i)
		tag, has := sf.Tag.Lookup("json")
		name, opts, _ := strings.Cut(tag, ",")
		switch {
		case tag == "-":
		case sf.Anonymous && sf.Type.Kind() == reflect.Struct && (name == "" || strings.Contains(opts, "inline")):
			f.add(sf.Type, index)
		case !sf.IsExported():
		case has && name != "":
			f.index[name] = index
		default:
			f.index[sf.Name] = index
		}
	}
}

// remedy says what to do about a field that does not exist: the nearest one
// that does, if there is one that a slip of the finger explains.
func (f *fields) remedy(name string) string {
	best, least := "", 3
	for known := range f.index {
		dist := Distance(name, known, 3)
		if dist < least || dist == least && best != "" && known < best {
			best, least = known, dist
		}
	}
	if best == "" || 2*least >= len(name) {
		return "correct its name or its indentation, or remove it"
	}
	return fmt.Sprintf("did you mean %q?", best)
}

// Distance is the number of letters to insert, remove, replace or swap to turn
// a into b, without regard to case; limit when there are that many or more.
func Distance(a, b string, limit int) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return min(prev[len(b)], limit)
}
