package tcpload

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// serve starts an App and returns a Load that reaches it through relay, or
// directly.
func serve(t *testing.T, relay func(client, app net.Conn)) (*Load, func() error) {
	t.Helper()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	ln, app, done := listen(), &App{}, make(chan error, 1)
	go func() { done <- app.Serve(ln) }()
	stop := func() error {
		ln.Close()
		return <-done
	}
	to := ln.Addr()
	if relay != nil {
		front := listen()
		go func() {
			for {
				client, err := front.Accept()
				if err != nil {
					return
				}
				back, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					client.Close()
					continue
				}
				go relay(client, back)
			}
		}()
		to = front.Addr()
	}
	dial := func() (*Conn, error) {
		fd, err := Socket()
		if err != nil {
			return nil, err
		}
		return Connect(fd, to.(*net.TCPAddr).AddrPort())
	}
	return &Load{Dial: dial, App: app}, stop
}

func window() Window { return Window{D: 50 * time.Millisecond, Mark: func() {}} }

func TestRuns(t *testing.T) {
	l, stop := serve(t, nil)
	for _, test := range []struct {
		name string
		run  func() Result
		bulk bool
	}{
		{"bulk", func() Result { return l.Bulk(t.Context(), 2, window()) }, true},
		{"ping", func() Result { return l.PingPong(t.Context(), 3, 1024, window()) }, false},
		{"connect", func() Result { return l.Connect(t.Context(), 3, window()) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := test.run()
			if r.Failures > 0 || r.Done == 0 || r.Latency.N() != r.Done || (r.Bytes > 0) != test.bulk {
				t.Errorf("%d done, %d bytes, %d failures: %v", r.Done, r.Bytes, r.Failures, r.Err)
			}
		})
	}
	conns, err := l.Idle(t.Context(), 5)
	if err != nil || len(conns) != 5 {
		t.Fatalf("%d idle connections: %v", len(conns), err)
	}
	for _, c := range conns {
		if err := Exchange(c); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What a bad proxy does to the bytes is found out.
func TestFailures(t *testing.T) {
	bulk := func(ctx context.Context, l *Load) Result { return l.Bulk(ctx, 1, window()) }
	ping := func(ctx context.Context, l *Load) Result { return l.PingPong(ctx, 1, 1024, window()) }
	connect := func(ctx context.Context, l *Load) Result { return l.Connect(ctx, 1, window()) }
	for _, test := range []struct {
		name  string
		run   func(context.Context, *Load) Result
		there func(b []byte, at int) []byte // changes what the client sends
		back  func(b []byte, at int) []byte
		want  string
	}{
		{"bulk-flipped", bulk, flip(5 << 20), nil, "wrong checksum"},
		{"bulk-lost", bulk, drop(5 << 20), nil, ""},
		{"bulk-ack-flipped", bulk, nil, flip(3), "acknowledged as"},
		{"bulk-ended-early", bulk, end(5 << 20), nil, ""},
		{"ping-flipped", ping, nil, flip(5000), "differs"},
		{"ping-lost", ping, nil, end(5000), "reading the echo"},
		{"connect-flipped", connect, nil, flip(0), "differs"},
		{"connect-ended", connect, nil, end(0), "reading the echo"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, stop := serve(t, func(client, app net.Conn) {
				defer client.Close()
				defer app.Close()
				done := make(chan struct{})
				go func() {
					defer close(done)
					pass(client, app, test.back)
				}()
				pass(app, client, test.there)
				<-done
			})
			r := test.run(t.Context(), l)
			err := stop()
			if r.Failures == 0 {
				t.Fatalf("nothing failed; %d done, the application says %v", r.Done, err)
			}
			text := r.Err.Error()
			if err != nil {
				text += "; " + err.Error()
			}
			if !strings.Contains(text, test.want) {
				t.Errorf("%q does not say %q", text, test.want)
			}
		})
	}
}

// pass copies src to dst; change may alter what comes at an offset, and ends
// the direction by returning nil.
func pass(dst, src net.Conn, change func(b []byte, at int) []byte) {
	buf := make([]byte, 64<<10)
	for at := 0; ; {
		n, err := src.Read(buf)
		b := buf[:n]
		if change != nil && n > 0 {
			if b = change(b, at); b == nil {
				dst.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, src)
				return
			}
		}
		at += n
		if _, werr := dst.Write(b); err != nil || werr != nil {
			dst.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

func within(b []byte, at, where int) bool { return at <= where && where < at+len(b) }

func flip(where int) func([]byte, int) []byte {
	return func(b []byte, at int) []byte {
		if within(b, at, where) {
			b[where-at] ^= 1
		}
		return b
	}
}

func drop(where int) func([]byte, int) []byte {
	return func(b []byte, at int) []byte {
		if within(b, at, where) {
			i := where - at
			return append(b[:i:i], b[i+1:]...)
		}
		return b
	}
}

func end(where int) func([]byte, int) []byte {
	return func(b []byte, at int) []byte {
		if within(b, at, where) {
			return nil
		}
		return b
	}
}
