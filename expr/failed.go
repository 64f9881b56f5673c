package expr

import (
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
)

// parts are the conjuncts of a condition, each a program of its own. They are made when
// somebody first asks why the condition does not hold.
type parts struct {
	once sync.Once
	list []*Program
}

// Failed returns the first of the conditions between the outermost && of p, a program of
// KindBool over a request, that does not hold or cannot be evaluated, as text, with its
// error; "" where all hold. It takes time, the first time more: it is for explanations.
func (p *Program) Failed(in *Input) (string, error) {
	p.parts.once.Do(func() { p.parts.list = split(p.text) })
	for _, part := range p.parts.list {
		if ok, err := part.Bool(in); !ok {
			return part.text, err
		}
	}
	ok, err := p.Bool(in)
	if ok {
		return "", nil
	}
	return p.text, err
}

// split compiles the conjuncts of text; where one cannot stand alone, nothing.
func split(text string) []*Program {
	env, err := requestEnv()
	if err != nil {
		return nil
	}
	checked, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil
	}
	tree := checked.NativeRep()
	list := conjuncts(tree.Expr())
	out := make([]*Program, 0, len(list))
	for _, e := range list {
		s, err := cel.ExprToString(e, tree.SourceInfo())
		if err != nil {
			return nil
		}
		p, err := compile(env, s, KindBool)
		if err != nil {
			return nil
		}
		out = append(out, p)
	}
	return slices.Clip(out)
}
