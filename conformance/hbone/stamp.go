package hbone

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stampedRead is the most that one read brings where the kernel's receive
// times count: the kernel tells that of the last byte.
const stampedRead = 32 << 10

// stamp asks for the kernel's receive times: what arrives while this process
// is busy then counts from its arrival.
func (t *transport) stamp() error {
	var failed error
	err := t.raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("asking for receive times: %w", err)
	}
	t.control = make([]byte, unix.CmsgSpace(16))
	return nil
}

// read reads ciphertext once, and tells when it arrived.
func (t *transport) read(fd int) (n int, at time.Time, err error) {
	if t.control == nil {
		n, err = syscall.Read(fd, t.ciphertext)
		return n, time.Now(), err
	}
	n, oob, _, _, err := unix.RecvmsgBuffers(fd, [][]byte{t.ciphertext[:stampedRead]}, t.control, 0)
	if err != nil || oob == 0 {
		return n, time.Now(), err // the kernel has no time of what came before it was asked for
	}
	head, data, _, err := unix.ParseOneSocketControlMessage(t.control[:oob])
	if err != nil || head.Type != unix.SO_TIMESTAMPNS || len(data) < 16 {
		return 0, time.Time{}, fmt.Errorf("receive time %v: %w", head, err)
	}
	sec, nsec := binary.NativeEndian.Uint64(data), binary.NativeEndian.Uint64(data[8:])
	return n, time.Unix(int64(sec), int64(nsec)), nil
}

// timedQuery asks the sink to say how long it had a request.
const timedQuery = "?timed"

const sinkTime = "x-sink-ns"

// appendTimed adds an answer and the time since the request arrived. The
// number has one width, so that every answer is of one length.
func appendTimed(b, answer []byte, since time.Time) []byte {
	const start = len("HTTP/1.1 200 OK\r\n")
	b = append(b, answer[:start]...)
	b = fmt.Appendf(b, "%s: %012d\r\n", sinkTime, time.Since(since).Nanoseconds())
	return append(b, answer[start:]...)
}

// cutTime reads the sink's time, if the line holds it.
func cutTime(line []byte) (time.Duration, bool) {
	value, ok := cutField(line, sinkTime)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	return time.Duration(n), err == nil
}
