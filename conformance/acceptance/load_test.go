package acceptance

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// answer is what one request of a load got.
type answer struct {
	began, ended time.Time
	status       int
	who          string
	kept         bool // over a connection that is kept
	err          error
}

// load is a number of clients that send requests one after the other, until
// stop is called.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	all    []answer
}

// startLoad begins. Half of the clients keep their connection, half make a new
// one for each request. who takes from a body who answered.
func startLoad(t *testing.T, clients int, from, url string, who func(body string) string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel}
	t.Cleanup(func() { l.stop() })
	for i := range clients {
		kept := i%2 == 0
		c := client(t, from, kept)
		l.wg.Go(func() {
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				a := answer{began: time.Now(), kept: kept}
				var body string
				// Not ctx: a request that is under way is finished.
				a.status, body, a.err = do(context.Background(), c, "GET", url)
				a.ended, a.who = time.Now(), who(body)
				l.mu.Lock()
				l.all = append(l.all, a)
				l.mu.Unlock()
				<-pace.C
			}
		})
	}
	return l
}

// stop ends the load and returns its answers.
func (l *load) stop() []answer {
	l.cancel()
	l.wg.Wait()
	return l.all
}

// since returns the answers to requests that began at or after a time.
func (l *load) since(at time.Time) []answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []answer
	for _, a := range l.all {
		if !a.began.Before(at) {
			out = append(out, a)
		}
	}
	return out
}

// noneFailed fails the test for requests that did not get 200.
func noneFailed(t *testing.T, all []answer) {
	t.Helper()
	failed := 0
	var last answer
	for _, a := range all {
		if a.err != nil || a.status != 200 {
			failed, last = failed+1, a
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed, the last with %s (from %s to %s, kept connection: %v)", failed, len(all),
			status(last.status, last.err), last.began.UTC().Format("15:04:05.000"), last.ended.UTC().Format("15:04:05.000"), last.kept)
	}
	if len(all) == 0 {
		t.Error("the load sent nothing")
	}
}

// shares counts answers by who gave them.
func shares(all []answer) map[string]int {
	out := map[string]int{}
	for _, a := range all {
		out[a.who]++
	}
	return out
}

// wantOnly wants that all of many answers came from one place.
func wantOnly(all []answer, who string, atLeast int) error {
	if got := shares(all); got[who] < atLeast || got[who] != len(all) {
		return fmt.Errorf("answers %v, want %d or more of %s alone", got, atLeast, who)
	}
	return nil
}
