package waypoint

import (
	"container/heap"
	"sync"
	"time"

	"cairnproxy.dev/cairn/upstream"
)

// watch does what clusters want done from time to time: endpoints come back from
// their ejection, rates are looked at, limits adapt, health is asked for. It also
// makes clusters pick anew after an endpoint's availability changed. It has
// one goroutine for all clusters of a proxy, which sleeps until the next has something due.
type watch struct {
	p  *Proxy
	mu sync.Mutex
	// due has all that are watched, the next first.
	due     dueList
	byState map[*upstream.ClusterState][]*admission
	kicked  chan struct{} // of capacity 1: somebody is due at once
}

// watched is an admission's place in the list; under watch.mu.
type watched struct {
	w    *watch
	at   time.Time
	pos  int
	in   bool
	seen uint64 // the state's changes when the cluster was refreshed; of the watching goroutine
}

type dueList []*admission

func (l dueList) Len() int           { return len(l) }
func (l dueList) Less(i, j int) bool { return l[i].watched.at.Before(l[j].watched.at) }
func (l dueList) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].watched.pos, l[j].watched.pos = i, j
}

func (l *dueList) Push(x any) {
	a := x.(*admission)
	a.watched.pos = len(*l)
	*l = append(*l, a)
}

func (l *dueList) Pop() any {
	last := len(*l) - 1
	a := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return a
}

func newWatch(p *Proxy) *watch {
	return &watch{p: p, byState: map[*upstream.ClusterState][]*admission{}, kicked: make(chan struct{}, 1)}
}

// add watches a cluster that is in force from now on. a may be nil.
func (w *watch) add(a *admission) {
	if a == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.watched.in {
		return
	}
	a.watched.in = true
	w.byState[a.state] = append(w.byState[a.state], a)
	heap.Push(&w.due, a)
	w.wake()
}

// remove stops watching a cluster that is no longer in force. a may be nil.
func (w *watch) remove(a *admission) {
	if a == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.watched.in {
		return
	}
	a.watched.in = false
	if a.watched.pos < len(w.due) && w.due[a.watched.pos] == a { // it is not just being looked after
		heap.Remove(&w.due, a.watched.pos)
	}
	list := w.byState[a.state]
	for i, o := range list {
		if o == a {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if w.byState[a.state] = list; len(list) == 0 {
		delete(w.byState, a.state)
	}
}

// kick makes the clusters with this state due at once: an endpoint's availability changed.
func (w *watch) kick(s *upstream.ClusterState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.byState[s] {
		a.watched.at = time.Time{}
		if a.watched.pos < len(w.due) && w.due[a.watched.pos] == a {
			heap.Fix(&w.due, a.watched.pos)
		}
	}
	w.wake()
}

func (w *watch) wake() {
	select {
	case w.kicked <- struct{}{}:
	default:
	}
}

// run looks after clusters until stop is closed.
func (w *watch) run(stop chan struct{}) {
	tm := time.NewTimer(time.Hour)
	defer tm.Stop()
	for {
		next := w.look(time.Now())
		if next.IsZero() {
			next = time.Now().Add(time.Hour)
		}
		// Not more often than the coarse timers: what is due at every moment must not be a loop.
		tm.Reset(max(time.Until(next), time.Millisecond))
		select {
		case <-stop:
			return
		case <-w.kicked:
		case <-tm.C:
		}
	}
}

// look does what is due, and returns when the next is; the zero time when nobody is watched.
func (w *watch) look(now time.Time) time.Time {
	for {
		w.mu.Lock()
		if len(w.due) == 0 || w.due[0].watched.at.After(now) {
			var next time.Time
			if len(w.due) > 0 {
				next = w.due[0].watched.at
			}
			w.mu.Unlock()
			return next
		}
		a := heap.Pop(&w.due).(*admission)
		a.watched.at = now.Add(time.Hour)
		w.mu.Unlock()
		next := a.tend(w.p, now)
		w.mu.Lock()
		if a.watched.in {
			// Whoever kicked it meanwhile finds it due again.
			if !a.watched.at.IsZero() {
				a.watched.at = next
			}
			heap.Push(&w.due, a)
		}
		w.mu.Unlock()
	}
}

// tend does for one cluster what is due, and returns when something is again.
func (a *admission) tend(p *Proxy, now time.Time) time.Time {
	next := now.Add(time.Hour)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	// What another policy has done, or what an exchange of before still did by it, is undone.
	if a.outlier != nil {
		sooner(a.outlier.Tick(now))
	} else {
		a.cl.c.Forgive()
	}
	if a.concurrency != nil {
		sooner(a.concurrency.Tick(a.state, now))
	}
	if a.health != nil {
		sooner(a.health.tend(p, now))
	} else {
		a.cl.c.Unchecked()
	}
	if n := a.state.Changes(); n != a.watched.seen {
		a.watched.seen = n
		a.cl.c.Refresh()
	}
	for _, e := range a.state.Events() {
		p.o.Log.Info("an endpoint is "+eventWords[e.What], "waypoint", p.o.Name.String(), "cluster", a.cl.name,
			"workload", e.Endpoint.Workload.UID, "address", e.Endpoint.Authority(), "reason", e.Reason, "for", e.For)
	}
	if !next.After(now) {
		next = now.Add(time.Millisecond)
	}
	return next
}

var eventWords = map[string]string{
	"ejected": "ejected", "returned": "back from its ejection", "unhealthy": "unhealthy", "healthy": "healthy again",
}
