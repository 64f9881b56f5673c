package up

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"cairnproxy.dev/cairn/source"
)

// Options say what Run is to run. The zero value of each field is its default,
// but Paths, Out, Self and Log must be set.
type Options struct {
	// Paths are files and folders with manifests.
	Paths []string
	// NoEnrol leaves namespaces without an istio.io/dataplane-mode label out of
	// the mesh.
	NoEnrol bool
	// Range is where the addresses of the loopback mode are from; zero means
	// DefaultRange.
	Range netip.Prefix
	// Processes runs each proxy in a process of its own.
	Processes bool
	// Netns gives each pod a network namespace of its own. It needs root.
	Netns bool
	// State is a folder that keeps the certificate authority from one run to the
	// next; "" makes one for this run, in memory.
	State string
	// CA is where certificates are served for proxies that the user runs, HOST:PORT;
	// "" serves none.
	CA string
	// CertTTL is how long certificates live; 0 means identity.LeafTTL.
	CertTTL time.Duration
	// JSON prints events for scripts in place of tables.
	JSON bool

	// Out gets events or tables, AccessLog (nil: nobody) a line per request, and
	// PodLogs (nil: nobody) the output of the pods' programs.
	Out, AccessLog, PodLogs io.Writer
	// Stderr gets what proxies in processes of their own log; ProxyArgs are
	// further arguments of their command, such as the log level.
	Stderr    io.Writer
	ProxyArgs []string
	// Self is the path of the binary that has the commands of cmd/cairn: pods
	// that are samples, and proxies with Processes, are started from it.
	Self string
	// Version is what proxies say of themselves.
	Version string
	Log     *slog.Logger
}

// How long things may take.
const (
	// startWithin bounds how long proxies and pods may take to serve. What
	// takes longer is named, and the mesh is reported without it.
	startWithin = 20 * time.Second
	// applyWithin bounds how long proxies may take to serve by a new configuration
	// before it is reported as applied without them.
	applyWithin = 5 * time.Second
	// drainWithin is how long requests under way may go on when the mesh ends.
	drainWithin = 5 * time.Second
	// quietAfter is when pods are told to end, too.
	quietAfter = time.Second
)

// ProblemsError is returned when the manifests cannot be run as they stand.
type ProblemsError struct{ Problems []source.Problem }

// Error is the problem, or lists them, a line each.
func (e *ProblemsError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems in the manifests", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n" + p.String())
	}
	return b.String()
}

// Run runs the mesh until ctx ends, and then takes it down in order. It returns
// nil if it served until then, and an error that says what to do if it could
// not be started or a part of it failed.
func Run(ctx context.Context, o Options) error {
	if o.Range == (netip.Prefix{}) {
		o.Range = DefaultRange
	}
	dir, err := os.MkdirTemp("", "cairn-up-")
	if err != nil {
		return fmt.Errorf("making a folder for the hosts file and the like: %w", err)
	}
	defer os.RemoveAll(dir)
	r, err := newReconciler(o, dir)
	if err != nil {
		return err
	}
	defer r.machine.close()
	defer r.ca.close()
	return r.run(ctx)
}
