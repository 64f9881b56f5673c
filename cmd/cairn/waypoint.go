package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/shell"
	"cairnproxy.dev/cairn/proxy/waypoint"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
	"cairnproxy.dev/cairn/source/object"
)

// waypointFlags are the flags of `cairn waypoint`.
type waypointFlags struct {
	manifests                 []string
	gateway, address          string
	certs                     certFlags
	crl, trustDomain          string
	admin, metrics, accessLog string
	enrol                     bool
}

func newWaypointCommand(a *app) *cobra.Command {
	f := &waypointFlags{}
	cmd := &cobra.Command{
		Use:   "waypoint",
		Short: "Run one waypoint by itself",
		Long: `Runs the waypoint that a Gateway in manifests describes. Its certificate comes
from files, from a CA of Istio's API (istiod, or cairn up --ca), or from the SPIFFE
Workload API; from the latter two it is the one of the Gateway's service account.
It accepts tunnels on ADDRESS:15008, takes the addresses of services and pods
from the manifests as they stand there (spec.clusterIP, status.podIP), and
reaches endpoints by tunnel at podIP:15008. The manifests are followed: a
change is live within a second, a broken one changes nothing and is logged.`,
		Example: `  cairn waypoint --manifests mesh/ --gateway default/waypoint --address 10.0.0.5 \
  --cert waypoint.pem --key waypoint-key.pem --root root.pem
  cairn waypoint --manifests mesh/ --gateway default/waypoint --address 10.0.0.5 \
  --ca istiod.istio-system.svc:15012 --ca-token token --ca-root root.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), a, cmd.OutOrStdout()) },
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.manifests, "manifests", nil, "folder or file with manifests; may be given more than once")
	requiredFlag(cmd, &f.gateway, "gateway", "the Gateway to be, NAMESPACE/NAME")
	requiredFlag(cmd, &f.address, "address", "the IP address to listen on")
	f.certs.add(cmd)
	fl.StringVar(&f.trustDomain, "trust-domain", "", "the mesh's trust domain (default: that of the certificate file, $TRUST_DOMAIN or "+mesh.DefaultTrustDomain+")")
	fl.StringVar(&f.crl, "crl", "", crlUsage)
	fl.StringVar(&f.admin, "admin", "", "where the admin server listens (default 127.0.0.1:15000)")
	fl.StringVar(&f.metrics, "metrics", "", "where metrics and readiness are served (default port 15020 of all addresses)")
	fl.StringVar(&f.accessLog, "access-log", "-", `where the access log goes: a file, "-" for stdout, or "none"`)
	fl.BoolVar(&f.enrol, "enrol", true, "enrol namespaces that carry no istio.io/dataplane-mode label")
	return cmd
}

func (f *waypointFlags) run(ctx context.Context, a *app, stdout io.Writer) error {
	name, address, err := f.parse()
	if err != nil {
		return err
	}
	f.certs.fromEnvironment(lookupEnv)
	f.certs.headers = headersOf(os.Environ())
	from, err := f.certs.open(a.log)
	if err != nil {
		return err
	}
	defer from.close()
	cert, err := from.load()
	if err != nil {
		return err
	}
	if err := f.setTrustDomain(cert); err != nil {
		return err
	}
	crl, err := a.openCRL(f.crl, f.certs.rootsFile())
	if err != nil {
		return err
	}
	out, done, err := openAccessLog(f.accessLog, stdout)
	if err != nil {
		return err
	}
	defer done()
	src := file.New(file.Options{Paths: f.manifests, Log: a.log, Objects: object.Options{
		TrustDomain: f.trustDomain, Enrol: f.enrol, Allocator: standAlone{name, address},
	}})
	res := src.Load()
	if res.Refused() != nil {
		return problemsError(res.Problems)
	}
	a.logProblems(res.Problems)
	for _, n := range res.Notices {
		a.log.Info("notice: " + n.String())
	}
	store := source.NewStore()
	snap := store.Publish(res.Parts)
	w := snap.Waypoint(name)
	if w == nil {
		return fmt.Errorf("no waypoint %s in %s; --gateway names a Gateway of class cairn-waypoint or istio-waypoint", name, strings.Join(f.manifests, ", "))
	}
	sh := shell.New(shell.Options{
		Component: "proxy", Version: buildVersion(), Admin: f.admin, Metrics: f.metrics, AdminFlag: "--admin", MetricsFlag: "--metrics",
		NoReady: f.metrics != "", AccessLog: out, Level: &a.level, Log: a.log,
	})
	cache := identity.NewCache(from.issuer, identity.CacheOptions{Log: a.log, CRL: crl})
	own := w.Identity
	if cert != nil {
		own = cert.Identity
	}
	p, err := waypoint.New(waypoint.Options{
		Name: name, Identity: own, Addresses: []netip.Addr{address}, Port: w.Port, Source: dialSource(address),
		Snapshots: store, Identities: cache, Metrics: sh.Metrics, AccessLog: sh.AccessLog, Log: a.log,
	})
	if err != nil {
		return err
	}
	sh.Config, sh.Pages = p.ConfigDump, p.Pages()
	follow := func(ctx context.Context) error { return src.Run(ctx, store, a.logReload) }
	trim := func(ctx context.Context) error { return giveBackMemory(ctx, a.log, store, false) }
	a.log.Info("waypoint starts", "gateway", name.String(), "address", address.String(), "identity", own.String())
	return sh.Run(ctx, from.before(p.Run, cache, own), cache.Run, from.follow, follow, trim, sh.ServingOnce(p.Ready()))
}

// setTrustDomain settles --trust-domain, which a certificate file decides.
func (f *waypointFlags) setTrustDomain(cert *identity.Cert) error {
	switch v, ok := lookupEnv("TRUST_DOMAIN"); {
	case cert != nil && f.trustDomain != "" && f.trustDomain != cert.Identity.TrustDomain:
		return &usageError{fmt.Errorf("--trust-domain %s: the certificate is of %s", f.trustDomain, cert.Identity.TrustDomain)}
	case cert != nil:
		f.trustDomain = cert.Identity.TrustDomain
	case f.trustDomain != "":
	case ok:
		f.trustDomain = v
	default:
		f.trustDomain = mesh.DefaultTrustDomain
	}
	return nil
}

// parse reads the flags that have a form.
func (f *waypointFlags) parse() (mesh.Name, netip.Addr, error) {
	ns, n, ok := strings.Cut(f.gateway, "/")
	if !ok || ns == "" || n == "" {
		return mesh.Name{}, netip.Addr{}, &usageError{fmt.Errorf("--gateway %q: want NAMESPACE/NAME", f.gateway)}
	}
	address, err := netip.ParseAddr(f.address)
	if err != nil {
		return mesh.Name{}, netip.Addr{}, &usageError{fmt.Errorf("--address %q: want an IP address", f.address)}
	}
	if len(f.manifests) == 0 {
		return mesh.Name{}, netip.Addr{}, &usageError{fmt.Errorf("--manifests is needed: a folder or file with manifests")}
	}
	return mesh.Name{Namespace: ns, Name: n}, address, nil
}

// logReload tells of a new state of the manifests.
func (a *app) logReload(accepted int, problems []source.Problem) {
	if source.Refused(problems) == nil {
		a.log.Info("configuration is live", "objects", accepted)
	}
	a.logProblems(problems)
}

// logProblems tells what is wrong with the manifests, those that are refused and those that are served.
func (a *app) logProblems(problems []source.Problem) {
	level, what := slog.LevelWarn, "configuration is live but for this"
	if source.Refused(problems) != nil {
		level, what = slog.LevelError, "configuration refused, the last one serves on"
	}
	for _, p := range problems {
		a.log.Log(context.Background(), level, what, "file", p.File, "line", p.Line, "object", p.Object, "field", p.Field, "problem", p.Message)
	}
}

// standAlone gives one waypoint its address, and nothing else any.
type standAlone struct {
	name    mesh.Name
	address netip.Addr
}

// Service gives none.
func (standAlone) Service(mesh.Name) netip.Addr { return netip.Addr{} }

// Pod gives none.
func (standAlone) Pod(mesh.Name) netip.Addr { return netip.Addr{} }

// Waypoint gives the address of --address to the waypoint of --gateway.
func (s standAlone) Waypoint(n mesh.Name) netip.Addr {
	if n == s.name {
		return s.address
	}
	return netip.Addr{}
}

// dialSource is the address to dial from: where we listen, unless that is every address.
func dialSource(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
