package expr

import (
	"fmt"
	"strconv"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// Program is a compiled expression.
type Program struct {
	text    string
	kind    Kind
	cost    uint64
	native  *node       // where it can be evaluated without cel-go,
	program cel.Program // which it is otherwise
	demands []Demand
	parts   parts
}

// String returns the expression's text.
func (p *Program) String() string { return p.text }

// Cost is the estimate of what an evaluation costs at most, in CEL's units.
func (p *Program) Cost() uint64 { return p.cost }

// Native reports whether the program is evaluated without cel-go and, but for what it
// has to put together, without allocation.
func (p *Program) Native() bool { return p.native != nil }

// Bool evaluates a program of KindBool.
func (p *Program) Bool(in *Input) (bool, error) {
	if p.native != nil {
		return p.native.bool(in)
	}
	v, err := p.eval(in)
	if err != nil {
		return false, err
	}
	if b, ok := v.(types.Bool); ok {
		return bool(b), nil
	}
	return false, p.mistyped(v)
}

// Int evaluates a program of KindInt.
func (p *Program) Int(in *Input) (int64, error) {
	if p.native != nil {
		return p.native.int(in)
	}
	v, err := p.eval(in)
	if err != nil {
		return 0, err
	}
	switch n := v.(type) {
	case types.Int:
		return int64(n), nil
	case types.Uint:
		if n <= 1<<63-1 {
			return int64(n), nil
		}
	case types.Double: // a number of JSON
		if i := int64(n); types.Double(i) == n {
			return i, nil
		}
	}
	return 0, p.mistyped(v)
}

// Text evaluates a program of KindString or KindScalar: numbers in decimal, a bool as
// true or false. The string may be a view of the request's memory.
func (p *Program) Text(in *Input) (string, error) {
	if n := p.native; n != nil {
		switch n.typ {
		case typInt:
			i, err := n.int(in)
			return strconv.FormatInt(i, 10), err
		case typBool:
			b, err := n.bool(in)
			return strconv.FormatBool(b), err
		default:
			return n.text(in)
		}
	}
	v, err := p.eval(in)
	if err != nil {
		return "", err
	}
	if s, ok := v.(types.String); ok {
		return string(s), nil
	}
	if p.kind == KindString {
		return "", p.mistyped(v)
	}
	switch v := v.(type) {
	case types.Int:
		return strconv.FormatInt(int64(v), 10), nil
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10), nil
	case types.Double:
		return strconv.FormatFloat(float64(v), 'g', -1, 64), nil
	case types.Bool:
		return strconv.FormatBool(bool(v)), nil
	}
	return "", p.mistyped(v)
}

func (p *Program) mistyped(v ref.Val) error {
	return fmt.Errorf("expression %s gave %s, where %s is needed", quote(p.text), article(v.Type().TypeName()), p.kind)
}

var activations = sync.Pool{New: func() any { return new(activation) }}

func (p *Program) eval(in *Input) (ref.Val, error) {
	a := activations.Get().(*activation)
	a.in = *in
	a.request, a.response = headers{in: &a.in, which: requestHeaders}, headers{in: &a.in, which: responseHeaders}
	v, _, err := p.program.Eval(a)
	a.in = Input{}
	activations.Put(a)
	return v, err
}
