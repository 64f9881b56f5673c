// Command bench compares Cairn with others on the same work in the same run,
// and prints tables, a plot, and what fell short of its goal.
//
//	load ══HBONE══► proxy under test ══HBONE══► sink
//	└──────── one core ─────────┘    other core: the proxy
//
// Contenders take turns: in every round each case runs once on each of them,
// with a process of its own that is pinned to one core, while the load and the
// sink share another. What is compared is work per CPU-second of the proxy's
// process, because throughput on a shared machine says little; the figures of
// a case are the median and the spread of its rounds. A round in which a
// request failed, or the proxy waited for its core for too long, is thrown away
// and repeated.
//
// The configurations say the same thing to everyone, because they are made of
// the same manifests: HBONE in, routes, an authorization rule, HBONE out,
// 1 KiB responses and the access log on, if the case's shape says nothing else.
//
// Read cases.go first, then lab.go; judge.go, table.go and plot.go make the
// report.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// options are the command line.
type options struct {
	quick      bool
	rounds     int
	only       string
	group      string
	contenders string
	out        string
	proxyCore  int
	loadCore   int
	nice       int
	render     string
	into       string
	base       string
	stat       string
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == applicationCommand {
		os.Exit(serveApplication(os.Args[2]))
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "short rounds of a few cases, under three minutes; with -cases or -group short rounds of those")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each case")
	flag.StringVar(&o.only, "cases", "", "comma-separated names of the cases to run (default all)")
	flag.StringVar(&o.group, "group", "", "comma-separated groups whose cases to run (default all)")
	flag.StringVar(&o.contenders, "contenders", "", "comma-separated names of the proxies to run (default all)")
	flag.StringVar(&o.base, "base", "", "another build of cairn: compare with that, and with nobody else")
	flag.StringVar(&o.stat, "benchstat", "", "folder for the samples as files for benchstat, one per proxy")
	flag.StringVar(&o.out, "out", "", "folder for the JSON report (default results in the conformance folder)")
	flag.IntVar(&o.proxyCore, "proxy-core", 1, "core of the proxy under test, counted from 1")
	flag.IntVar(&o.loadCore, "load-core", 2, "core of the load and the sink, counted from 1")
	flag.IntVar(&o.nice, "nice", -20, "scheduling priority of proxy, load and sink, the same for all; without the right to raise it, it stays as it is")
	flag.StringVar(&o.render, "render", "", "run nothing: print this JSON report")
	flag.StringVar(&o.into, "into", "", "with -render: put the report between the marks of this Markdown file, and its plot beside it")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.render != "" {
		return render(o.render, o.into)
	}
	if o.rounds < 1 {
		return fmt.Errorf("%d rounds", o.rounds)
	}
	if o.out == "" {
		root, err := peers.ModuleRoot()
		if err != nil {
			return err
		}
		o.out = filepath.Join(root, "results")
	}
	if o.proxyCore == o.loadCore || runtime.NumCPU() < max(o.proxyCore, o.loadCore) {
		return fmt.Errorf("the proxy on core %d and the load on core %d: two different ones of this machine's %d are needed", o.proxyCore, o.loadCore, runtime.NumCPU())
	}
	l, err := newLab(ctx, o)
	if err != nil {
		return err
	}
	defer l.close()
	report, err := newReport(ctx, o, l)
	if err != nil {
		return err
	}
	// From here on this process is the load and the sink: one core, and one
	// thread of Go code on it.
	if err := proc.PinSelf(o.loadCore, o.nice); err != nil {
		return err
	}
	defer proc.Favour(o.nice)()
	runtime.GOMAXPROCS(1)
	l.estimate()
	if err := l.rounds(ctx, report); err != nil {
		return err
	}
	report.Finished = time.Now()
	report.judge()
	path, err := report.save(o.out)
	if err != nil {
		return err
	}
	report.print(os.Stdout)
	plot := strings.TrimSuffix(path, ".json") + ".svg"
	if err := os.WriteFile(plot, []byte(report.plot()), 0o644); err != nil {
		return fmt.Errorf("saving the plot: %w", err)
	}
	if o.stat != "" {
		if err := report.benchstat(o.stat); err != nil {
			return err
		}
	}
	fmt.Printf("\nEvery sample: %s\nThe plot: %s\n", path, plot)
	return report.verdictless()
}
