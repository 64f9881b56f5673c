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

func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return count(n, e), e
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return count(n, e), e
}

func rawWritev(fd uintptr, v []syscall.Iovec) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return count(n, e), e
}

func count(n uintptr, e syscall.Errno) int {
	if e != 0 {
		return -1
	}
	return int(n)
}
