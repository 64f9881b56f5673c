//go:build unix

package identity

import (
	"io/fs"
	"syscall"
)

// inode tells a replaced file from the one before it, even at the same size
// and second.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
