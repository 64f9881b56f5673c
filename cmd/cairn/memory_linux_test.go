package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// fileBacked is how much of the process's resident memory is mapped files, in KiB.
func fileBacked(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}

func TestPagesOfTheStartAreLetGo(t *testing.T) {
	before := fileBacked(t)
	if err := dropStartPages(); err != nil {
		t.Fatal(err)
	}
	if after := fileBacked(t); after > before/2 {
		t.Errorf("%d KiB of files are mapped after, %d before: less than half of it was let go", after, before)
	}
}
