package peers

import (
	"context"
	"fmt"
	"path/filepath"
)

// ratelimitModule is built at the version that conformance/ratelimit/server/go.mod requires, with
// what that module requires.
const ratelimitModule = "github.com/envoyproxy/ratelimit/src/service_cmd"

// RateLimit returns the path of Envoy's rate limit service, built into the peers' folder.
func RateLimit(ctx context.Context) (string, error) {
	dir, err := Home()
	if err != nil {
		return "", err
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "ratelimit")
	err = locked(dir, "ratelimit", func() error {
		return run(ctx, filepath.Join(root, "ratelimit", "server"), "go", "build", "-o", binary, ratelimitModule)
	})
	if err != nil {
		return "", fmt.Errorf("building the rate limit service: %w", err)
	}
	return binary, nil
}
