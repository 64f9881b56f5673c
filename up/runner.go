package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Pod is one pod of the mesh as this machine is to run it.
type Pod struct {
	Namespace, Name string
	Node            string
	ServiceAccount  string
	// UID is the pod's name in the mesh's model.
	UID        string
	Address    netip.Addr
	Containers []Container
	// Captured pods are enrolled: their traffic is the node proxy's.
	Captured bool
	// TargetPorts are the ports at which services expect the pod; a sample
	// whose container names no port listens on the first.
	TargetPorts []uint16
}

func (p Pod) key() string { return p.Namespace + "/" + p.Name }

// PodState is how a pod is run.
type PodState string

const (
	// PodRunning pods are child processes of this one.
	PodRunning PodState = "running"
	// PodExternal pods are run by the user, on the pod's address.
	PodExternal PodState = "external"
)

// How a child process is ended, and how often one that ends by itself is begun again.
const (
	killAfter  = 3 * time.Second
	firstDelay = 250 * time.Millisecond
	maxDelay   = 30 * time.Second
	// linger is how long a pod that is gone from the manifests still runs, so
	// that those who do not know yet are answered; Kubernetes is as slow.
	linger = time.Second
	// lingerAtMost is how long it runs while what takes its place does not start.
	lingerAtMost = 10 * time.Second
	// longLife is how long a process must have lived for its end to count as
	// the first.
	longLife = 10 * time.Second
)

// Runner runs pods as child processes: it starts them, starts again those
// that end, and stops them. Set and Stop are called from one goroutine.
type Runner struct {
	o       runnerOptions
	running map[string]*runningPod
	wg      sync.WaitGroup
	changed chan struct{} // holds a token when a pod's readiness has changed

	mu    sync.Mutex
	ready map[string]bool      // by Pod.key
	held  map[string]time.Time // pods that leave and are held, or when they no longer were; by Pod.key
}

type runningPod struct {
	pod    Pod
	state  PodState
	cancel context.CancelFunc
	done   chan struct{}
	pid    atomic.Int64 // of the latest program, 0 before the first
	// leaving runs while the pod is gone from the manifests and lingers.
	leaving *time.Timer
	ending  bool // it has been told to end; guarded by Runner.mu
}

// stopLater ends a pod that is gone from the manifests once it has lingered:
// from now, or from when it was last held.
func (r *Runner) stopLater(rp *runningPod) {
	if rp.leaving != nil {
		return
	}
	began := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	rp.leaving = time.AfterFunc(linger, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if rp.ending {
			return
		}
		now := time.Now()
		freed, ok := r.held[rp.pod.key()]
		if freed.IsZero() {
			freed = now
		}
		if rest := linger - now.Sub(freed); ok && rest > 0 && now.Sub(began) < lingerAtMost {
			rp.leaving.Reset(rest)
			return
		}
		delete(r.held, rp.pod.key())
		rp.ending = true
		rp.cancel()
	})
}

// Hold says whether a pod that is gone from the manifests must run on, because
// the one that takes its place has yet to start.
func (r *Runner) Hold(pod string, hold bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if freed, ok := r.held[pod]; hold {
		r.held[pod] = time.Time{}
	} else if ok && freed.IsZero() {
		r.held[pod] = time.Now()
	}
}

// startFunc starts a prepared command for a pod and returns how to wait for
// its end. Whatever it starts dies with this process.
type startFunc func(*exec.Cmd, Pod) (wait func() error, err error)

// runnerOptions configure a Runner.
type runnerOptions struct {
	// self is the path of this binary, which holds the samples.
	self string
	log  *slog.Logger
	// out returns where a pod's output goes.
	out func(pod string) *podLog
	// start starts pods' commands: in this network namespace, or in the pod's own.
	start startFunc
	// hold is a command that is run in the place of external pods, so that the
	// user can enter it; empty for none.
	hold []string
	// dial connects to a pod, to see whether its program accepts.
	dial dialFunc
}

func newRunner(o runnerOptions) *Runner {
	return &Runner{o: o, running: map[string]*runningPod{}, changed: make(chan struct{}, 1), ready: map[string]bool{}, held: map[string]time.Time{}}
}

// Changed receives when the readiness of a pod may have changed.
func (r *Runner) Changed() <-chan struct{} { return r.changed }

// Ready reports whether a pod may get traffic: its program accepts on its
// port, or it has no port, or it is external, when only the user knows.
func (r *Runner) Ready(pod string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready[pod]
}

func (r *Runner) setReady(pod string, ready bool) {
	r.mu.Lock()
	was := r.ready[pod]
	r.ready[pod] = ready
	r.mu.Unlock()
	if was == ready {
		return
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Set makes the running pods those that are given: it starts new ones, stops
// those that are gone (a little later), and replaces those that changed. env
// returns the environment of a pod, "NAME=value". It returns without waiting
// for programs to be ready, but waits until a replaced one has ended: the new
// one has its address.
func (r *Runner) Set(ctx context.Context, pods []Pod, env func(Pod) []string) {
	want := map[string]Pod{}
	for _, p := range pods {
		want[p.key()] = p
	}
	var replaced []*runningPod
	for k, rp := range r.running {
		p, ok := want[k]
		switch {
		case !ok:
			r.stopLater(rp)
		case !r.keeps(rp, p):
			rp.cancel()
			replaced = append(replaced, rp)
			delete(r.running, k)
		}
	}
	for _, rp := range replaced {
		<-rp.done
	}
	for _, p := range pods {
		if _, ok := r.running[p.key()]; !ok {
			r.running[p.key()] = r.startPod(ctx, p, env(p))
		}
	}
}

// Prepare is told the pods of the next Set: those that it will replace, by
// programs that have yet to start, are ready no more.
func (r *Runner) Prepare(pods []Pod) {
	for _, p := range pods {
		if rp, ok := r.running[p.key()]; ok && !r.keeps(rp, p) {
			r.setReady(p.key(), false)
		}
	}
}

// keeps reports whether a pod that runs can go on as p. One that comes back
// before it was ended does not leave any more.
func (r *Runner) keeps(rp *runningPod, p Pod) bool {
	if !samePod(p, rp.pod) {
		return false
	}
	if rp.leaving == nil {
		return true
	}
	// Under the lock its timer decides that it is to end.
	r.mu.Lock()
	defer r.mu.Unlock()
	if rp.ending || !rp.leaving.Stop() {
		rp.ending = true
		return false
	}
	rp.leaving = nil
	delete(r.held, p.key())
	return true
}

// Gone reports whether a pod is not in the last Set and has ended. Its place
// may be taken away.
func (r *Runner) Gone(pod string) bool {
	rp, ok := r.running[pod]
	if !ok {
		return true
	}
	if rp.leaving == nil {
		return false
	}
	select {
	case <-rp.done:
		delete(r.running, pod)
		return true
	default:
		return false
	}
}

// State returns how a pod is run.
func (r *Runner) State(p Pod) PodState {
	if rp, ok := r.running[p.key()]; ok {
		return rp.state
	}
	return PodExternal
}

// PID is the process ID of a pod's program, 0 if none has run.
func (r *Runner) PID(p Pod) int {
	if rp, ok := r.running[p.key()]; ok {
		return int(rp.pid.Load())
	}
	return 0
}

// Stop ends every pod: SIGTERM, and SIGKILL for what is still there after
// killAfter. It returns when all have ended.
func (r *Runner) Stop() {
	for k, rp := range r.running {
		rp.cancel()
		if rp.leaving != nil {
			rp.leaving.Stop()
		}
		delete(r.running, k)
	}
	r.wg.Wait()
}

func (r *Runner) startPod(ctx context.Context, p Pod, env []string) *runningPod {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	rp := &runningPod{pod: p, state: PodRunning, cancel: cancel, done: make(chan struct{})}
	var wg sync.WaitGroup
	for _, c := range p.Containers {
		if len(c.Ports) == 0 && len(p.TargetPorts) > 0 {
			c.Ports = p.TargetPorts[:1]
		}
		argv := programOf(r.o.self, c)
		if argv == nil {
			rp.state = PodExternal
			if argv = r.o.hold; argv == nil {
				continue
			}
		}
		job := job{pod: p, argv: argv, dir: c.Dir, env: slices.Concat(env, c.Env), pid: &rp.pid}
		wg.Go(func() { r.supervise(ctx, job) })
	}
	_, listens := probePort(p)
	r.setReady(p.key(), rp.state == PodExternal || !listens)
	r.wg.Go(func() {
		wg.Wait()
		<-ctx.Done()
		close(rp.done)
	})
	return rp
}

// job is one program to run.
type job struct {
	pod  Pod
	argv []string
	dir  string
	env  []string
	pid  *atomic.Int64
}

// supervise keeps one program running until ctx ends.
func (r *Runner) supervise(ctx context.Context, j job) {
	delay := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		out := r.o.out(j.pod.key())
		err := r.runOnce(ctx, j, out)
		if ctx.Err() != nil {
			return
		}
		delay = nextDelay(delay, time.Since(began))
		r.o.log.Warn("a pod's program ended; starting it again", "pod", j.pod.key(), "program", j.argv[0], "in", delay.String(),
			"error", err, "said", out.tail())
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (r *Runner) runOnce(ctx context.Context, j job, out *podLog) error {
	cmd := exec.CommandContext(ctx, j.argv[0], j.argv[1:]...)
	cmd.Env, cmd.Dir = j.env, j.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	wait, err := r.o.start(cmd, j.pod)
	if err != nil {
		return fmt.Errorf("starting %s: %w", j.argv[0], err)
	}
	j.pid.Store(int64(cmd.Process.Pid))
	stop := r.probe(ctx, j.pod)
	err = wait()
	stop()
	if err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// probe makes p ready once it accepts. stop ends the watch: p, if it listens at
// all, is no longer ready.
func (r *Runner) probe(ctx context.Context, p Pod) (stop func()) {
	port, ok := probePort(p)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if awaitAccept(ctx, p, netip.AddrPortFrom(p.Address, port), r.o.dial) {
			r.setReady(p.key(), true)
		}
	}()
	return func() {
		cancel()
		<-done
		r.setReady(p.key(), false)
	}
}

// nextDelay is how long to wait before a program is started again, after it
// lived for lived and was last waited for for prev.
func nextDelay(prev, lived time.Duration) time.Duration {
	if prev == 0 || lived >= longLife {
		return firstDelay
	}
	return min(2*prev, maxDelay)
}

func samePod(a, b Pod) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name && a.Node == b.Node && a.ServiceAccount == b.ServiceAccount &&
		a.Address == b.Address && a.Captured == b.Captured && slices.Equal(a.TargetPorts, b.TargetPorts) &&
		slices.EqualFunc(a.Containers, b.Containers, func(x, y Container) bool {
			return x.Image == y.Image && x.Dir == y.Dir && slices.Equal(x.Command, y.Command) && slices.Equal(x.Args, y.Args) &&
				slices.Equal(x.Env, y.Env) && slices.Equal(x.Ports, y.Ports)
		})
}
