// Command peers installs every program that the conformance suites and the
// benchmark need, and prints where each is.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"cairnproxy.dev/cairn/conformance/peers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func install(ctx context.Context) error {
	list := []struct {
		name string
		get  func(context.Context) (string, error)
	}{
		{"envoy", peers.Envoy},
		{"h2spec", peers.H2spec},
		{"curl", program("curl")},
		{"nghttp", program("nghttp")},
		{"h2load", program("h2load")},
		{"ip", program("ip")},
		{"iptables", program("iptables")},
		{"redis-server", program("redis-server")},
		{"ratelimit", peers.RateLimit},
		{"interop", func(ctx context.Context) (string, error) {
			client, _, err := peers.GRPCInterop(ctx)
			return client, err
		}},
		{"gateway-api", peers.GatewaySuite},
		{"spire", func(ctx context.Context) (string, error) {
			server, _, err := peers.SPIRE(ctx)
			return server, err
		}},
	}
	for _, p := range list {
		path, err := p.get(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%-12s %s\n", p.name, path)
	}
	return nil
}

func program(name string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) { return peers.Program(ctx, name) }
}
