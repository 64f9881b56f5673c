package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// dropStartPages lets go of the pages of the program's code and constants that
// are mapped. Most were needed by the start alone, or came with a neighbour; what is
// needed still is mapped again from the page cache, where it stays.
func dropStartPages() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("finding the program's file: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("reading the program's mappings: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		// "start-end perms offset device inode path". What may be written to is not
		// the file's any more.
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != exe || f[1] != "r-xp" && f[1] != "r--p" {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &start, &end); err != nil {
			return fmt.Errorf("reading the mapping %q: %w", f[0], err)
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, start, end-start, syscall.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("letting go of the mapping %s: %w", f[0], errno)
		}
	}
	return nil
}
