package ztunnel

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// holeWorld is a world whose service "pair" has the endpoints hole, on another
// node, which takes connections and never answers, and, if asked for, server.
func holeWorld(t *testing.T, withServer bool) *world {
	w := newWorld(t, func(w *world) {
		w.options.Node = "n1"
		w.options.ConnectTimeout = 600 * time.Millisecond
		for _, p := range w.parts.Workloads {
			p.Node = "n1"
		}
		hole := pod("ns", "hole", w.addr(30))
		hole.Node = "n2"
		svc := svcOf("ns", "pair", w.addr(130), hole)
		svc.Ports[0] = mesh.ServicePort{Port: 8000, TargetPort: 8080}
		hole.Services[svc.Key] = map[uint16]uint16{8000: 8080}
		if withServer {
			w.parts.Workloads[1].Services[svc.Key] = map[uint16]uint16{8000: 8080}
		}
		w.parts.Workloads = append(w.parts.Workloads, hole)
		w.parts.Services = append(w.parts.Services, svc)
	})
	w.listen(w.addr(30)+":15008", func(c *net.TCPConn) {
		<-t.Context().Done() // hold it open, say nothing
		c.Close()
	})
	return w
}

// TestBlackHole opens connections to a dead peer side by side: they all fail
// after one timeout, not one after the other.
func TestBlackHole(t *testing.T) {
	w := holeWorld(t, false)
	start := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := w.roundTrip(1, w.addr(130)+":8000", "hi"); err == nil {
				t.Errorf("got %q from a black hole", got)
			}
		})
	}
	wg.Wait()
	if d := time.Since(start); d > 4*600*time.Millisecond {
		t.Errorf("8 connections took %v to fail, want about 0.6s", d)
	}
	w.close()
	if log := w.logged(); strings.Count(log, "maybe a NetworkPolicy is blocking HBONE port 15008") != 8 {
		t.Errorf("the access log does not say why:\n%s", log)
	}
}

// TestBlackHolePassedBy has a living endpoint besides: everybody is served.
func TestBlackHolePassedBy(t *testing.T) {
	w := holeWorld(t, true)
	w.listen(w.addr(2)+":8080", echo)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if got, err := w.roundTrip(1, w.addr(130)+":8000", "hi"); err != nil || got != "hi" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
}

// TestNothingLeft runs and drains a mesh under load and counts goroutines.
func TestNothingLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", lines)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			c, err := w.dial(1, w.service())
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintln(c, i)
			b := make([]byte, 8)
			if _, err := c.Read(b); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				c.Close()
			}
		})
	}
	wg.Wait()
	w.close()
	// Our own listener and the connections it serves end a little later.
	slack := 4
	w.until(func() bool { return runtime.NumGoroutine() <= before+slack })
}

// TestTornConnections resets connections in every phase: the proxy serves on.
func TestTornConnections(t *testing.T) {
	w := newWorld(t, nil)
	w.listen(w.addr(2)+":8080", lines)
	for i := range 50 {
		c, err := w.dial(1, w.service())
		if err != nil {
			t.Fatal(err)
		}
		if i%3 > 0 {
			fmt.Fprintln(c, i)
		}
		if i%3 > 1 {
			_, _ = c.Read(make([]byte, 8))
		}
		reset(c)
	}
	if got, err := w.roundTrip(1, w.service(), "still here"); err != nil || got != "still here" {
		t.Errorf("got %q, %v", got, err)
	}
	w.until(func() bool { return len(w.proxy.conns.list(nil)) == 0 })
}
