package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

// config is one accepted state of the manifests.
type config struct {
	parts mesh.Parts
	pods  []Pod
	// objects is how many objects it was made of.
	objects int
}

// update is what the manifests' watcher reports: a new state with what is wrong in it all
// the same, or, without one, the problems for which it stays as it was.
type update struct {
	config   *config
	problems []source.Problem
}

// reconciler owns everything that runs and makes it what the manifests say.
// All methods are called from the goroutine of run.
type reconciler struct {
	o      Options
	dir    string
	log    *slog.Logger
	report *reporter
	alloc  *Allocator
	// hostAlloc gives the proxies' servers on this machine their addresses.
	hostAlloc *Allocator
	machine   machine
	runner    *Runner
	store     *source.Store
	ca        *authority

	parts   mesh.Parts
	pods    []Pod
	placed  map[string]Pod            // pods that the machine has a place for
	leaving map[string]*mesh.Workload // pods that are gone from the manifests and still run, by Pod.key
	nodes   map[string]*runningProxy
	wps     map[mesh.Name]*runningProxy
	retired []*runningProxy // proxies that are not needed any more and drain
	// again is when proxies that failed are started again; zero for never.
	again time.Time
	// hasRuntime is true once a proxy reports the metrics of this process.
	hasRuntime bool
}

func newReconciler(o Options, dir string) (*reconciler, error) {
	store := source.NewStore()
	ca, err := newAuthority(o, dir, store)
	if err != nil {
		return nil, err
	}
	r := &reconciler{
		o: o, dir: dir, log: o.Log, ca: ca, store: store,
		report: &reporter{out: o.Out, json: o.JSON},
		placed: map[string]Pod{}, leaving: map[string]*mesh.Workload{}, nodes: map[string]*runningProxy{}, wps: map[mesh.Name]*runningProxy{},
	}
	if r.hostAlloc, err = NewLoopback(o.Range); err != nil {
		return nil, err
	}
	if o.Netns {
		r.alloc = NewNetns()
		if r.machine, err = newNamespaceMachine("cluster.local", o.Log); err != nil {
			return nil, err
		}
	} else {
		r.alloc, r.machine = r.hostAlloc, newLoopbackMachine()
	}
	ro := runnerOptions{
		self: o.Self, log: o.Log, start: r.machine.start, dial: r.machine.dial,
		out: func(pod string) *podLog { return newPodLog(pod, o.PodLogs) },
	}
	if sleep, err := exec.LookPath("sleep"); err == nil && o.Netns {
		ro.hold = []string{sleep, "infinity"}
	}
	r.runner = newRunner(ro)
	return r, nil
}

// run follows the manifests until ctx ends.
func (r *reconciler) run(ctx context.Context) error {
	watch := newManifests(r.o, r.alloc, r.log)
	// What is started outlives ctx, so that it can be ended in order.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	first := watch.load()
	if first.config == nil {
		return &ProblemsError{first.problems}
	}
	// Who waits for certificates of this CA outlives the proxies here.
	served := r.serveCertificates(life)
	defer func() {
		end()
		<-served
	}()
	defer r.shutDown()
	if err := r.apply(ctx, life, first.config); err != nil {
		return err
	}
	if err := r.awaitServing(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := r.report.ready(r.describe()); err != nil {
		return err
	}
	if len(first.problems) > 0 {
		if err := r.report.config(first.config.objects, first.problems); err != nil {
			return err
		}
	}
	return r.follow(ctx, life, watch)
}

// serveCertificates answers proxies that the user runs, until life ends.
func (r *reconciler) serveCertificates(life context.Context) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := r.ca.serve(life); err != nil {
			r.log.Error("the certificate authority serves no more", "error", err)
		}
	}()
	return ended
}

// follow applies what changes.
func (r *reconciler) follow(ctx, life context.Context, watch *manifests) error {
	ctx, cancel := context.WithCancel(ctx)
	updates := watch.run(ctx)
	defer func() {
		cancel()
		for range updates { // until the watcher has ended
		}
	}()
	// What others change in the background is looked at now and then.
	sweep := time.NewTicker(500 * time.Millisecond)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.runner.Changed():
			r.publish()
		case now := <-sweep.C:
			r.removeGone()
			r.sweepRetired()
			r.sweepFailed(life, now)
			if err := r.writeTables(); err != nil {
				r.log.Error("telling pods of names and ports", "error", err)
			}
			if err := r.ca.tend(now); err != nil {
				r.log.Error("tending the certificate authority", "error", err)
			}
		case u, ok := <-updates:
			if !ok {
				return nil
			}
			if err := r.update(ctx, life, u); err != nil {
				return err
			}
		}
	}
}

// update takes one report of the watcher, and passes it on.
func (r *reconciler) update(ctx, life context.Context, u update) error {
	if u.config == nil {
		return r.report.config(0, u.problems)
	}
	if err := r.apply(ctx, life, u.config); err != nil {
		// The machine refuses what the manifests may say: a port in use, say.
		r.log.Error("applying the new configuration", "error", err)
	}
	r.awaitApplied(ctx)
	return r.report.config(u.config.objects, u.problems)
}

// apply makes c run; what it starts ends with life. The order matters: a pod's
// place before its proxy takes it in, names before programs that look them up.
func (r *reconciler) apply(ctx, life context.Context, c *config) error {
	r.leave(c)
	r.runner.Prepare(c.pods)
	r.parts, r.pods = c.parts, c.pods
	var errs []error
	for _, p := range c.pods {
		errs = append(errs, r.place(p))
	}
	r.publish()
	errs = append(errs, r.writeTables(), r.ca.tend(time.Now()), r.startProxies(life))
	for _, p := range c.pods {
		errs = append(errs, r.takeIn(p))
	}
	// Where ports are bound is known once the node proxies serve.
	errs = append(errs, r.awaitProxies(ctx, slices.Collect(maps.Values(r.nodes))), r.writeTables())
	r.runner.Set(life, c.pods, r.env)
	r.removeGone()
	return errors.Join(errs...)
}

// place makes sure that the machine has a place for p.
func (r *reconciler) place(p Pod) error {
	old, ok := r.placed[p.key()]
	if ok && old.Address == p.Address && old.Node == p.Node && old.Captured == p.Captured {
		return nil
	}
	if ok {
		r.machine.removePod(old)
		delete(r.placed, p.key())
	}
	if err := r.machine.addPod(p); err != nil {
		return err
	}
	r.placed[p.key()] = p
	return nil
}

// publish makes the current parts a snapshot, in which pods that do not accept
// yet get no traffic.
func (r *reconciler) publish() {
	p := r.parts
	p.Services, p.Waypoints = slices.Clone(p.Services), slices.Clone(p.Waypoints)
	p.Attachments, p.Policies = slices.Clone(p.Attachments), slices.Clone(p.Policies)
	p.PeerAuth, p.L4Policies = slices.Clone(p.PeerAuth), slices.Clone(p.L4Policies)
	p.Workloads = slices.Clone(p.Workloads)
	ours := map[netip.Addr]string{}
	for _, pod := range r.pods {
		ours[pod.Address] = pod.key()
	}
	for i, w := range p.Workloads {
		if len(w.Addresses) == 0 || !w.Ready {
			continue
		}
		if key, ok := ours[w.Addresses[0]]; ok && !r.runner.Ready(key) {
			w := *w
			w.Ready = false
			p.Workloads[i] = &w
		}
	}
	p.Workloads = r.withLeaving(p.Workloads)
	r.store.Publish(p)
}

// removeGone takes away the places of pods that are gone, once they have lingered.
func (r *reconciler) removeGone() {
	want := map[string]bool{}
	for _, p := range r.pods {
		want[p.key()] = true
	}
	gone := false
	for key, p := range r.placed {
		if want[key] {
			continue
		}
		if r.runner.Gone(key) {
			delete(r.leaving, key)
			gone = true
			if n := r.nodes[p.Node]; n != nil && n.node != nil && r.o.Netns {
				n.node.RemovePod(p.UID)
			}
			r.machine.removePod(p)
			delete(r.placed, key)
		}
	}
	if gone {
		r.publish()
	}
}

// writeTables writes the files that pods read.
func (r *reconciler) writeTables() error {
	s := r.store.Current()
	return errors.Join(
		replaceFile(filepath.Join(r.dir, "hosts"), hostsFile(s)),
		replaceFile(filepath.Join(r.dir, "ports"), r.bound().portsFile()),
	)
}

// bound says where all captured ports are really bound.
func (r *reconciler) bound() boundPorts {
	out := boundPorts{}
	for _, p := range r.nodes {
		maps.Copy(out, p.ports())
	}
	return out
}

// env is the environment of a pod's program.
func (r *reconciler) env(p Pod) []string {
	env := append(inherited(),
		"HOSTNAME="+p.Name,
		"CAIRN_POD_NAME="+p.Name,
		"CAIRN_NAMESPACE="+p.Namespace,
	)
	if !r.o.Netns {
		env = append(env,
			"CAIRN_POD_IP="+p.Address.String(),
			"CAIRN_HOSTS="+filepath.Join(r.dir, "hosts"),
			"CAIRN_PORTS="+filepath.Join(r.dir, "ports"),
		)
	}
	return append(env, serviceEnv(r.store.Current(), p.Namespace, r.bound())...)
}

// awaitServing waits until every waypoint and pod serves. Pods that do not in
// time are named, and the mesh is reported without them.
func (r *reconciler) awaitServing(ctx context.Context) error {
	if err := r.awaitProxies(ctx, slices.Collect(maps.Values(r.wps))); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for late := r.latePods(); len(late) > 0; late = r.latePods() {
		select {
		case <-r.runner.Changed():
		case <-wait.Done():
			if ctx.Err() == nil {
				r.log.Warn("pods do not accept on their ports yet", "pods", late, "after", startWithin.String())
			}
			r.publish()
			r.awaitApplied(ctx)
			return nil
		}
	}
	r.publish()
	r.awaitApplied(ctx)
	return nil
}

// awaitApplied waits until all proxies serve by the current state, so that what
// is told afterwards holds for the very next request. A proxy that does not in
// time is named.
func (r *reconciler) awaitApplied(ctx context.Context) {
	wait, cancel := context.WithTimeout(ctx, applyWithin)
	defer cancel()
	version := r.store.Current().Version
	for _, p := range r.allProxies() {
		if ended, _ := p.failure(); ended || p.awaitApplied(wait, version) || ctx.Err() != nil {
			continue
		}
		r.log.Warn("a proxy does not serve by the new configuration yet", "proxy", p.spec.String(), "after", applyWithin.String())
	}
}

// awaitProxies waits until proxies serve. One that does not in time, or that
// fails, is an error.
func (r *reconciler) awaitProxies(ctx context.Context, proxies []*runningProxy) error {
	wait, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for _, p := range proxies {
		if p.awaitServing(wait) || ctx.Err() != nil {
			continue
		}
		if ended, err := p.failure(); ended {
			return fmt.Errorf("%s: %w", p.spec, err)
		}
		return fmt.Errorf("%s does not serve after %s; see the log above", p.spec, startWithin)
	}
	return nil
}

func (r *reconciler) latePods() []string {
	var late []string
	for _, p := range r.pods {
		if !r.runner.Ready(p.key()) {
			late = append(late, p.key())
		}
	}
	return late
}

func (r *reconciler) allProxies() []*runningProxy {
	return slices.AppendSeq(slices.Collect(maps.Values(r.nodes)), maps.Values(r.wps))
}

// describe is the ready event.
func (r *reconciler) describe() readyEvent {
	s := r.store.Current()
	e := readyEvent{
		Services: servicesOf(s, r.bound()), Pods: podsOf(r.pods, r.runner.State),
		Waypoints: []waypointInfo{}, Nodes: []nodeInfo{},
	}
	if r.o.Netns {
		for i, p := range r.pods {
			e.Pods[i].PID = r.runner.PID(p)
		}
	}
	e.CA = r.ca.describe()
	for _, w := range s.Waypoints {
		if p := r.wps[w.Name]; p != nil {
			e.Waypoints = append(e.Waypoints, waypointInfo{w.Name.Namespace, w.Name.Name, w.Addresses[0].String(), p.shown.Admin.String(), p.shown.Metrics.String()})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
		p := r.nodes[name]
		e.Nodes = append(e.Nodes, nodeInfo{name, p.shown.Admin.String(), p.shown.Metrics.String()})
	}
	return e
}

// shutDown ends everything in order. First the proxies: they take nothing new
// and let what is under way end. After quietAfter, pods are told to end too:
// what goes on by then is mostly connections that they keep for reuse.
func (r *reconciler) shutDown() {
	began := time.Now()
	all := append(r.allProxies(), r.retired...)
	for _, p := range all {
		p.cancel()
	}
	quiet := time.NewTimer(quietAfter)
	defer quiet.Stop()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for _, p := range all {
			<-p.done
		}
	}()
	select {
	case <-drained:
	case <-quiet.C:
	}
	r.runner.Stop()
	<-drained
	for _, p := range all {
		if p.forward != nil {
			p.forward.close()
		}
	}
	r.log.Debug("the mesh is down", "took", time.Since(began).Round(time.Millisecond).String())
}
