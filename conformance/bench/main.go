// Command bench compares Cairn's waypoint with Envoy in the shape that istiod
// gives one, on the same work in the same run, and prints a table.
//
//	load ══HBONE══► proxy under test ══HBONE══► sink
//	└──────── one core ─────────┘    other core: the proxy
//
// Contenders take turns: in every round each case runs once on each of them,
// with a process of its own that is pinned to one core, while the load and the
// sink share another. What is compared is work per CPU-second of the proxy's
// process, because throughput on a shared machine says little; the figures of
// a case are the median and the spread of its rounds. A round in which a
// request failed, or the proxy waited for its core for more than 5% of the
// time, is thrown away and repeated.
//
// The configurations say the same thing to everyone: HBONE in, one route, one
// authorization rule, HBONE out, 1 KiB responses, access log on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
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
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == applicationCommand {
		os.Exit(serveApplication(os.Args[2]))
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "three short rounds, under three minutes")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds of each case (default 5, or 3 with -quick)")
	flag.StringVar(&o.only, "cases", "", "comma-separated names of the cases to run (default all)")
	flag.StringVar(&o.group, "group", "", "comma-separated groups whose cases to run (default all)")
	flag.StringVar(&o.contenders, "contenders", "", "comma-separated names of the proxies to run (default all)")
	flag.StringVar(&o.out, "out", "", "folder for the JSON report (default results in the conformance folder)")
	flag.IntVar(&o.proxyCore, "proxy-core", 1, "core of the proxy under test, counted from 1")
	flag.IntVar(&o.loadCore, "load-core", 2, "core of the load and the sink, counted from 1")
	flag.IntVar(&o.nice, "nice", -20, "scheduling priority of proxy, load and sink, the same for all; without the right to raise it, it stays as it is")
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
	if o.rounds == 0 {
		o.rounds = 5
		if o.quick {
			o.rounds = 3
		}
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
	runtime.GOMAXPROCS(1)
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
	fmt.Printf("\nEvery sample: %s\n", path)
	for _, g := range report.Goals {
		if g.Weak {
			return errors.New("too few rounds counted: the machine is too busy for a verdict")
		}
	}
	return nil
}
