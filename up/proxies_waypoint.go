package up

import (
	"context"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/proxy/shell"
)

func buildWaypoint(s spec, d deps, sh *shell.Shell, cache *identity.Cache) *builtProxy {
	return &builtProxy{run: func(ctx context.Context) error {
		sh.Serving()
		return sh.Run(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil }, cache.Run)
	}}
}
