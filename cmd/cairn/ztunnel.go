package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	var cert, key, root string
	cmd := &cobra.Command{
		Use:   "ztunnel",
		Short: "Run one node proxy by itself",
		Long: `Runs one node proxy in the network namespace that it is started in, for one
workload, with certificate files: outbound connections are captured at 15001
and plain inbound ones at 15006 (redirect them there), tunnels come in at
15008, metrics are at 15020 and readiness at 15021.

It is configured by ztunnel's environment:

  PROXY_MODE=dedicated        the only mode of this command
  PROXY_WORKLOAD_INFO         namespace/name/serviceaccount of the workload
  LOCAL_XDS_PATH, LOCAL_XDS   the mesh: a file in ztunnel's format, or its text
  XDS_ADDRESS                 must be empty
  NODE_NAME, NETWORK, CLUSTER_ID, PACKET_MARK, ENABLE_ORIG_SRC, IPV6_ENABLED,
  ISTIO_META_DNS_CAPTURE, POOL_MAX_STREAMS_PER_CONNECTION,
  POOL_UNUSED_RELEASE_TIMEOUT, KEEPALIVE_*, USER_TIMEOUT_ENABLED,
  CONNECTION_TERMINATION_DEADLINE, TERMINATION_GRACE_PERIOD_SECONDS,
  ENABLE_RESPONSE_BAGGAGE, RUST_LOG, LOG_FORMAT`,
		Example: `  PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=default/web/web XDS_ADDRESS= \
  LOCAL_XDS_PATH=mesh.yaml PACKET_MARK=1337 \
  cairn ztunnel --cert web.pem --key web-key.pem --root root.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := readZtunnelEnv(os.LookupEnv)
			if err != nil {
				return err
			}
			if err := a.ztunnelLog(cmd, env); err != nil {
				return err
			}
			return runZtunnel(cmd.Context(), a, env, identity.NewFiles(cert, key, root), cmd.OutOrStdout())
		},
	}
	requiredFlag(cmd, &cert, "cert", "the workload's certificate chain, PEM; read again when it changes")
	requiredFlag(cmd, &key, "key", "its private key, PEM")
	requiredFlag(cmd, &root, "root", "the trusted roots, PEM")
	return cmd
}

// requiredFlag adds a string flag that must be given.
func requiredFlag(cmd *cobra.Command, to *string, name, usage string) {
	cmd.Flags().StringVar(to, name, "", usage)
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *to == "" {
			return &usageError{fmt.Errorf("--%s is needed: %s", name, usage)}
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
}

// ztunnelLog lets ztunnel's variables say how to log where no flag does.
func (a *app) ztunnelLog(cmd *cobra.Command, env ztunnelEnv) error {
	if env.logFormat == "json" && !cmd.Flags().Changed("log-format") {
		a.logFormat = "json"
	}
	if env.logLevel != "" && !cmd.Flags().Changed("log-level") {
		a.logLevel = env.logLevel
	}
	return a.setUp()
}

func runZtunnel(ctx context.Context, a *app, env ztunnelEnv, files *identity.Files, accessLog io.Writer) error {
	// What is wrong with the files is told before anything listens.
	if _, err := files.Load(); err != nil {
		return err
	}
	parts, problems := env.mesh()
	if len(problems) > 0 {
		return problemsError(problems)
	}
	store := source.NewStore()
	store.Publish(parts)

	sh := shell.New(shell.Options{
		Component: "ztunnel", Version: buildVersion(), Admin: env.admin, Metrics: env.stats,
		AccessLog: accessLog, Level: &a.level, Log: a.log,
	})
	cache := identity.NewCache(files, identity.CacheOptions{Log: a.log})
	o := env.options
	o.Snapshots, o.Certificates, o.Metrics, o.AccessLog, o.Log = store, cache, sh.Metrics, sh.AccessLog, a.log
	p, err := ztunnel.New(o)
	if err != nil {
		return err
	}
	sh.Config = configOf(p)
	a.log.Info("node proxy starts", "workload", o.Workload.String(), "node", o.Node)
	return sh.Run(ctx, p.Run, cache.Run, sh.ServingOnce(p.Ready()))
}

// mesh reads the description of the mesh that the environment names.
func (e ztunnelEnv) mesh() (mesh.Parts, []source.Problem) {
	var parts mesh.Parts
	var problems []source.Problem
	switch {
	case e.xdsPath != "":
		parts, problems = localxds.ReadFile(e.xdsPath)
	case e.xdsText != "":
		parts, problems = localxds.Parse("LOCAL_XDS", []byte(e.xdsText))
	}
	parts.Network, parts.ClusterID = e.network, e.cluster
	if e.domain != "" {
		parts.ClusterDomain = e.domain
	}
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

// configOf returns a proxy's configuration dump.
func configOf(p any) func() any {
	if d, ok := p.(interface{ ConfigDump() any }); ok {
		return d.ConfigDump
	}
	return nil
}
