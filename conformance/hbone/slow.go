package hbone

import "time"

// Begin sends a request on every tunnel and does not wait for the answers.
func (l *Load) Begin() {
	now := time.Now()
	l.each(func(lc *loadConn) {
		for _, t := range lc.tunnels {
			lc.start(t, now)
		}
	})
}

// Grant lets every tunnel whose answer is not complete be sent n bytes more,
// as a program does that reads so much.
func (l *Load) Grant(n int) {
	l.each(func(lc *loadConn) {
		for _, t := range lc.tunnels {
			if t.busy {
				lc.conn.windowUpdate(t.s.id, int64(n))
			}
		}
	})
}

// Progress is how far the requests of Begin are.
type Progress struct {
	Received uint64 // bytes inside the tunnels, heads of messages included
	Done     uint64 // answers that are complete
	Failures uint64
	Err      error // the first failure
}

// Progress tells how far the requests of Begin are.
func (l *Load) Progress() Progress {
	var p Progress
	l.each(func(lc *loadConn) {
		p.Received += lc.received
		p.Done += lc.done
		p.Failures += lc.failed
	})
	p.Err = l.firstFailure()
	return p
}
