// Command cairn is an ambient service mesh's data plane in one binary: the L7
// proxy (waypoint), the L4 node proxy (ztunnel), and `cairn up`, which runs a
// whole mesh on this machine from Kubernetes manifests.
//
// Every subcommand is a file of this folder that reads flags and composes
// packages; what they do is in those packages. Logs go to stderr, results to
// stdout. Exit codes: 0 good, 1 failed, 2 usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/telemetry"
)

// Exit codes.
const (
	exitGood   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go stopOnSignal(signals, cancel)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// stopOnSignal asks the program to end in order at the first signal, and ends
// it at the second.
func stopOnSignal(signals <-chan os.Signal, cancel context.CancelFunc) {
	<-signals
	cancel()
	<-signals
	os.Exit(exitFailed)
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand(stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	var usage *usageError
	var silent *reportedError
	switch {
	case err == nil:
		return exitGood
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v\nRun '%s --help' for usage.\n", cmd.CommandPath(), err, cmd.CommandPath())
		return exitUsage
	case errors.As(err, &silent):
		return exitFailed
	}
	fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
	return exitFailed
}

func newRootCommand(stderr io.Writer) *cobra.Command {
	a := &app{stderr: stderr}
	root := &cobra.Command{
		Use:   "cairn",
		Short: "An ambient service mesh in one binary",
		Long: `Cairn is the data plane of an ambient service mesh in one binary: mutual TLS
between workloads, HTTP routing and authorization, from ordinary Kubernetes
manifests, with or without a cluster.`,
		Example: `  cairn up examples/bookinfo       # a whole mesh on this machine
  cairn check manifests/           # what is wrong with these manifests
  cairn config services --admin 127.0.0.1:15000`,
		Args:              noSuchCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.setUp() },
		SilenceUsage:      true,
		SilenceErrors:     true,

		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringVar(&a.logFormat, "log-format", "text", "how log lines are written to stderr: text or json")
	root.PersistentFlags().StringVar(&a.logLevel, "log-level", "info", "the least important log lines to write: trace, debug, info, warn, error or off")
	root.AddCommand(
		newUpCommand(a),
		newUpProxyCommand(a),
		newWaypointCommand(a),
		newZtunnelCommand(a),
		newCACommand(),
		newCheckCommand(),
		newConfigCommand(),
		newExplainCommand(),
		newSampleCommand(),
		newVersionCommand(),
	)
	usageErrors(root)
	return root
}

// app is what the subcommands share.
type app struct {
	stderr              io.Writer
	logFormat, logLevel string
	level               slog.LevelVar
	log                 *slog.Logger
}

// levels are the words of --log-level, and of ztunnel's RUST_LOG.
var levels = map[string]slog.Level{
	"trace": telemetry.LevelTrace, "debug": slog.LevelDebug, "info": slog.LevelInfo,
	"warn": slog.LevelWarn, "error": slog.LevelError, "off": slog.LevelError + 4,
}

// setUp makes the logger that the flags ask for.
func (a *app) setUp() error {
	level, ok := levels[a.logLevel]
	if !ok {
		return &usageError{fmt.Errorf("--log-level %q: want trace, debug, info, warn, error or off", a.logLevel)}
	}
	a.level.Set(level)
	o := &slog.HandlerOptions{Level: &a.level}
	switch a.logFormat {
	case "text":
		a.log = slog.New(slog.NewTextHandler(a.stderr, o))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(a.stderr, o))
	default:
		return &usageError{fmt.Errorf("--log-format %q: want text or json", a.logFormat)}
	}
	return nil
}

// usageError is a mistake in the command line: exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// reportedError is a failure that the user has been told of in full.
type reportedError struct{}

func (*reportedError) Error() string { return "failed" }

// usageErrors makes wrong arguments of cmd and the commands below it usage
// errors. A command that says nothing about arguments takes none.
func usageErrors(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.NoArgs
	}
	if cmd.HasSubCommands() {
		check = noSuchCommand
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err}
		}
		return nil
	}
	for _, c := range cmd.Commands() {
		usageErrors(c)
	}
}

// noSuchCommand refuses arguments of a command that only has subcommands.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q", args[0])
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		msg += "; did you mean " + strings.Join(s, " or ") + "?"
	}
	return errors.New(msg)
}
