package lb

import "sync"

// Lazy is an algorithm that is built when it is first asked. The tables of those that
// hash take time and memory, and in a large mesh most services get no request.
type Lazy struct {
	once  sync.Once
	build func() Picker
	p     Picker
}

// NewLazy makes a Lazy.
func NewLazy(build func() Picker) *Lazy { return &Lazy{build: build} }

// Pick asks the algorithm. The first one builds it, and others wait meanwhile.
func (l *Lazy) Pick(w Want) int {
	l.once.Do(l.make)
	return l.p.Pick(w)
}

func (l *Lazy) make() { l.p, l.build = l.build(), nil }
