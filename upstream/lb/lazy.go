package lb

import (
	"sync"
	"sync/atomic"
)

// Lazy is an algorithm that is built when it is first asked. The tables of those that
// hash take time and memory, and in a large mesh most services get no request.
type Lazy struct {
	once  sync.Once
	build func() Picker
	p     Picker
	built atomic.Bool
}

// NewLazy makes a Lazy.
func NewLazy(build func() Picker) *Lazy { return &Lazy{build: build} }

// Pick asks the algorithm. The first one builds it, and others wait meanwhile.
func (l *Lazy) Pick(w Want) int {
	l.once.Do(l.make)
	return l.p.Pick(w)
}

func (l *Lazy) make() {
	l.p, l.build = l.build(), nil
	l.built.Store(true)
}

// Built reports whether anybody has asked.
func (l *Lazy) Built() bool { return l.built.Load() }

// Build builds the algorithm now, for whoever knows that it will be asked.
func (l *Lazy) Build() { l.once.Do(l.make) }
