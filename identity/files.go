package identity

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// Files is an Issuer of the one identity whose certificate chain, key and
// roots stand in PEM files that somebody else keeps fresh. Before a Cache it
// follows changes within seconds: Run asks every few seconds and handshakes at
// most every second, by the files' modification time, size and inode (so that
// Kubernetes' replaced symbolic links count). Files that do not fit together,
// as half-written ones, are an error; the cache then stays with the last good
// set and reads again as soon as the files change once more.
type Files struct {
	certFile, keyFile, rootFile string

	mu   sync.Mutex
	read [3]fileStamp // of the last attempt, good or bad
}

// fileStamp tells whether a file was replaced or rewritten.
type fileStamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// NewFiles returns an issuer that reads the three PEM files when asked to.
func NewFiles(certFile, keyFile, rootFile string) *Files {
	return &Files{certFile: certFile, keyFile: keyFile, rootFile: rootFile}
}

// Load reads the files now.
func (f *Files) Load() (*Cert, error) {
	// The stamps are taken first: a change between them and the reading is
	// noticed the next time.
	stamps := f.stamps()
	f.mu.Lock()
	f.read = stamps
	f.mu.Unlock()
	var text [3][]byte
	for i, name := range f.names() {
		var err error
		if text[i], err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("reading certificate files: %w", err)
		}
	}
	c, err := NewCert(text[0], text[1], text[2])
	if err != nil {
		return nil, fmt.Errorf("loading certificate %s with key %s and roots %s: %w", f.certFile, f.keyFile, f.rootFile, err)
	}
	return c, nil
}

// Issue is Load, for the identity that the files hold; any other is an error.
func (f *Files) Issue(ctx context.Context, id mesh.Identity) (*Cert, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := f.Load()
	if err == nil && c.Identity != id {
		return nil, fmt.Errorf("certificate %s is for %s, not for %s", f.certFile, c.Identity, id)
	}
	return c, err
}

func stampOf(info fs.FileInfo) fileStamp {
	return fileStamp{modified: info.ModTime(), size: info.Size(), inode: inode(info)}
}

// Changed reports whether a file is another than at the last reading.
func (f *Files) Changed(mesh.Identity) bool {
	now := f.stamps()
	f.mu.Lock()
	defer f.mu.Unlock()
	return now != f.read
}

func (f *Files) names() [3]string { return [3]string{f.certFile, f.keyFile, f.rootFile} }

func (f *Files) stamps() (out [3]fileStamp) {
	for i, name := range f.names() {
		if info, err := os.Stat(name); err == nil {
			out[i] = stampOf(info)
		}
	}
	return out
}
