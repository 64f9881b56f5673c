package waypoint

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
)

// held is what the process holds after a collection: live heap, and the stacks
// of its goroutines.
func held() int64 {
	runtime.GC()
	runtime.GC() // pools let go of what the first one left them
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// What 1,000 idle tunnels hold, each after one request, everything on. Both
// ends of their streams are in this process, and so are their connections and
// what the test itself keeps. The waypoint's share is less than half of it.
func TestMemoryOfTunnelsOverSockets(t *testing.T) {
	if raceDetector {
		t.Skip("memory is another under the race detector")
	}
	const tunnels, most = 1000, 6656
	l := newCallers(t)
	first := l.open(t, 1)
	l.run(t, 200, first)
	before := held()
	cs := l.open(t, tunnels)
	for i := range cs {
		l.run(t, 1, cs[i:i+1])
	}
	per := (held() - before) / tunnels
	if t.Logf("%d bytes per idle tunnel", per); per > most {
		t.Errorf("an idle tunnel holds %d bytes at both ends, more than %d", per, most)
	}
	if n := l.r.proxy.tunnels.Load(); n != tunnels+1 {
		t.Errorf("%d tunnels are open, want %d", n, tunnels+1)
	}
	l.run(t, tunnels, cs) // they still work
	l.r.pool.Close()
}

// What an idle HBONE connection holds: the waypoint's socket, TLS and HTTP/2
// state and its reader's stack, and the TLS state of the test's end.
func TestMemoryOfIdleConnections(t *testing.T) {
	if raceDetector {
		t.Skip("memory is another under the race detector")
	}
	const conns, most = 100, 26 << 10
	l := newCallers(t)
	addr := netip.AddrPortFrom(l.r.addr, 15008).String()
	cfg := l.r.cache.Client(clientID, []string{wpID.String()})
	var open []net.Conn
	connect := func() {
		c, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		open = append(open, c)
		greet(t, c)
	}
	connect()
	before := held()
	for range conns {
		connect()
	}
	per := (held() - before) / conns
	if t.Logf("%d bytes per idle connection", per); per > most {
		t.Errorf("an idle connection holds %d bytes at both ends, more than %d", per, most)
	}
	runtime.KeepAlive(open)
}

// greet exchanges prefaces on a connection and waits for the answer to a PING:
// then the server is set up and has nothing to do.
func greet(t *testing.T, c net.Conn) {
	t.Helper()
	const settings, ping = "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00\x08\x06\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(c, clientPreface+settings+ping+"idleidle"); err != nil {
		t.Fatal(err)
	}
	var got []byte
	buf := make([]byte, 1024)
	for !bytes.Contains(got, []byte("idleidle")) {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("waiting for the answer to a PING: %v after %q", err, got)
		}
		got = append(got, buf[:n]...)
	}
}
