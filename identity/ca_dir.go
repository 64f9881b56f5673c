package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Names inside a CA's folder: its state with the keys (mode 0600), and the
// trusted roots alone for others to read.
const (
	caStateFile = "ca.json"
	caRootFile  = "root-cert.pem"
	caLockFile  = "ca.lock"
)

// OpenCA loads the CA that dir holds, or makes one and stores it there (dir is
// created with mode 0700, the state's file with 0600). It refuses a state that
// others may read. Several processes may open one folder at the same time: one
// of them makes the root, all of them get it, and each follows what another
// changes (Rotate).
func OpenCA(dir, trustDomain string) (*CA, error) {
	ca := newDirCA(dir, trustDomain)
	err := ca.follow()
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ca, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a folder for the CA: %w", err)
	}
	fresh, err := newCAState(trustDomain, time.Now())
	if err != nil {
		return nil, err
	}
	if err := ca.update(func(s *caState) (*caState, error) {
		if s != nil {
			return s, nil // another process was first
		}
		return fresh, nil
	}); err != nil {
		return nil, err
	}
	return ca, nil
}

// LoadCA is OpenCA for a folder that must hold a CA already.
func LoadCA(dir, trustDomain string) (*CA, error) {
	ca := newDirCA(dir, trustDomain)
	if err := ca.follow(); err != nil {
		return nil, err
	}
	return ca, nil
}

func newDirCA(dir, trustDomain string) *CA {
	return &CA{trustDomain: trustDomain, dir: dir, crl: NewCRL(filepath.Join(dir, CRLFile), nil)}
}

// RootFile is the path of the file with the trusted roots; "" for a CA in memory.
func (ca *CA) RootFile() string {
	if ca.dir == "" {
		return ""
	}
	return filepath.Join(ca.dir, caRootFile)
}

// follow reads the state again if its file has changed. An error leaves the CA
// with the state that it had.
func (ca *CA) follow() error {
	if ca.dir == "" {
		return nil
	}
	path := filepath.Join(ca.dir, caStateFile)
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("opening the CA: %w", err)
	}
	now := stampOf(info)
	ca.mu.RLock()
	same := ca.state != nil && ca.stamp == now
	ca.mu.RUnlock()
	if same {
		return nil
	}
	s, err := loadCA(path, info, ca.trustDomain)
	if err != nil {
		return err
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.state, ca.stamp = s, now
	return nil
}

func loadCA(path string, info fs.FileInfo, trustDomain string) (*caState, error) {
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("opening the CA: %s has mode %04o, so others may read the private key; run: chmod 600 %s", path, m, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening the CA: %w", err)
	}
	s, err := decodeCA(text, trustDomain, time.Now())
	if err != nil {
		return nil, fmt.Errorf("opening the CA in %s: %w", path, err)
	}
	return s, nil
}

// update replaces the state by what change makes of it, in the folder too, as
// the only one of all processes. For a folder without a state change gets nil.
func (ca *CA) update(change func(*caState) (*caState, error)) error {
	if ca.dir == "" {
		ca.mu.Lock()
		defer ca.mu.Unlock()
		s, err := change(ca.state)
		if err == nil {
			ca.state = s
		}
		return err
	}
	unlock, err := lockFile(filepath.Join(ca.dir, caLockFile))
	if err != nil {
		return fmt.Errorf("locking the CA's folder: %w", err)
	}
	defer unlock()
	if err := ca.follow(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ca.mu.RLock()
	old := ca.state
	ca.mu.RUnlock()
	s, err := change(old)
	if err != nil {
		return err
	}
	if s != old {
		text, err := s.encode()
		if err != nil {
			return err
		}
		// Roots first: nobody may meet a leaf whose root is in no file.
		if err := ca.writeRoots(s); err != nil {
			return err
		}
		if err := replaceFile(filepath.Join(ca.dir, caStateFile), text, 0o600); err != nil {
			return fmt.Errorf("storing the CA: %w", err)
		}
	}
	return ca.follow()
}

func (ca *CA) writeRoots(s *caState) error {
	var text []byte
	for _, r := range s.trusted(time.Now()) {
		text = append(text, certPEM(r)...)
	}
	if old, err := os.ReadFile(ca.RootFile()); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := replaceFile(ca.RootFile(), text, 0o644); err != nil {
		return fmt.Errorf("storing the CA's roots: %w", err)
	}
	return nil
}

// replaceFile writes a file that readers see whole, either the old or the new.
func replaceFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
