package waypoint

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
)

// timers fires deadlines of exchanges. There is a list per distinct duration:
// a new deadline is the last of its list, so starting and stopping one costs a
// few pointers, and a sweep looks only at the heads. Lists are spread over
// shards by exchange; deadlines are kept to within one sweep.
//
// Short pauses are too short for that: they have shards of their own, which are
// swept each millisecond while there is something in them.
type timers struct {
	shards [16]timerShard
	quick  [16]timerShard
	wake   chan struct{} // of capacity 1; something is in quick
}

type timerShard struct {
	mu    sync.Mutex
	lists map[time.Duration]*timerList
	// recent are the lists that were wanted last: routes have few durations, and use them
	// with each request.
	recent [4]recentList
	next   uint8 // of recent, to be replaced
}

type timerList struct{ head, tail *timer }

type recentList struct {
	d time.Duration
	l *timerList
}

// sweepInterval is how late a deadline may fire.
const sweepInterval = 20 * time.Millisecond

// quickInterval is how late a pause of less than quickBelow may end.
const (
	quickInterval = time.Millisecond
	quickBelow    = 100 * time.Millisecond
)

// timer is one deadline, embedded in what it is for. The zero timer is stopped.
// start and stop are called under the owner's lock.
type timer struct {
	prev, next *timer
	list       *timerList
	at         time.Time
	fire       func(t *loop.Turn)
	shard      *timerShard
}

// start sets m to fire d from now, on the sweeper's goroutine and without locks.
// A deadline that fires while its owner stops it fires all the same: fire asks
// expired, or looks at the owner's state.
func (ts *timers) start(m *timer, shard uint32, now time.Time, d time.Duration, fire func(t *loop.Turn)) {
	m.stop()
	ts.shards[shard%uint32(len(ts.shards))].start(m, now, d, fire)
}

// pause is start for pauses of any length, random ones too: short ones end within
// a millisecond, and all are rounded up, so that there are not too many lists.
func (ts *timers) pause(m *timer, shard uint32, now time.Time, d time.Duration, fire func(t *loop.Turn)) {
	if d >= quickBelow {
		ts.start(m, shard, now, roundUp(d, sweepInterval), fire)
		return
	}
	m.stop()
	ts.quick[shard%uint32(len(ts.quick))].start(m, now, roundUp(d, quickInterval), fire)
	select {
	case ts.wake <- struct{}{}:
	default: // it is awake, or will be
	}
}

// roundUp returns the multiple of unit that is not below d, or 0.
func roundUp(d, unit time.Duration) time.Duration {
	d = max(d, 0) + unit - 1
	return d - d%unit
}

func (s *timerShard) start(m *timer, now time.Time, d time.Duration, fire func(t *loop.Turn)) {
	at := now.Add(d)
	s.mu.Lock()
	l := s.list(d)
	m.shard, m.list, m.at, m.fire = s, l, at, fire
	if l.tail == nil {
		l.head = m
	} else {
		l.tail.next, m.prev = m, l.tail
	}
	l.tail = m
	s.mu.Unlock()
}

// list is that of a duration; the shard is locked.
func (s *timerShard) list(d time.Duration) *timerList {
	for i := range s.recent {
		if r := &s.recent[i]; r.d == d && r.l != nil {
			return r.l
		}
	}
	if s.lists == nil {
		s.lists = map[time.Duration]*timerList{}
	}
	l := s.lists[d]
	if l == nil {
		l = &timerList{}
		s.lists[d] = l
	}
	s.recent[int(s.next)%len(s.recent)] = recentList{d, l}
	s.next++
	return l
}

// stop cancels the deadline if it is set.
func (m *timer) stop() {
	s := m.shard
	if s == nil {
		return
	}
	s.mu.Lock()
	m.unlink()
	s.mu.Unlock()
	m.shard = nil
}

// stopAll is stop for the deadlines of one owner, with one lock where they share it.
func stopAll(all ...*timer) {
	var s *timerShard
	for _, m := range all {
		if m.shard == nil {
			continue
		}
		if m.shard != s {
			if s != nil {
				s.mu.Unlock()
			}
			s = m.shard
			s.mu.Lock()
		}
		m.unlink()
		m.shard = nil
	}
	if s != nil {
		s.mu.Unlock()
	}
}

// expired is for fire to call, under the owner's lock: it reports whether the
// deadline is still the one that passed. While fire was on its way, the owner
// may have stopped it or set another.
func (m *timer) expired() bool {
	s := m.shard
	if s == nil {
		return false
	}
	s.mu.Lock()
	set := m.list != nil
	s.mu.Unlock()
	if set {
		return false
	}
	m.shard = nil
	return true
}

// unlink takes m off its list; the shard is locked.
func (m *timer) unlink() {
	l := m.list
	if l == nil {
		return
	}
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		l.head = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	} else {
		l.tail = m.prev
	}
	m.prev, m.next, m.list = nil, nil, nil
}

// sweep fires what is due.
func (ts *timers) sweep(t *loop.Turn) {
	sweepShards(t, ts.shards[:])
	ts.sweepQuick(t)
}

// sweepQuick fires the short pauses that are due, and reports whether there are more.
func (ts *timers) sweepQuick(t *loop.Turn) bool { return sweepShards(t, ts.quick[:]) }

func sweepShards(t *loop.Turn, shards []timerShard) (more bool) {
	type passed struct {
		at   time.Time
		d    time.Duration
		fire func(t *loop.Turn)
	}
	var due []passed
	for i := range shards {
		s := &shards[i]
		s.mu.Lock()
		for d, l := range s.lists {
			for l.head != nil && !l.head.at.After(t.Now) {
				due = append(due, passed{l.head.at, d, l.head.fire})
				l.head.unlink()
			}
			more = more || l.head != nil
			if l.head == nil && len(s.lists) > 32 {
				delete(s.lists, d) // durations come from users: do not collect them
				s.recent = [len(s.recent)]recentList{}
			}
		}
		s.mu.Unlock()
	}
	if len(due) > 1 { // in order, and not in that of a map
		slices.SortStableFunc(due, func(a, b passed) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.d, b.d)) })
	}
	for _, p := range due {
		p.fire(t)
	}
	return more
}
