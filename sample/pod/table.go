package pod

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxTableBytes bounds a table's file: 100,000 services fit.
const maxTableBytes = 16 << 20

// racyWindow is how young a file's last change must be for an unchanged stamp
// to prove nothing: file systems stamp in ticks of some milliseconds, and a
// second write of the same length may fall into the same tick.
const racyWindow = 100 * time.Millisecond

// hosts maps a lower-case name to its addresses, in the file's order.
type hosts map[string][]netip.Addr

// ports maps an address and port to the port that is really bound there.
type ports map[netip.AddrPort]uint16

// table is a value read from a file whenever the file changes. A file that
// does not parse leaves the last good value in force.
type table[T any] struct {
	path  string // "": the value never changes
	parse func([]byte) (T, error)

	mu     sync.Mutex
	stamp  stamp
	value  T
	failed error // why the file's present content is not the value
}

// stamp tells one state of a file from another.
type stamp struct {
	mtime time.Time
	size  int64
	info  fs.FileInfo
	racy  bool // changed so shortly before it was read that it must be read again
}

func fileTable[T any](path string, parse func([]byte) (T, error)) *table[T] {
	return &table[T]{path: path, parse: parse}
}

func fixedTable[T any](v T) *table[T] { return &table[T]{value: v} }

// get returns the table's value of now, and why that is not what the file
// says, if it is not. A nil table is empty.
func (t *table[T]) get() (T, error) {
	if t == nil {
		var none T
		return none, nil
	}
	if t.path == "" {
		return t.value, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t.value, nil // not written yet, or being replaced
	case err != nil:
		return t.value, fmt.Errorf("looking at %s: %w", t.path, err)
	case t.stamp.sameAs(info):
		return t.value, t.failed
	}
	b, err := readTable(t.path)
	if err != nil {
		return t.value, err
	}
	t.stamp = stamp{info.ModTime(), info.Size(), info, time.Since(info.ModTime()) < racyWindow}
	v, err := t.parse(b)
	if err != nil {
		t.failed = fmt.Errorf("reading %s: %w", t.path, err)
		return t.value, t.failed
	}
	t.value, t.failed = v, nil
	return v, nil
}

func (s stamp) sameAs(info fs.FileInfo) bool {
	return s.info != nil && !s.racy && s.size == info.Size() && s.mtime.Equal(info.ModTime()) && os.SameFile(s.info, info)
}

func readTable(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // the error names the operation and the path
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTableBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(b) > maxTableBytes {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", path, maxTableBytes)
	}
	return b, nil
}

// parseHosts reads hosts(5): an address and its names per line, # begins a
// comment. Names are compared without case and without a closing dot.
func parseHosts(b []byte) (hosts, error) {
	h := make(hosts)
	err := eachLine(b, func(f []string) error {
		ip, err := netip.ParseAddr(f[0])
		if err != nil {
			return err
		}
		if len(f) == 1 {
			return fmt.Errorf("address %s has no name", ip)
		}
		for _, name := range f[1:] {
			name = canonicalName(name)
			h[name] = append(h[name], ip.Unmap())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// parsePorts reads lines "ADDRESS PORT BOUNDPORT"; # begins a comment.
func parsePorts(b []byte) (ports, error) {
	m := make(ports)
	err := eachLine(b, func(f []string) error {
		if len(f) != 3 {
			return fmt.Errorf("%d fields, want ADDRESS PORT BOUNDPORT", len(f))
		}
		ip, err := netip.ParseAddr(f[0])
		if err != nil {
			return err
		}
		port, err := parsePort(f[1])
		if err != nil {
			return err
		}
		bound, err := parsePort(f[2])
		if err != nil {
			return err
		}
		m[netip.AddrPortFrom(ip.Unmap(), port)] = bound
		return nil
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// eachLine calls fn with the fields of every line that has any. An error of fn
// is returned with the line's number.
func eachLine(b []byte, fn func(fields []string) error) error {
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, maxTableBytes)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if err := fn(f); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return sc.Err()
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q is not between 1 and 65535", s)
	}
	return uint16(n), nil
}

func canonicalName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }
