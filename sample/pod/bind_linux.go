package pod

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lateBind asks the kernel to choose the source port when it connects and not
// when it binds: bound early, one source address has a single ephemeral port
// range for all destinations together.
func lateBind(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Only a wish: without it connections work, there are just fewer of them.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}
