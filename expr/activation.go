package expr

import (
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// activation gives cel-go the attributes that it asks for, one by one.
type activation struct {
	in                Input
	request, response headers
}

var _ cel.Activation = (*activation)(nil)

// Parent returns nil: there is nothing behind the request.
func (*activation) Parent() cel.Activation { return nil }

// ResolveName makes the value of an attribute.
func (a *activation) ResolveName(name string) (any, bool) {
	at := attributeOf(name)
	if at == nil {
		return nil, false
	}
	if err := a.in.lacks(at.id); err != nil {
		return types.WrapErr(err), true
	}
	switch at.typ {
	case typText:
		return types.String(a.in.text(at.id)), true
	case typInt:
		n, err := a.in.number(at.id)
		if err != nil {
			return types.WrapErr(err), true
		}
		return types.Int(n), true
	case typBool:
		return types.Bool(a.in.mtls()), true
	case typTime:
		return types.Timestamp{Time: a.in.now()}, true
	case typClaims:
		return types.DefaultTypeAdapter.NativeToValue(a.in.claims()), true
	case typHeaders:
	}
	if at.id == requestHeaders {
		return &a.request, true
	}
	return &a.response, true
}

// headers is a map of CEL over header fields.
type headers struct {
	in    *Input
	which attr
}

var _ traits.Mapper = (*headers)(nil)

func (h *headers) find(key ref.Val) (string, bool) {
	name, ok := key.(types.String)
	if !ok {
		return "", false
	}
	return h.in.header(h.which, lower(string(name)))
}

// Find returns a header's value.
func (h *headers) Find(key ref.Val) (ref.Val, bool) {
	if v, ok := h.find(key); ok {
		return types.String(v), true
	}
	return nil, false
}

// Get returns a header's value, or the error that there is none.
func (h *headers) Get(key ref.Val) ref.Val {
	if v, ok := h.find(key); ok {
		return types.String(v)
	}
	return types.NewErr("no such key: %v", key)
}

// Contains reports whether there is such a header.
func (h *headers) Contains(key ref.Val) ref.Val {
	_, ok := h.find(key)
	return types.Bool(ok)
}

// names are those of the fields, each once.
func (h *headers) names() []string {
	f := h.in.Req.Fields
	if h.which == responseHeaders {
		f = h.in.Resp.Fields
	}
	out := make([]string, 0, len(f))
	seen := make(map[string]bool, len(f))
	for i := range f {
		if name := f[i].Name; !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

// Size returns how many names there are.
func (h *headers) Size() ref.Val { return types.Int(len(h.names())) }

// Iterator goes through the names in the order in which they came.
func (h *headers) Iterator() traits.Iterator {
	return types.NewStringList(types.DefaultTypeAdapter, h.names()).(traits.Iterable).Iterator()
}

// copied is h as an ordinary map, for what is done too rarely to do it well.
func (h *headers) copied() ref.Val {
	m := map[string]string{}
	for _, name := range h.names() {
		m[name], _ = h.in.header(h.which, name)
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, m)
}

// Equal compares with another map.
func (h *headers) Equal(other ref.Val) ref.Val {
	if o, ok := other.(*headers); ok {
		other = o.copied()
	}
	return h.copied().Equal(other)
}

// ConvertToNative copies the fields.
func (h *headers) ConvertToNative(t reflect.Type) (any, error) { return h.copied().ConvertToNative(t) }

// ConvertToType copies the fields.
func (h *headers) ConvertToType(t ref.Type) ref.Val { return h.copied().ConvertToType(t) }

// Type returns that of maps.
func (h *headers) Type() ref.Type { return types.MapType }

// Value returns a copy of the fields.
func (h *headers) Value() any { return h.copied().Value() }
