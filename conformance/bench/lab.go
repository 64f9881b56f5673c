package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/proc"
)

// lab is the small mesh of the benchmark: one service behind one waypoint,
// with one pod, in which the sink answers.
type lab struct {
	opts  options
	dir   string
	block *loopback.Block
	ca    *ca.CA

	vip      netip.AddrPort // the service
	pod      netip.AddrPort // its pod; HBONE on 15008 of the same address
	client   *ca.Leaf
	server   *ca.Leaf
	waypoint ca.Files

	sink     *hbone.Sink
	ln       net.Listener
	sinkDone chan error

	meshes     map[shape]*meshFiles
	contenders map[string]contender // those that the cases run on
	cases      []benchCase
}

const (
	namespace    = "bench"
	host         = "server.bench.svc.cluster.local"
	serverURI    = "spiffe://cluster.local/ns/bench/sa/server"
	clientURI    = "spiffe://cluster.local/ns/bench/sa/client"
	waypointURI  = "spiffe://cluster.local/ns/bench/sa/waypoint"
	responseSize = 1024
	maxWaited    = 0.05 // of the time: more, and the round does not count
	// The load is woken for each request and each answer, and a wake-up counts
	// as waiting until it is through: at 2,500 a second that is 6 to 7% on a
	// machine where nobody else runs.
	maxLoadWaited = 0.10
)

func newLab(ctx context.Context, o options) (_ *lab, err error) {
	l := &lab{opts: o, sinkDone: make(chan error, 1), meshes: map[shape]*meshFiles{}}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.dir, err = os.MkdirTemp("", "cairn-bench-"); err != nil {
		return nil, fmt.Errorf("making a working folder: %w", err)
	}
	if l.block, err = loopback.Take(); err != nil {
		return nil, err
	}
	l.vip = netip.AddrPortFrom(l.block.Addr(1), 8080)
	l.pod = netip.AddrPortFrom(l.block.Addr(2), 8080)
	if err := l.certificates(); err != nil {
		return nil, err
	}
	if l.ln, err = net.Listen("tcp", netip.AddrPortFrom(l.pod.Addr(), 15008).String()); err != nil {
		return nil, fmt.Errorf("starting the sink: %w", err)
	}
	l.sink = &hbone.Sink{TLS: l.server.Server(), DefaultSize: responseSize}
	go func() { l.sinkDone <- l.sink.Serve(l.ln) }()
	if l.cases, err = selectCases(o); err != nil {
		return nil, err
	}
	l.contenders, err = selectContenders(ctx, l)
	return l, err
}

func (l *lab) certificates() (err error) {
	if l.ca, err = ca.New("cluster.local"); err != nil {
		return err
	}
	if l.client, err = l.ca.Issue(namespace, "client"); err != nil {
		return err
	}
	if l.server, err = l.ca.Issue(namespace, "server"); err != nil {
		return err
	}
	waypoint, err := l.ca.Issue(namespace, "waypoint")
	if err != nil {
		return err
	}
	l.waypoint, err = l.ca.Write(l.dir, "waypoint", waypoint)
	return err
}

func (l *lab) close() {
	if l.ln != nil {
		l.ln.Close()
		if err := <-l.sinkDone; err != nil {
			fmt.Fprintln(os.Stderr, "bench: the sink:", err)
		}
	}
	if l.block != nil {
		l.block.Close()
	}
	if l.dir != "" {
		os.RemoveAll(l.dir)
	}
}

// estimate says how long it will take when every run counts.
func (l *lab) estimate() {
	runs, one := 0, time.Duration(0)
	for _, c := range l.cases {
		runs += len(c.on)
		one += time.Duration(len(c.on)) * c.lasts
	}
	fmt.Fprintf(os.Stderr, "%d cases in %d rounds, %d runs: about %s, longer if runs have to be repeated\n",
		len(l.cases), l.opts.rounds, runs*l.opts.rounds, (one * time.Duration(l.opts.rounds)).Round(time.Second))
}

// rounds runs every case on every contender o.rounds times, in turns whose
// order changes from round to round. What breaks is noted and not tried again:
// the other cases go on.
func (l *lab) rounds(ctx context.Context, r *report) error {
	broken := map[string]bool{}
	begin := time.Now()
	for round := range l.opts.rounds {
		if round > 0 {
			left := time.Since(begin) / time.Duration(round) * time.Duration(l.opts.rounds-round)
			fmt.Fprintf(os.Stderr, "%d of %d rounds are done, about %s to go\n", round, l.opts.rounds, left.Round(time.Second))
		}
		for _, c := range l.cases {
			for i := range c.on {
				x := l.contenders[c.on[(i+round)%len(c.on)]]
				key := c.name + " on " + x.name()
				if broken[key] {
					continue
				}
				err := l.counted(ctx, r, c, x, round)
				if ctx.Err() != nil {
					return fmt.Errorf("interrupted: %w", ctx.Err())
				}
				if err != nil {
					broken[key] = true
					r.Broken = append(r.Broken, rejection{c.name, x.name(), round + 1, err.Error()})
					fmt.Fprintf(os.Stderr, "bench: %s: %v\n", key, err)
				}
			}
		}
	}
	return nil
}

// attempts is how often a run that does not count is repeated.
const attempts = 5

// counted runs a case until a run of it counts. When none does the round has
// no sample: the report says how many each figure stands on.
func (l *lab) counted(ctx context.Context, r *report, c benchCase, x contender, round int) error {
	progress := func(text string) {
		fmt.Fprintf(os.Stderr, "round %d of %d  %-12s %-6s %s\n", round+1, l.opts.rounds, c.name, x.name(), text)
	}
	for range attempts {
		s, err := l.once(ctx, c, x, round)
		if err == nil {
			if from, ok := r.sample(c.from, x.name(), round+1); ok {
				c.derive(s.Values, from.Values)
			}
			r.Samples = append(r.Samples, s)
			progress(s.line(c))
			return nil
		}
		reject, ok := errors.AsType[*rejected](err)
		if !ok {
			return err
		}
		r.Rejected = append(r.Rejected, rejection{c.name, x.name(), round + 1, reject.reason})
		progress("thrown away: " + reject.reason)
	}
	return nil
}

// rejected is a run that does not count.
type rejected struct{ reason string }

func (e *rejected) Error() string { return e.reason }

// once starts the contender afresh in an empty folder and runs the case on it.
func (l *lab) once(ctx context.Context, c benchCase, x contender, round int) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := sample{Case: c.name, Contender: x.name(), Round: round + 1, Values: map[string]float64{}}
	dir := filepath.Join(l.dir, x.name())
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return s, fmt.Errorf("making a working folder: %w", err)
	}
	r, err := x.start(ctx, dir, c.shape)
	if err != nil {
		return s, err
	}
	err = l.try(ctx, c, &trial{lab: l, proc: r.Group, run: r, addr: r.addr, values: s.Values})
	r.requests += s.Values["requests"]
	if ended := r.end(); ended != nil {
		// A proxy that broke down is no rejected run, whatever the run says.
		if err != nil {
			return s, fmt.Errorf("%w (after the run failed: %s)", ended, err.Error())
		}
		return s, ended
	}
	return s, err
}

func (l *lab) try(ctx context.Context, c benchCase, t *trial) error {
	t.allocations = slices.ContainsFunc(c.metrics, func(m metric) bool { return m.name == allocations.name })
	if t.countsAllocations() {
		if err := t.run.calibrate(ctx); err != nil {
			return err
		}
	}
	return c.run(ctx, t)
}

// trial is one run of a case on one contender.
type trial struct {
	lab    *lab
	run    *running
	proc   proc.Group // of run
	addr   string     // of run
	values map[string]float64

	allocations bool // are wanted
}

// options are those of a load that reaches the service through the proxy
// under test.
func (t *trial) options(conns, streams int) hbone.Options {
	return hbone.Options{
		Addr: t.addr, Authority: t.lab.vip.String(), TLS: t.lab.client.Client(waypointURI),
		Conns: conns, Streams: streams, Host: host, Size: responseSize,
		Headers: "x-request-source: bench\r\ncookie: session=0123456789abcdef0123456789abcdef\r\n",
	}
}

// dial opens tunnels to the service through the proxy under test.
func (t *trial) dial(ctx context.Context, conns, streams int) (*hbone.Load, error) {
	return hbone.Dial(ctx, t.options(conns, streams))
}
