package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/proxy/shell"
	"cairnproxy.dev/cairn/proxy/ztunnel"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/localxds"
)

func newZtunnelCommand(a *app) *cobra.Command {
	certs, crl := &certFlags{}, ""
	cmd := &cobra.Command{
		Use:   "ztunnel",
		Short: "Run one node proxy by itself",
		Long: `Runs one node proxy in the network namespace that it is started in, for one
workload: outbound connections are captured at 15001
and plain inbound ones at 15006 (redirect them there), tunnels come in at
15008, metrics are at 15020 and readiness at 15021.

It is configured by ztunnel's environment:

  PROXY_MODE=dedicated        the only mode of this command
  PROXY_WORKLOAD_INFO         namespace/name/serviceaccount of the workload
  LOCAL_XDS_PATH, LOCAL_XDS   the mesh: a file in ztunnel's format, or its text
  XDS_ADDRESS                 must be empty
  CA_ADDRESS, CA_ROOT_CA      the CA to get certificates from, if not from files, and
  AUTH_TOKEN, CA_HEADER_*     the files with its roots and the token for it
  SPIFFE_ENDPOINT_SOCKET      or else the SPIFFE Workload API
  SECRET_TTL, TRUST_DOMAIN    how long certificates live, and whose they are
  CRL_PATH                    lists of revoked certificates, as for --crl
  NODE_NAME, NETWORK, CLUSTER_ID, PACKET_MARK, ENABLE_ORIG_SRC, RUST_LOG,
  LOG_FORMAT and the rest of ztunnel's variables, as far as they apply; what
  does not is refused by name.`,
		Example: `  PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=default/web/web XDS_ADDRESS= \
  LOCAL_XDS_PATH=mesh.yaml PACKET_MARK=1337 \
  cairn ztunnel --cert web.pem --key web-key.pem --root root.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			certs.fromEnvironment(lookupEnv)
			if err := certs.check(); err != nil {
				return err
			}
			env, err := ztunnel.FromEnvironment(os.Environ())
			if err != nil {
				return err
			}
			if err := a.ztunnelLog(cmd, env); err != nil {
				return err
			}
			if crl == "" {
				crl = env.CRLPath
			}
			certs.ttl, certs.headers = env.SecretTTL, headersOf(os.Environ())
			from, err := certs.open(a.log)
			if err != nil {
				return err
			}
			defer from.close()
			revoked, err := a.openCRL(crl, certs.rootsFile())
			if err != nil {
				return err
			}
			return runZtunnel(cmd.Context(), a, env, from, revoked, cmd.OutOrStdout())
		},
	}
	certs.add(cmd)
	cmd.Flags().StringVar(&crl, "crl", "", crlUsage)
	return cmd
}

// requiredFlag adds a string flag that must be given.
func requiredFlag(cmd *cobra.Command, to *string, name, usage string) {
	cmd.Flags().StringVar(to, name, "", usage)
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if check != nil {
			if err := check(cmd, args); err != nil {
				return err
			}
		}
		if *to == "" {
			return &usageError{fmt.Errorf("--%s is needed: %s", name, usage)}
		}
		return nil
	}
}

// ztunnelLog lets ztunnel's variables say how to log where no flag does.
func (a *app) ztunnelLog(cmd *cobra.Command, env *ztunnel.Environment) error {
	if env.JSONLog && !cmd.Flags().Changed("log-format") {
		a.logFormat = "json"
	}
	if env.LogLevel != "" && !cmd.Flags().Changed("log-level") {
		a.logLevel = env.LogLevel
	}
	return a.setUp()
}

func runZtunnel(ctx context.Context, a *app, env *ztunnel.Environment, from *certSource, crl *identity.CRL, accessLog io.Writer) error {
	if _, err := from.load(); err != nil {
		return err
	}
	parts, problems := readMesh(env)
	if len(problems) > 0 {
		return problemsError(problems)
	}
	store := source.NewStore()
	store.Publish(parts)

	sh := shell.New(shell.Options{
		Component: "ztunnel", Version: buildVersion(), Admin: fmt.Sprintf("127.0.0.1:%d", env.AdminPort), Metrics: fmt.Sprintf(":%d", env.StatsPort),
		AccessLog: accessLog, Level: &a.level, Log: a.log,
	})
	cache := identity.NewCache(from.issuer, identity.CacheOptions{Log: a.log, CRL: crl})
	o := env.Options
	if o.DNS {
		o.Nameservers = nameservers("/etc/resolv.conf")
	}
	o.Snapshots, o.Certificates, o.Metrics, o.AccessLog, o.Log = store, cache, sh.Metrics, sh.AccessLog, a.log
	p, err := ztunnel.New(o)
	if err != nil {
		return err
	}
	sh.Config = p.ConfigDump
	trim := func(ctx context.Context) error { return giveBackMemory(ctx, a.log, store, true) }
	a.log.Info("node proxy starts", "workload", o.Workload.String(), "node", o.Node)
	own := mesh.Identity{TrustDomain: env.TrustDomain, Namespace: o.Workload.Namespace, ServiceAccount: o.Workload.ServiceAccount}
	return sh.Run(ctx, from.before(p.Run, cache, own), cache.Run, from.follow, trim, sh.ServingOnce(p.Ready()))
}

// readMesh reads the description of the mesh that the environment names.
func readMesh(env *ztunnel.Environment) (mesh.Parts, []source.Problem) {
	var parts mesh.Parts
	var problems []source.Problem
	if env.LocalXDSPath != "" {
		parts, problems = localxds.ReadFile(env.LocalXDSPath)
	} else {
		parts, problems = localxds.Parse("LOCAL_XDS", []byte(env.LocalXDS))
	}
	parts.TrustDomain, parts.Network = env.TrustDomain, env.Network
	parts.ClusterID, parts.ClusterDomain = env.ClusterID, env.ClusterDomain
	return parts, problems
}

// problemsError lists problems, a line each.
func problemsError(problems []source.Problem) error {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	return errors.New(strings.Join(lines, "\n"))
}

// nameservers reads the name servers of a resolv.conf, for the names that the
// mesh does not know. A file that cannot be read names none.
func nameservers(path string) []netip.AddrPort {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for line := range strings.SplitSeq(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out
}
