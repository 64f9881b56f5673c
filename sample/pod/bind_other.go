//go:build !linux

package pod

import "syscall"

// lateBind does nothing: only Linux can put off the choice of a source port.
func lateBind(_, _ string, _ syscall.RawConn) error { return nil }
