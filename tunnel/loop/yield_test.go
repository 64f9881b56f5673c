package loop

import (
	"runtime"
	"testing"
)

// A reader whose peer leaves it no pause does not keep others from theirs,
// even where there is one processor for all.
func TestBusyReaderIsPolite(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s, peer := plainPair(t)
	other, otherPeer := plainPair(t)
	const flood = 64 // reads that find something, as if the peer were always faster
	reads, heard := 0, -1
	busy := newHandler(func(_ *Turn, b []byte) (int, error) {
		if reads++; reads == 4 {
			otherPeer.Write([]byte("x"))
		}
		if reads < flood {
			peer.Write([]byte("more")) // before the reader looks again
		}
		return len(b), nil
	})
	done := make(chan struct{})
	serve(t, other, newHandler(func(_ *Turn, b []byte) (int, error) {
		heard = reads // on the same processor: nothing else runs
		close(done)
		return len(b), nil
	}), false)
	serve(t, s, busy, false)
	peer.Write([]byte("start"))
	within(t, "the other's byte", func() { <-done })
	if heard >= flood {
		t.Errorf("the other reader came after %d reads in a row, want soon after the 4th", heard)
	}
}
