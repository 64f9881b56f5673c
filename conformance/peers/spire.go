package peers

import (
	"context"
	"fmt"
	"path/filepath"
)

// spireModule is built at the version that conformance/spire/go.mod requires, with what that
// module requires.
const spireModule = "github.com/spiffe/spire/cmd/"

// SPIRE returns the paths of SPIRE's server and agent, built into the peers' folder. The
// server keeps its entries in SQLite, which is C.
func SPIRE(ctx context.Context) (server, agent string, err error) {
	dir, err := Home()
	if err != nil {
		return "", "", err
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", "", err
	}
	if _, err := Program(ctx, "gcc"); err != nil {
		return "", "", err
	}
	paths := [2]string{filepath.Join(dir, "spire-server"), filepath.Join(dir, "spire-agent")}
	err = locked(dir, "spire", func() error {
		for _, path := range paths {
			// Without symbols: linking is most of a build that finds its packages in the cache.
			if err := run(ctx, filepath.Join(root, "spire"), "go", "build", "-ldflags", "-s -w", "-o", path, spireModule+filepath.Base(path)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", "", fmt.Errorf("building SPIRE: %w", err)
	}
	return paths[0], paths[1], nil
}
