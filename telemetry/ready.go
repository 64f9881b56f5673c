package telemetry

import (
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Readiness is the set of named tasks that must end before a proxy may get
// traffic. The zero value has none: ready. Tasks may come back later, for
// example while a proxy drains.
type Readiness struct {
	mu      sync.Mutex
	pending map[string]int
}

// Pending adds a task and returns what ends it; calling that again does
// nothing. Tasks of one name are one line in the answer, until all have ended.
func (r *Readiness) Pending(name string) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = make(map[string]int)
	}
	r.pending[name]++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pending[name]--; r.pending[name] == 0 {
			delete(r.pending, name)
		}
	})
}

// Ready reports whether nothing is pending, and else what is, sorted.
func (r *Readiness) Ready() (ok bool, pending []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.pending {
		pending = append(pending, name)
	}
	slices.Sort(pending)
	return len(pending) == 0, pending
}

// ServeHTTP answers a readiness probe as ztunnel does: 200 "ready", or 500 with
// what is pending.
func (r *Readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !allow(w, req, http.MethodGet, http.MethodHead) {
		return
	}
	plainText(w)
	if ok, pending := r.Ready(); !ok {
		w.WriteHeader(http.StatusInternalServerError)
		write(w, "not ready, pending: "+strings.Join(pending, ", ")+"\n")
		return
	}
	write(w, "ready\n")
}
