package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/up"
)

// minCertTTL leaves time to renew: dates in certificates are whole seconds.
const minCertTTL = 4 * time.Second

// upFlags are the flags of `cairn up`.
type upFlags struct {
	enrol, json, processes, netns, podLogs bool
	addresses                              string
	accessLog                              string
	state, ca                              string
	certTTL                                time.Duration
}

func newUpCommand(a *app) *cobra.Command {
	f := &upFlags{}
	cmd := &cobra.Command{
		Use:   "up PATH...",
		Short: "Run a whole mesh on this machine from Kubernetes manifests",
		Long: `Runs the mesh that manifests describe on this machine: node proxies, waypoints,
a certificate authority, and the pods, each with an address of its own. PATHs
are files or folders, read recursively and followed: a change is live within a
second, a broken one changes nothing and is reported.

Pods whose image is a known sample run the sample, pods whose command is a
program of this machine run that, and all others are "external": you run them,
on the address that is printed.

Without --netns nothing needs root: services and pods have addresses in
127.0.0.0/8, and a client picks the pod that it is by its source address
(curl --interface ADDRESS). Ports below 1024 that this user may not bind are
at 10000 + port. With --netns (root) every pod is a network namespace and its
traffic is redirected, as in a cluster.`,
		Example: `  cairn up examples/bookinfo
  cairn up bookinfo.yaml gateway.yaml --json
  sudo cairn up examples/bookinfo --netns`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, done, err := f.options(cmd, a, args)
			if err != nil {
				return err
			}
			defer done()
			return up.Run(cmd.Context(), o)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.enrol, "enrol", true, "enrol namespaces that carry no istio.io/dataplane-mode label")
	fl.BoolVar(&f.json, "json", false, "print events as JSON, one object per line")
	fl.BoolVar(&f.processes, "processes", false, "run each proxy in a process of its own")
	fl.BoolVar(&f.netns, "netns", false, "run each pod in a network namespace (needs root)")
	fl.BoolVar(&f.podLogs, "pod-logs", false, "write the pods' output to stderr")
	fl.StringVar(&f.addresses, "range", up.DefaultRange.String(), "where the addresses of services and pods are from; two meshes on one machine need two")
	fl.StringVar(&f.accessLog, "access-log", "", `where the access log goes: a file, "-" for stdout, or "none" (default "-", with --json "none")`)
	fl.StringVar(&f.state, "state", "", "folder that keeps the certificate authority from one run to the next (default: it is made anew, in memory)")
	fl.StringVar(&f.ca, "ca", "", "where to serve certificates for proxies of other processes, HOST:PORT (default: nowhere)")
	fl.DurationVar(&f.certTTL, "cert-ttl", identity.LeafTTL, "how long certificates live; they are renewed at half of that")
	return cmd
}

// options turns flags into up's options; done closes what it opened.
func (f *upFlags) options(cmd *cobra.Command, a *app, paths []string) (o up.Options, done func(), err error) {
	r, err := netip.ParsePrefix(f.addresses)
	if err != nil {
		return o, nil, &usageError{fmt.Errorf("--range %q: want a prefix like 127.70.0.0/16", f.addresses)}
	}
	if f.certTTL < minCertTTL {
		return o, nil, &usageError{fmt.Errorf("--cert-ttl %s: want at least %s", f.certTTL, minCertTTL)}
	}
	if f.ca != "" {
		if _, _, err := net.SplitHostPort(f.ca); err != nil {
			return o, nil, &usageError{fmt.Errorf("--ca %q: want HOST:PORT", f.ca)}
		}
	}
	self, err := os.Executable()
	if err != nil {
		return o, nil, fmt.Errorf("finding this program's file, which holds the samples (is /proc mounted?): %w", err)
	}
	if f.accessLog == "" {
		f.accessLog = "-"
		if f.json {
			f.accessLog = "none"
		}
	}
	log, done, err := openAccessLog(f.accessLog, cmd.OutOrStdout())
	if err != nil {
		return o, nil, err
	}
	o = up.Options{
		Paths: paths, Range: r, NoEnrol: !f.enrol, JSON: f.json, Processes: f.processes, Netns: f.netns,
		Out: cmd.OutOrStdout(), AccessLog: log, Self: self, Version: buildVersion(), Log: a.log,
		State: f.state, CA: f.ca, CertTTL: f.certTTL,
		Stderr: a.stderr, ProxyArgs: []string{"--log-format", a.logFormat, "--log-level", a.logLevel},
	}
	if log == nil {
		o.ProxyArgs = append(o.ProxyArgs, "--access-log", "none")
	}
	if f.podLogs {
		o.PodLogs = a.stderr
	}
	return o, done, nil
}

// openAccessLog opens what --access-log names; nil is "none".
func openAccessLog(to string, stdout io.Writer) (w io.Writer, done func(), err error) {
	switch to {
	case "none":
		return nil, func() {}, nil
	case "-":
		return stdout, func() {}, nil
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the access log: %w", err)
	}
	return f, func() { f.Close() }, nil
}

// newUpProxyCommand is how `cairn up` starts a proxy in a process of its own.
func newUpProxyCommand(a *app) *cobra.Command {
	f := &upFlags{}
	cmd := &cobra.Command{
		Use:    up.ProxyCommand + " SPEC",
		Short:  "Run one proxy of cairn up",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, done, err := openAccessLog(f.accessLog, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			defer done()
			return up.RunProxy(cmd.Context(), args[0], log, a.log)
		},
	}
	cmd.Flags().StringVar(&f.accessLog, "access-log", "-", "as for up")
	return cmd
}
