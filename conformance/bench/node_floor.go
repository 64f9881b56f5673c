package main

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// floor is what this machine cannot do without for one byte through a pair of
// node proxies, in seconds of CPU: encrypt it, decrypt it, and take it twice
// through the kernel. Of the three TCP connections that a byte passes the
// pair pays one in full, the tunnel, where it writes and reads; it only reads
// the client's and only writes the application's, which is one more together.
//
//	MB per CPU-second, at the floor = 1 / (seal + open + 2 × (write + read))
type floor struct{ seal, open, tcp float64 }

// mbPerCPU is the floor as bulk cases count.
func (f floor) mbPerCPU() float64 { return 1e-6 / (f.seal + f.open + 2*f.tcp) }

// floorSize is the payload of a TLS record, floorTime how long each part is tried.
const (
	floorSize = 16 << 10
	floorTime = 150 * time.Millisecond
)

// measureFloor tries it on the calling thread's core.
func measureFloor() (f floor, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return f, fmt.Errorf("measuring the floor: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return f, fmt.Errorf("measuring the floor: %w", err)
	}
	nonce, plain := make([]byte, gcm.NonceSize()), make([]byte, floorSize)
	sealed, opened := gcm.Seal(nil, nonce, plain, nil), make([]byte, 0, floorSize)
	var serr, oerr, terr error
	f.seal, serr = perByte(floorSize, func() error {
		sealed = gcm.Seal(sealed[:0], nonce, plain, nil)
		return nil
	})
	f.open, oerr = perByte(floorSize, func() error {
		_, err := gcm.Open(opened, nonce, sealed, nil)
		return err
	})
	f.tcp, terr = tcpCopy()
	return f, errors.Join(serr, oerr, terr)
}

// tcpCopy is the cost of one byte written to a TCP connection over loopback
// and read at its other end, 64 KiB at a time.
func tcpCopy() (float64, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("measuring the floor: %w", err)
	}
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("measuring the floor: %w", err)
	}
	defer out.Close()
	in, err := ln.Accept()
	if err != nil {
		return 0, fmt.Errorf("measuring the floor: %w", err)
	}
	defer in.Close()
	buf := make([]byte, 64<<10)
	return perByte(len(buf), func() error {
		if _, err := out.Write(buf); err != nil {
			return err
		}
		for n := 0; n < len(buf); {
			k, err := in.Read(buf[n:])
			if err != nil {
				return err
			}
			n += k
		}
		return nil
	})
}

// perByte runs f, which handles n bytes, for a while, and returns the seconds
// of this thread's CPU that each took.
func perByte(n int, f func() error) (float64, error) {
	begin, bytes := threadCPU(), 0
	for wall := time.Now(); time.Since(wall) < floorTime; bytes += n {
		if err := f(); err != nil {
			return 0, fmt.Errorf("measuring the floor: %w", err)
		}
	}
	return (threadCPU() - begin).Seconds() / float64(bytes), nil
}

func threadCPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err) // every Linux has this clock
	}
	return time.Duration(ts.Nano())
}
