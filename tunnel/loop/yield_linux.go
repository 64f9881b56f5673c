package loop

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// politeness is after how many reads in a row, all of which brought something,
// a reader lets others run. Its own peer may never leave it a pause.
const politeness = 2

// yielder lets a goroutine wait until the network poller was asked once. The
// scheduler asks it only when nobody can run, so that runtime.Gosched would bring the
// caller back before all those whose sockets have become readable since. An
// eventfd that we make readable ourselves is found by the poller together with them.
type yielder struct {
	f  *os.File
	rc syscall.RawConn
}

var one = [8]byte{7: 1}

// yielders is empty but for busy times. What a pool forgets is closed by the
// cleanup of its os.File.
var yielders = sync.Pool{New: func() any {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return (*yielder)(nil)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return (*yielder)(nil)
	}
	return &yielder{f, rc}
}}

// yield lets every goroutine run that could, those whose sockets are readable
// included.
func yield() {
	y := yielders.Get().(*yielder)
	if y == nil { // no descriptor is left
		runtime.Gosched()
		return
	}
	defer yielders.Put(y)
	waited := false
	err := y.rc.Read(func(fd uintptr) bool {
		if !waited {
			waited = true
			// Not a raw call: it wakes the scheduler's monitor, which busy times need.
			_, err := syscall.Write(int(fd), one[:])
			return err != nil
		}
		var count [8]byte
		_, e := rawRead(fd, count[:])
		return e != syscall.EAGAIN
	})
	if err != nil {
		runtime.Gosched()
	}
}
