package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

var (
	addrA = netip.MustParseAddrPort("10.0.0.1:1000")
	addrB = netip.MustParseAddrPort("10.0.0.2:80")
)

// TestConn holds Conn to what every net.Conn promises.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := Pipe(addrA, addrB, 0)
		return a, b, func() { _, _ = a.Close(), b.Close() }, nil
	})
}

// read reads up to n bytes and returns them as a string.
func read(t *testing.T, c *Conn, n int) string {
	t.Helper()
	b := make([]byte, n)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	return string(b[:n])
}

func write(t *testing.T, c *Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("writing %q: %d, %v", s, n, err)
	}
}

// wantErrors asserts what reading and writing return.
func wantErrors(t *testing.T, c *Conn, onRead, onWrite error) {
	t.Helper()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, onRead) {
		t.Errorf("Read: %v, want %v", err, onRead)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, onWrite) {
		t.Errorf("Write: %v, want %v", err, onWrite)
	}
}

func TestEnds(t *testing.T) {
	tests := []struct {
		name                string
		end                 func(*Conn)
		peerReads           string
		peerRead, peerWrite error // nil: goes on
		ownRead, ownWrite   error
	}{
		{name: "close", end: func(c *Conn) { c.Close() }, peerReads: "abc", peerRead: io.EOF, peerWrite: syscall.EPIPE, ownRead: net.ErrClosed, ownWrite: net.ErrClosed},
		{name: "reset", end: func(c *Conn) { c.Reset() }, peerRead: syscall.ECONNRESET, peerWrite: syscall.ECONNRESET, ownRead: net.ErrClosed, ownWrite: net.ErrClosed},
		{name: "close-write", end: func(c *Conn) { _ = c.CloseWrite() }, peerReads: "abc", peerRead: io.EOF, ownWrite: syscall.EPIPE},
		{name: "close-read", end: func(c *Conn) { _ = c.CloseRead() }, peerReads: "abc", peerWrite: syscall.EPIPE, ownRead: io.EOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := Pipe(addrA, addrB, 0)
			write(t, a, "abc")
			tt.end(a)
			if tt.peerReads != "" {
				if got := read(t, b, 10); got != tt.peerReads {
					t.Errorf("peer reads %q, want %q", got, tt.peerReads)
				}
			}
			// What did not end goes on.
			if tt.peerRead == nil {
				write(t, a, "more")
				if got := read(t, b, 10); got != "more" {
					t.Errorf("peer reads %q after %s", got, tt.name)
				}
				tt.peerRead = os.ErrDeadlineExceeded
				_ = b.SetReadDeadline(time.Unix(1, 0))
			}
			if tt.peerWrite == nil {
				write(t, b, "back")
				if got := read(t, a, 10); got != "back" {
					t.Errorf("read %q after %s", got, tt.name)
				}
			}
			if tt.ownRead == nil {
				tt.ownRead = os.ErrDeadlineExceeded
				_ = a.SetReadDeadline(time.Unix(1, 0))
			}
			wantErrors(t, b, tt.peerRead, tt.peerWrite)
			wantErrors(t, a, tt.ownRead, tt.ownWrite)
		})
	}
}

func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(addrA, addrB, 4)
		done := make(chan error, 1)
		go func() {
			_, err := a.Write([]byte("0123456789"))
			done <- err
		}()
		synctest.Wait()
		if n := b.Unread(); n != 4 {
			t.Errorf("%d bytes wait, want 4", n)
		}
		if got := read(t, b, 3); got != "012" {
			t.Errorf("read %q", got)
		}
		synctest.Wait()
		if n := b.Unread(); n != 4 {
			t.Errorf("%d bytes wait after a read, want 4", n)
		}
		_ = b.SetReadBuffer(100)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := read(t, b, 100); got != "3456789" {
			t.Errorf("read %q", got)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(addrA, addrB, 4)
		start := time.Now()
		_ = a.SetReadDeadline(start.Add(time.Minute))
		_ = a.SetWriteDeadline(start.Add(time.Hour))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("Read: %v after %v", err, time.Since(start))
		}
		if n, err := a.Write([]byte("0123456789")); n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("Write: %d, %v after %v", n, err, time.Since(start))
		}
		// A deadline that is taken back does not wake anybody.
		_ = a.SetReadDeadline(time.Now().Add(time.Second))
		_ = a.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Minute)
			_, _ = b.Write([]byte("late"))
		}()
		if got := read(t, a, 10); got != "late" {
			t.Errorf("read %q", got)
		}
	})
}

func TestHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := Listen(addrB, 512)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.RemoteAddr != "127.0.0.1:1" {
				t.Errorf("client is %s", r.RemoteAddr)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(body)
		})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		tr := &http.Transport{DialContext: ln.DialContext}
		body := strings.Repeat("0123456789", 1000)
		resp, err := (&http.Client{Transport: tr}).Post("http://x/", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != body {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		tr.CloseIdleConnections()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

func TestListenerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := Listen(addrB, 0)
		if ln.Addr().String() != addrB.String() {
			t.Errorf("address %s", ln.Addr())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ln.Dial(ctx, addrA); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Dial without Accept: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			_, _ = ln.Close(), ln.Close()
		}()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if _, err := ln.DialContext(t.Context(), "", ""); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Dial: %v", err)
		}
	})
}
