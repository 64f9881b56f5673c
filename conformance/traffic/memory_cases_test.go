package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// TestMemory measures the waypoint's resident memory while readers are slow. Its cases run
// one after the other.
func TestMemory(t *testing.T) { runGroup(t, "memory", memoryCases) }

const mib = 1 << 20

// memorySlack is what a waypoint may take for everything that is no stream: its collector's
// head room, connections, the first requests' caches.
const memorySlack = 24 * mib

const boundAlone = "the bound is a promise of Cairn's; Envoy took 14 MiB for each of these streams"

var memoryCases = []testCase{
	{
		name: "memory-down-h1", of: "clients that do not read: at most 1 MiB a stream more than idle, HTTP/1.1", quiet: true, untold: true, alone: boundAlone,
		prove: slowReaders(48, false), wrong: fastReader,
	},
	{
		name: "memory-down-h2", of: "clients that do not read: at most 1 MiB a stream more than idle, HTTP/2", quiet: true, untold: true, alone: boundAlone,
		mesh:  []svc{{name: "echo", app: "kubernetes.io/h2c"}},
		prove: slowReaders(48, true), wrong: fastReader,
	},
	{
		name: "memory-up-h1", of: "an endpoint that does not read: at most 1 MiB a stream more than idle, HTTP/1.1", quiet: true, untold: true, alone: boundAlone,
		prove: slowPods(48, false), wrong: fastReader,
	},
	{
		name: "memory-up-h2", of: "an endpoint that does not read: at most 1 MiB a stream more than idle, HTTP/2", quiet: true, untold: true, alone: boundAlone,
		mesh:  []svc{{name: "echo", app: "kubernetes.io/h2c"}},
		prove: slowPods(48, true), wrong: fastReader,
	},
}

// fastReader is the twin of what is slow: a body that is read goes through the same
// waypoint whole, so that what stands still does so for want of a reader.
func fastReader(x *trial) error {
	r, err := x.send(ask{headers: []string{"x-do", "bytes=67108864"}, timeout: 60 * time.Second})
	if err != nil {
		return err
	}
	return wrongf("all %d bytes came", len(r.body))
}

// grown measures the waypoint before and during what happens, in which so many streams
// stand still, and compares.
func (x *trial) grown(streams int, during func(held context.Context) error) error {
	if _, err := x.check(ask{}); err != nil {
		return err
	}
	before, err := x.process.RSS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := during(ctx); err != nil {
		return err
	}
	var most int64
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		now, err := x.process.RSS()
		if err != nil {
			return err
		}
		most = max(most, now)
	}
	if limit := before + int64(streams)*mib + memorySlack; most > limit {
		return wrongf("%d streams that stand still: %d MiB resident, %d before", streams, most/mib, before/mib)
	}
	return nil
}

// slowReaders asks for bodies of 64 MiB and reads their heads alone.
func slowReaders(n int, h2 bool) func(*trial) error {
	return func(x *trial) error {
		return x.grown(n, func(ctx context.Context) error {
			return all(n, func(int) error {
				tr := x.transport(ask{h2: h2})
				req, err := http.NewRequestWithContext(ctx, "GET", "http://echo/", nil)
				if err != nil {
					return err
				}
				req.Header.Set("X-Do", fmt.Sprintf("bytes=%d", 64*mib))
				resp, err := tr.RoundTrip(req)
				if err != nil {
					return err
				}
				context.AfterFunc(ctx, func() { resp.Body.Close(); tr.CloseIdleConnections() })
				return nil
			})
		})
	}
}

// slowPods sends bodies of 64 MiB to a pod that does not read them.
func slowPods(n int, h2 bool) func(*trial) error {
	return func(x *trial) error {
		arrived := make(chan struct{}, n)
		x.pod("echo-1").do(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				arrived <- struct{}{}
				<-r.Context().Done()
			}
		})
		return x.grown(n, func(ctx context.Context) error {
			for range n {
				tr := x.transport(ask{h2: h2})
				req, err := http.NewRequestWithContext(ctx, "POST", "http://echo/", io.LimitReader(zeros{}, 64*mib))
				if err != nil {
					return err
				}
				go func() {
					resp, err := tr.RoundTrip(req)
					if err == nil {
						resp.Body.Close()
					}
					tr.CloseIdleConnections()
				}()
			}
			for range n {
				select {
				case <-arrived:
				case <-ctx.Done():
					return errors.New("the requests did not arrive")
				}
			}
			return nil
		})
	}
}
