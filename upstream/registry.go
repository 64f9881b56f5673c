package upstream

import (
	"runtime"
	"sync"
	"sync/atomic"
	"weak"

	"cairnproxy.dev/cairn/upstream/lb"
)

// live is what is counted of one workload's port while requests run. It has a
// cache line of its own, so that busy endpoints do not slow each other down.
type live struct {
	active  atomic.Int64
	latency lb.Latency // where a cluster goes by it
	_       [48]byte
}

// endpointKey is what an endpoint is known by across snapshots.
type endpointKey struct {
	uid  string
	port uint16
}

// Registry keeps what outlives snapshots: the counters of endpoints, which two endpoints of
// the same workload UID and port share, in whichever cluster of whichever snapshot, and the
// state of clusters. Both vanish when the last that uses them does, which is
// when the last snapshot and the last request that know it are gone.
//
// The zero Registry is ready. It is safe for concurrent use; picking does not
// touch it.
type Registry struct {
	live   weakMap[endpointKey, live]
	states weakMap[StateKey, ClusterState]
}

// Len returns how many endpoints have counters.
func (r *Registry) Len() int { return r.live.len() }

// State returns the state of the cluster that is known by key, a new one when
// there is none. A nil Registry shares nothing.
func (r *Registry) State(key StateKey) *ClusterState {
	if r == nil {
		return &ClusterState{}
	}
	return r.states.get(key)
}

// get returns the counters of key, new ones when there are none. A nil Registry
// shares nothing.
func (r *Registry) get(key endpointKey) *live {
	if r == nil {
		return &live{}
	}
	return r.live.get(key)
}

// weakMap holds values for as long as somebody else does. The zero weakMap is
// empty. It is safe for concurrent use.
type weakMap[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]weak.Pointer[V]
}

func (w *weakMap[K, V]) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.m)
}

// get returns the value of key, a new one when there is none.
func (w *weakMap[K, V]) get(key K) *V {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.m[key].Value(); v != nil {
		return v
	}
	v := new(V)
	if w.m == nil {
		w.m = make(map[K]weak.Pointer[V])
	}
	w.m[key] = weak.Make(v)
	// The cleanup must not hold w: w may lie in what holds v, and both would stay for good.
	forget := weak.Make(w)
	runtime.AddCleanup(v, func(key K) {
		if w := forget.Value(); w != nil {
			w.drop(key)
		}
	}, key)
	return v
}

// drop forgets key, unless it came back since.
func (w *weakMap[K, V]) drop(key K) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[key].Value() == nil {
		delete(w.m, key)
	}
}
