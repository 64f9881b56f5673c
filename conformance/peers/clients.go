package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// h2specModule is built at the version that conformance/go.mod requires.
const h2specModule = "github.com/summerwind/h2spec/cmd/h2spec"

// H2spec returns the path of the h2spec program, built into the peers' folder.
func H2spec(ctx context.Context) (string, error) {
	dir, err := Home()
	if err != nil {
		return "", err
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "h2spec")
	err = locked(dir, "h2spec", func() error {
		// The build cache makes this a stat when nothing changed, and a
		// new pin in go.mod is never missed.
		return run(ctx, root, "go", "build", "-o", binary, h2specModule)
	})
	if err != nil {
		return "", fmt.Errorf("building h2spec: %w", err)
	}
	return binary, nil
}

// packages maps each program to the Debian package that brings it.
var packages = map[string]string{
	"curl":     "curl",
	"h2load":   "nghttp2-client",
	"nghttp":   "nghttp2-client",
	"iptables": "iptables",
	// The server of Redis, for the rate limit service.
	"redis-server": "redis-server",
	"ip":           "iproute2",
	// What cgo calls, for SPIRE's server.
	"gcc": "gcc",
}

// Program returns the path of one of curl, h2load, nghttp, iptables, ip, gcc and redis-server,
// installing its package with apt-get when the machine lacks it.
func Program(ctx context.Context, name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	pkg, ok := packages[name]
	if !ok {
		return "", fmt.Errorf("getting %s: no package is known for it", name)
	}
	if err := apt(ctx, pkg); err != nil {
		return "", fmt.Errorf("getting %s: %w", name, err)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("package %s brought no %s: %w", pkg, name, err)
	}
	return path, nil
}

// apt installs one package of the distribution.
func apt(ctx context.Context, pkg string) error {
	dir, err := Home()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("there is no apt-get here: install the equivalent of the Debian package %s", pkg)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("installing needs root: run `apt-get install -y %s` and try again", pkg)
	}
	return locked(dir, "apt", func() error {
		err := run(ctx, dir, "apt-get", "install", "-y", "-qq", "--no-install-recommends", pkg)
		if err == nil {
			return nil
		}
		// The lists may be stale or absent: fetch them once and retry.
		if update := run(ctx, dir, "apt-get", "update", "-qq"); update != nil {
			return errors.Join(err, update)
		}
		return run(ctx, dir, "apt-get", "install", "-y", "-qq", "--no-install-recommends", pkg)
	})
}
