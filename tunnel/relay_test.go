package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/h2"
	"cairnproxy.dev/cairn/tunnel/loop"
)

// within fails the test unless f returns in good time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("%s takes too long", what)
	}
}

// accepted returns a listener and the first connection it accepts.
func accepted(t *testing.T) (net.Listener, <-chan *net.TCPConn) {
	t.Helper()
	ln := listen(t)
	ch := make(chan *net.TCPConn, 1)
	go func() {
		if c, err := ln.Accept(); err == nil {
			ch <- c.(*net.TCPConn)
		}
	}()
	return ln, ch
}

// A client that closes its connection sends a FIN, as one does that closes
// only its output. What the server sends after it must not be fetched for
// nobody until the server has no more.
func TestClientLeavesDownload(t *testing.T) {
	ln, conns := accepted(t)
	r := newRig(t, forward(t, ln.Addr()))
	app, relayed := r.through(t, "10.0.0.1:80")
	server := <-conns
	defer server.Close()
	server.Write([]byte("head"))
	io.ReadFull(app, make([]byte, 4))
	app.Close() // everything is read: a FIN, no reset
	within(t, "the FIN", func() {
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the server read %v, want EOF", err)
		}
	})
	within(t, "the end of a download that nobody reads", func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := server.Write(buf); err != nil {
				return
			}
		}
	})
	within(t, "the relay's end", func() {
		if err := <-relayed; !errors.Is(err, ErrReset) {
			t.Errorf("relay: %v, want ErrReset", err)
		}
	})
}

// A client that was reset after its FIN is noticed without a byte to send.
func TestResetAfterFIN(t *testing.T) {
	ln, conns := accepted(t)
	r := newRig(t, forward(t, ln.Addr()))
	app, relayed := r.through(t, "10.0.0.1:80")
	server := <-conns
	defer server.Close()
	app.CloseWrite()
	within(t, "the FIN", func() { server.Read(make([]byte, 1)) })
	app.SetLinger(0)
	app.Close()
	within(t, "the reset", func() {
		err := <-relayed
		if !errors.Is(err, ErrReset) || !(errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
			t.Errorf("relay: %v, want a reset by the connection", err)
		}
		// The server learns it by the reset of its own connection.
		for {
			if _, err := server.Write([]byte("x")); err != nil {
				return
			}
		}
	})
}

// What an early but orderly end of the stream had brought is delivered.
func TestEarlyEndDelivers(t *testing.T) {
	for _, tt := range []struct {
		code h2.ErrCode
		want error
	}{{h2.NoError, nil}, {h2.Cancel, ErrReset}} {
		t.Run(tt.code.String(), func(t *testing.T) {
			r := newRig(t, func(c *Connect) {
				s := c.Accept()
				loop.Run(func(turn *loop.Turn) {
					s.st.Write(turn, []byte("all there is"), false)
					s.st.Reset(turn, tt.code)
				})
			})
			app, relayed := r.through(t, "10.0.0.1:80")
			within(t, "the answer", func() {
				b, err := io.ReadAll(app)
				if err != nil || string(b) != "all there is" {
					t.Errorf("read %q, %v", b, err)
				}
				if err := <-relayed; !errors.Is(err, tt.want) {
					t.Errorf("relay: %v, want %v", err, tt.want)
				}
			})
		})
	}
}

// An end that comes from our own side (a policy changed) ends both sides, also
// when the client's half was over already.
func TestAbortOfHalfClosedRelay(t *testing.T) {
	ln, conns := accepted(t)
	r := newRig(t, forward(t, ln.Addr()))
	app, proxy := tcpPair(t)
	st, err := r.dial(t, "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	relayed := make(chan error, 1)
	go func() { relayed <- Relay(proxy, st, nil) }()
	server := <-conns
	defer server.Close()
	app.CloseWrite()
	within(t, "the FIN", func() { server.Read(make([]byte, 1)) })
	why := errors.New("policy changed")
	st.Reset(nil, nil, why)
	within(t, "the abort", func() {
		if err := <-relayed; !errors.Is(err, why) {
			t.Errorf("relay: %v", err)
		}
		if _, err := io.ReadAll(app); err == nil {
			t.Error("the client saw an orderly end, want a reset")
		}
		for {
			if _, err := server.Write([]byte("x")); err != nil {
				return
			}
		}
	})
}

// An orderly end that the client does not live to read is not one.
func TestResetWithAnswerUnread(t *testing.T) {
	ln, conns := accepted(t)
	r := newRig(t, forward(t, ln.Addr()))
	app, relayed := r.through(t, "10.0.0.1:80")
	server := <-conns
	app.CloseWrite()
	within(t, "the FIN", func() { server.Read(make([]byte, 1)) })
	// More than the kernel takes for a client that does not read, and less
	// than the windows hold.
	go func() {
		defer server.Close()
		server.Write(make([]byte, 16<<20))
	}()
	io.ReadFull(app, make([]byte, 64<<10))
	app.SetLinger(0)
	app.Close()
	within(t, "the reset", func() {
		if err := <-relayed; !errors.Is(err, ErrReset) {
			t.Errorf("relay: %v, want ErrReset", err)
		}
	})
}

// A stream that is reset before it is relayed ends its connection.
func TestResetBeforeRelay(t *testing.T) {
	r := newRig(t, func(c *Connect) { c.Accept().Abandon() })
	st, err := r.dial(t, "10.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the reset", func() { <-st.reset })
	app, proxy := tcpPair(t)
	within(t, "the relay", func() {
		if err := Relay(proxy, st, nil); !errors.Is(err, ErrReset) {
			t.Errorf("relay: %v", err)
		}
	})
	app.Close()
}

// A handler hears of a client that went away while it dials.
func TestDoneBeforeAccept(t *testing.T) {
	came, heard := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(c *Connect) {
		close(came)
		<-c.Done()
		close(heard)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-came
		cancel()
	}()
	if _, err := r.pool.Dial(ctx, r.target(), Request{Authority: "10.0.0.1:80"}); !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v", err)
	}
	within(t, "the news", func() { <-heard })
}
