package main

import (
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/sample/bookinfo"
	"cairnproxy.dev/cairn/sample/echo"
	"cairnproxy.dev/cairn/sample/httpbin"
	"cairnproxy.dev/cairn/sample/pod"
	"cairnproxy.dev/cairn/sample/ratelimit"
)

// sampleFlags are the flags that every sample has. Each mirrors an environment
// variable, and wins over it.
type sampleFlags struct {
	listen string
	pod    pod.Options
	grace  time.Duration
}

func newSampleCommand() *cobra.Command {
	f := &sampleFlags{}
	cmd := &cobra.Command{
		Use:   "sample",
		Short: "Run a sample server: echo, httpbin, bookinfo, ratelimit",
		Long: `Run one of the small servers that examples and tests are made of.

On its own a sample listens on every address and asks DNS. In a mesh without a
cluster it is told where it is: which address is its own, and which files name
the services and the ports that had to move. Every flag mirrors an environment
variable and wins over it.`,
		Example: `  cairn sample echo --listen :8080
  CAIRN_POD_IP=127.64.1.4 CAIRN_HOSTS=/run/mesh/hosts cairn sample bookinfo productpage`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	env := pod.FromEnv(os.Getenv)
	p := cmd.PersistentFlags()
	p.StringVar(&f.listen, "listen", os.Getenv("CAIRN_LISTEN"), "addresses to listen on, HOST:PORT or :PORT, separated by commas (CAIRN_LISTEN; by default :8080, and :9080 for bookinfo)")
	p.StringVar(&f.pod.IP, "pod-ip", env.IP, "the pod's address: to listen on, and to connect from (CAIRN_POD_IP)")
	p.StringVar(&f.pod.Name, "pod-name", env.Name, "the pod's name; by default the host name (CAIRN_POD_NAME)")
	p.StringVar(&f.pod.Namespace, "namespace", env.Namespace, "the pod's namespace (CAIRN_NAMESPACE)")
	p.StringVar(&f.pod.Version, "version", env.Version, "the version of the service, such as v2 (CAIRN_SERVICE_VERSION)")
	p.StringVar(&f.pod.HostsFile, "hosts", env.HostsFile, "hosts file consulted before DNS, read again when it changes (CAIRN_HOSTS)")
	p.StringVar(&f.pod.Ports, "ports", env.Ports, `file with lines "IP PORT BOUNDPORT" for ports bound elsewhere, or the lines themselves (CAIRN_PORTS)`)
	p.DurationVar(&f.grace, "grace", pod.DefaultGrace, "how long running requests may go on after SIGTERM")
	cmd.AddCommand(newSampleEcho(f), newSampleHTTPBin(f), newSampleBookinfo(f), newSampleRateLimit(f))
	return cmd
}

func newSampleEcho(f *sampleFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "echo",
		Short: "Say what was asked: HTTP/1.1, h2c, gRPC and WebSocket on one port",
		Long: `Answer every request with JSON that describes it. Some paths do more:

  /status/CODE               answer with this status
  /delay/DURATION            wait first, as in /delay/250ms
  /bytes/N                   N bytes
  /stream/N/INTERVAL         N lines of JSON, one each INTERVAL
  /flaky/FAILURES/OF/CODE    of each OF requests the first FAILURES answer CODE
  /fail/CODE/DURATION        this pod answers CODE to everything for DURATION
  /count                     how many requests this pod has had
  /ws                        WebSocket
  ?trailers=1                with trailers, on any path

gRPC: grpc.health.v1.Health, and cairn.sample.v1.Echo with the methods Unary,
ServerStream, ClientStream and Bidi.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, ":8080", func(p *pod.Pod) (http.Handler, error) { return echo.New(p), nil })
		},
	}
}

func newSampleHTTPBin(f *sampleFlags) *cobra.Command {
	var flat bool
	cmd := &cobra.Command{
		Use:   "httpbin",
		Short: "The part of httpbin that guides and tests use",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, ":8080", func(p *pod.Pod) (http.Handler, error) {
				return httpbin.New(p, httpbin.Options{FlatHeaders: flat}), nil
			})
		},
	}
	cmd.Flags().BoolVar(&flat, "flat-headers", false, "show each header as one string, as httpbin in Python does, and not as a list")
	return cmd
}

func newSampleBookinfo(f *sampleFlags) *cobra.Command {
	timeout := bookinfo.DefaultTimeout
	cmd := &cobra.Command{
		Use:   "bookinfo SERVICE",
		Short: "One service of the book shop: " + strings.Join(bookinfo.Services, ", "),
		Long: `Run one service of the book shop. productpage calls details and reviews, and
reviews v2 (black stars) and v3 (red stars) call ratings; --version chooses.

A service is called as http://NAME:9080. SERVICES_DOMAIN, and for each service
DETAILS_HOSTNAME, DETAILS_SERVICE_PORT and so on, say otherwise.`,
		Example:   "  cairn sample bookinfo reviews --version v2",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: bookinfo.Services,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd, ":9080", func(p *pod.Pod) (http.Handler, error) {
				return bookinfo.New(args[0], bookinfo.Options{Pod: p, Getenv: os.Getenv, Timeout: timeout})
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long productpage waits for a backend")
	return cmd
}

func newSampleRateLimit(f *sampleFlags) *cobra.Command {
	limits := os.Getenv("CAIRN_RATE_LIMITS")
	cmd := &cobra.Command{
		Use:   "ratelimit",
		Short: "A rate limit service that counts in memory",
		Long: `Answer envoy.service.ratelimit.v3 over gRPC, for limits that all instances of a
waypoint share. The limits are written as for github.com/envoyproxy/ratelimit,
whose server with Redis is for what several servers are to count together.`,
		Example: `  cairn sample ratelimit --limits 'domain: shop
  descriptors: [{key: client, rate_limit: {unit: minute, requests_per_unit: 3}}]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, ":8081", func(*pod.Pod) (http.Handler, error) {
				list, err := ratelimit.ParseConfig([]byte(limits))
				if err != nil {
					return nil, err
				}
				return ratelimit.New(list).Handler(), nil
			})
		},
	}
	cmd.Flags().StringVar(&limits, "limits", limits, "the limits, as YAML (CAIRN_RATE_LIMITS)")
	return cmd
}

// run serves the handler that build makes until the command's context is done,
// which a signal brings about.
func (f *sampleFlags) run(cmd *cobra.Command, listen string, build func(*pod.Pod) (http.Handler, error)) error {
	p, err := pod.New(f.pod)
	if err != nil {
		return &usageError{err}
	}
	h, err := build(p)
	if err != nil {
		return &usageError{err}
	}
	if f.listen != "" {
		listen = f.listen
	}
	return p.Serve(cmd.Context(), pod.ServeOptions{
		Listen:  listen,
		Handler: h,
		Grace:   f.grace,
		Log:     slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
	})
}
