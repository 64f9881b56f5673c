package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
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

	contenders map[string]contender // those that the cases run on
	cases      []benchCase
}

const (
	namespace    = "bench"
	host         = "server.bench.svc.cluster.local"
	clientURI    = "spiffe://cluster.local/ns/bench/sa/client"
	serverURI    = "spiffe://cluster.local/ns/bench/sa/server"
	waypointURI  = "spiffe://cluster.local/ns/bench/sa/waypoint"
	responseSize = 1024
	maxWaited    = 0.05 // of the time: more, and the round does not count
)

func newLab(ctx context.Context, o options) (_ *lab, err error) {
	l := &lab{opts: o, sinkDone: make(chan error, 1)}
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

// rounds runs every case on every contender o.rounds times, in turns whose
// order changes from round to round.
func (l *lab) rounds(ctx context.Context, r *report) error {
	for round := range l.opts.rounds {
		for _, c := range l.cases {
			for i := range c.on {
				x := l.contenders[c.on[(i+round)%len(c.on)]]
				if err := l.counted(ctx, r, c, x, round); err != nil {
					return fmt.Errorf("%s on %s: %w", c.name, x.name(), err)
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
			r.Samples = append(r.Samples, s)
			progress(s.line(c))
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
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
	err = c.run(ctx, &trial{lab: l, proc: r.Group, run: r, addr: r.addr, values: s.Values})
	r.requests += s.Values["requests"]
	if ended := r.end(); ended != nil {
		// A proxy that broke down is no rejected run, whatever the run says.
		return s, fmt.Errorf("%w (the run: %v)", ended, err)
	}
	return s, err
}

// trial is one run of a case on one contender.
type trial struct {
	lab    *lab
	run    *running
	proc   proc.Group // of run
	addr   string     // of run
	values map[string]float64
}

// dial opens tunnels to the service through the proxy under test.
func (t *trial) dial(ctx context.Context, conns, streams int) (*hbone.Load, error) {
	return hbone.Dial(ctx, hbone.Options{
		Addr: t.addr, Authority: t.lab.vip.String(), TLS: t.lab.client.Client(waypointURI),
		Conns: conns, Streams: streams, Host: host, Size: responseSize,
		Headers: "x-request-source: bench\r\ncookie: session=0123456789abcdef0123456789abcdef\r\n",
	})
}
