package file

import (
	"io/fs"
	"syscall"
)

// identify returns what tells a file from another that took its name.
func identify(info fs.FileInfo) (inode uint64, changed int64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino, st.Ctim.Nano()
	}
	return 0, 0
}
