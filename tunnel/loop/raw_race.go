//go:build race

package loop

import (
	"syscall"
	"unsafe"
)

// The race detector learns from these calls that what one end wrote happened
// before the other end's read: see raw.go for what runs without it.

func rawRead(fd uintptr, b []byte) (int, error) { return syscall.Read(int(fd), b) }

func rawWrite(fd uintptr, b []byte) (int, error) { return syscall.Write(int(fd), b) }

func rawWritev(fd uintptr, v []syscall.Iovec) (int, error) {
	n, _, e := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}
