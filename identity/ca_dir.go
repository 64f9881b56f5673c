package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Names inside a CA's folder: the key with its root (mode 0600), and the root
// alone for others to read.
const (
	caKeyFile  = "ca-key.pem"
	caRootFile = "root-cert.pem"
)

// OpenCA loads the CA that dir holds, or makes one and stores it there (dir is
// created with mode 0700, the key file with 0600). It refuses a key file that
// others may read. Several processes may open one folder at the same time: one
// of them makes the root, all of them get it.
func OpenCA(dir, trustDomain string) (*CA, error) {
	path := filepath.Join(dir, caKeyFile)
	ca, err := loadCA(path, trustDomain)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ca, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a folder for the CA: %w", err)
	}
	if ca, err = NewCA(trustDomain); err != nil {
		return nil, err
	}
	text, err := ca.encode()
	if err != nil {
		return nil, err
	}
	if err := writeNew(path, text, 0o600); errors.Is(err, fs.ErrExist) {
		return loadCA(path, trustDomain) // another process was first
	} else if err != nil {
		return nil, fmt.Errorf("storing the CA: %w", err)
	}
	root := filepath.Join(dir, caRootFile)
	if err := os.WriteFile(root, ca.RootPEM(), 0o644); err != nil {
		return nil, fmt.Errorf("storing the CA's root: %w", err)
	}
	return ca, nil
}

func loadCA(path, trustDomain string) (*CA, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the CA: %w", err)
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("opening the CA: %s has mode %04o, so others may read the private key; run: chmod 600 %s", path, m, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("opening the CA: %w", err)
	}
	ca, err := decodeCA(text, trustDomain, time.Now())
	if err != nil {
		return nil, fmt.Errorf("opening the CA in %s: %w", path, err)
	}
	return ca, nil
}

// writeNew writes a file that appears whole or not at all, and fails with
// fs.ErrExist when there is one already.
func writeNew(path string, text []byte, mode fs.FileMode) error {
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
	return os.Link(f.Name(), path)
}
