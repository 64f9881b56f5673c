//go:build !race

package loop

import (
	"syscall"
	"unsafe"
)

// The descriptors here never block, so their system calls are made without
// telling the scheduler (RawSyscall). It would wake its monitor thread for each
// of them when the process had been idle: two futex calls and two sleeps, a
// third of what a request costs at 1,000 per second.

func rawRead(fd uintptr, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return result(n, e)
}

func rawWrite(fd uintptr, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return result(n, e)
}

func rawWritev(fd uintptr, v []syscall.Iovec) (int, error) {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return result(n, e)
}

// result converts without an allocation: the errors that are not failures have
// values of their own.
func result(n uintptr, e syscall.Errno) (int, error) {
	switch e {
	case 0:
		return int(n), nil
	case syscall.EAGAIN:
		return -1, errEAGAIN
	case syscall.EINTR:
		return -1, errEINTR
	}
	return -1, e
}

var (
	errEAGAIN error = syscall.EAGAIN
	errEINTR  error = syscall.EINTR
)
