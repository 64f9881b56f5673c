package tunnel

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time that the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRelay moves bytes from a TCP connection through a relay, mTLS, and
// another relay to a TCP server. MB/cpu-s counts the whole process: both
// proxies and both applications.
func BenchmarkRelay(b *testing.B) {
	ln := listen(b)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
			}()
		}
	}()
	r := newRig(b, forward(b, ln.Addr()))
	app, relayed := r.through(b, "10.0.0.1:80")
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		if _, err := app.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	app.CloseWrite()
	<-relayed
	b.ReportMetric(float64(b.N)*float64(len(buf))/1e6/(cpu(b)-start).Seconds(), "MB/cpu-s")
}

// BenchmarkRelayEcho is a round trip of 100 bytes through both proxies.
func BenchmarkRelayEcho(b *testing.B) {
	r := newRig(b, forward(b, echoServer(b).Addr()))
	app, _ := r.through(b, "10.0.0.1:80")
	buf := make([]byte, 100)
	b.ReportAllocs()
	start := cpu(b)
	for b.Loop() {
		if _, err := app.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(app, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
}

// BenchmarkDial asks on a connection that is there, and is refused.
func BenchmarkDial(b *testing.B) {
	r := newRig(b, func(c *Connect) { c.Reject(401) })
	b.ReportAllocs()
	for b.Loop() {
		_, err := r.dial(b, "10.0.0.1:80")
		var se *StatusError
		if !errors.As(err, &se) {
			b.Fatal(err)
		}
	}
}
