package peers

import (
	"context"
	"fmt"
	"path/filepath"
)

// GRPCInterop returns the paths of grpc-go's interoperability client and server, built
// at the version of grpc-go that conformance/go.mod requires.
func GRPCInterop(ctx context.Context) (client, server string, err error) {
	dir, err := Home()
	if err != nil {
		return "", "", err
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", "", err
	}
	paths := [2]string{filepath.Join(dir, "grpc-interop-client"), filepath.Join(dir, "grpc-interop-server")}
	err = locked(dir, "grpc-interop", func() error {
		for i, pkg := range []string{"client", "server"} {
			if err := run(ctx, root, "go", "build", "-o", paths[i], "google.golang.org/grpc/interop/"+pkg); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", "", fmt.Errorf("building grpc-go's interop programs: %w", err)
	}
	return paths[0], paths[1], nil
}
