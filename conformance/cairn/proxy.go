package cairn

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// startTime is how long a proxy may take until it serves.
const startTime = 20 * time.Second

// Waypoint is `cairn waypoint`: one waypoint by itself, with certificate files.
type Waypoint struct {
	Binary    string // empty: the program under test
	Manifests string // folder
	Gateway   string // NAMESPACE/NAME
	Address   netip.Addr
	Files     ca.Files
	Certs     []string // flags that say where certificates come from, instead of Files
	Admin     string   // address:port; empty: the default
	Metrics   string   // address:port; empty: the default
	AccessLog string   // as for --access-log; empty: the file NAME.access.log
}

// Start runs it in dir as NAME and waits until it accepts connections on
// port 15008. opts carries core and priority.
func (w Waypoint) Start(ctx context.Context, dir, name string, opts proc.Options) (*proc.Process, error) {
	path := w.Binary
	if path == "" {
		var err error
		if path, err = peers.Cairn(); err != nil {
			return nil, err
		}
	}
	opts.Path = path
	opts.Args = []string{
		"waypoint", "--manifests", w.Manifests, "--gateway", w.Gateway, "--address", w.Address.String(),
	}
	if w.Certs == nil {
		w.Certs = []string{"--cert", w.Files.Cert, "--key", w.Files.Key, "--root", w.Files.Root}
	}
	opts.Args = append(opts.Args, w.Certs...)
	if w.Admin != "" {
		opts.Args = append(opts.Args, "--admin", w.Admin)
	}
	if w.Metrics != "" {
		opts.Args = append(opts.Args, "--metrics", w.Metrics)
	}
	if w.AccessLog != "" {
		opts.Args = append(opts.Args, "--access-log", w.AccessLog)
	}
	opts.Dir = dir
	opts.Log = filepath.Join(dir, name+".log")
	opts.Out = filepath.Join(dir, name+".access.log")
	p, err := proc.Start(opts)
	if err != nil {
		return nil, err
	}
	addr := netip.AddrPortFrom(w.Address, 15008).String()
	return awaited(ctx, p, name, func(ctx context.Context) error { return dialable(ctx, addr) })
}

// Ztunnel is `cairn ztunnel` in dedicated mode inside a network namespace:
// the node proxy of one workload.
type Ztunnel struct {
	Netns    string // name of the namespace, as `ip netns` knows it
	Workload string // NAMESPACE/NAME/SERVICEACCOUNT
	Node     string
	LocalXDS string // file: workloads, policies and services
	Files    ca.Files
	Env      []string
	Options  proc.Options // core and priority, and where stdout, the access log, goes
}

// Start runs it in dir as NAME and waits until the readiness endpoint says
// that it serves. get does an HTTP request from inside the namespace.
func (z Ztunnel) Start(ctx context.Context, dir, name string, get func(ctx context.Context, url string) (*http.Response, error)) (*proc.Process, error) {
	path, err := peers.Cairn()
	if err != nil {
		return nil, err
	}
	ip, err := peers.Program(ctx, "ip")
	if err != nil {
		return nil, err
	}
	opts := z.Options
	opts.Path = ip
	opts.Args = []string{"netns", "exec", z.Netns, path, "ztunnel", "--cert", z.Files.Cert, "--key", z.Files.Key, "--root", z.Files.Root}
	opts.Env = append([]string{
		"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=" + z.Workload, "NODE_NAME=" + z.Node,
		"LOCAL_XDS_PATH=" + z.LocalXDS, "PACKET_MARK=1337", "XDS_ADDRESS=", "ISTIO_META_DNS_CAPTURE=false",
	}, z.Env...)
	opts.Dir, opts.Log = dir, filepath.Join(dir, name+".log")
	p, err := proc.Start(opts)
	if err != nil {
		return nil, err
	}
	return awaited(ctx, p, name, func(ctx context.Context) error {
		resp, err := get(ctx, "http://127.0.0.1:15021/healthz/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readiness answers %s", resp.Status)
		}
		return nil
	})
}

// awaited waits for the process to be ready, and stops it when it is not.
func awaited(ctx context.Context, p *proc.Process, name string, ready func(context.Context) error) (*proc.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := p.Await(ctx, func() error { return ready(ctx) }); err != nil {
		_ = p.Stop(time.Second) // its log is in err already
		return nil, fmt.Errorf("starting cairn as %s: %w", name, err)
	}
	return p, nil
}

// dialable returns nil when something accepts connections at addr.
func dialable(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// WriteManifests puts one YAML text into a new folder below dir and returns
// the folder.
func WriteManifests(dir, text string) (string, error) {
	folder := filepath.Join(dir, "manifests")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("writing manifests: %w", err)
	}
	path := filepath.Join(folder, "mesh.yaml")
	if err := os.WriteFile(path, []byte(strings.TrimLeft(text, "\n")), 0o644); err != nil {
		return "", fmt.Errorf("writing manifests: %w", err)
	}
	return folder, nil
}
