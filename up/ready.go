package up

import (
	"context"
	"net"
	"net/netip"
	"time"

	"cairnproxy.dev/cairn/sample"
)

// probeEvery is how often a pod that does not accept yet is asked again.
const probeEvery = 20 * time.Millisecond

// dialFunc opens a connection to a pod as its node would.
type dialFunc func(ctx context.Context, p Pod, to netip.AddrPort) (net.Conn, error)

// probePort is the port on which a pod's first server listens.
func probePort(p Pod) (uint16, bool) {
	for _, c := range p.Containers {
		if len(c.Ports) > 0 {
			return c.Ports[0], true
		}
		if _, ok := sample.ForImage(c.Image); ok && len(p.TargetPorts) > 0 {
			return p.TargetPorts[0], true
		}
	}
	return 0, false
}

func awaitAccept(ctx context.Context, p Pod, at netip.AddrPort, dial dialFunc) bool {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		if c, err := dial(ctx, p, at); err == nil {
			c.Close()
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}
