package ztunnel

import (
	"io"
	"testing"
)

// BenchmarkPingPong sends 64 bytes there and back over one connection, through
// both ends of the tunnel.
func BenchmarkPingPong(b *testing.B) {
	w := newBenchWorld(b)
	w.listen(w.addr(2)+":8080", lines)
	c, err := w.dial(1, w.service())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkConnect opens a connection, exchanges a byte, and closes it.
func BenchmarkConnect(b *testing.B) {
	w := newBenchWorld(b)
	w.listen(w.addr(2)+":8080", lines)
	b.ReportAllocs()
	for b.Loop() {
		c, err := w.dial(1, w.service())
		if err != nil {
			b.Fatal(err)
		}
		buf := make([]byte, 1)
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkUpload sends 64 KiB writes one way.
func BenchmarkUpload(b *testing.B) {
	w := newBenchWorld(b)
	w.listen(w.addr(2)+":8080", echoCount)
	c, err := w.dial(1, w.service())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		b.Fatal(err)
	}
}
