package upstream

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// live is what is counted of one workload's port while requests run. It has a
// cache line of its own, so that busy endpoints do not slow each other down.
type live struct {
	active atomic.Int64
	_      [56]byte
}

// endpointKey is what an endpoint is known by across snapshots.
type endpointKey struct {
	uid  string
	port uint16
}

// Registry keeps the counters of endpoints across snapshots: two endpoints of
// the same workload UID and port, in whichever cluster of whichever snapshot, share
// them. Counters vanish when the last endpoint that uses them does, which is
// when the last snapshot and the last request that know it are gone.
//
// The zero Registry is ready. It is safe for concurrent use; picking does not
// touch it.
type Registry struct {
	mu   sync.Mutex
	live map[endpointKey]weak.Pointer[live]
}

// Len returns how many endpoints have counters.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// get returns the counters of key, new ones when there are none. A nil Registry
// shares nothing.
func (r *Registry) get(key endpointKey) *live {
	if r == nil {
		return &live{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.live[key].Value(); l != nil {
		return l
	}
	l := &live{}
	if r.live == nil {
		r.live = make(map[endpointKey]weak.Pointer[live])
	}
	r.live[key] = weak.Make(l)
	runtime.AddCleanup(l, r.drop, key)
	return l
}

// drop forgets key, unless the endpoint came back since.
func (r *Registry) drop(key endpointKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[key].Value() == nil {
		delete(r.live, key)
	}
}
