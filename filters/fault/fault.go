// Package fault is the filter that injects faults: delays and aborts, for some of the
// requests, to see how their senders cope.
//
//	request ──► each fault that is for it: does the dice say delay? abort?
//	                │ delays, added up: parked ──► DI
//	                ▼
//	            the first abort ──► a local reply, FI, fault_filter_abort
//	            none            ──► the rest of the chain
//
// A fault is for requests whose headers match and for which its CEL condition holds; a condition
// that cannot be evaluated does not hold, since nothing is protected by a fault.
//
// Dice are thrown per fault, once for the delay and once for the abort, and before anything else
// is looked at: what is for one request in a million costs the others some nanoseconds.
//
// Steps never change. What is under a delay is counted in Active, which outlives
// configurations.
package fault

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// body is all that is said of an abort, as in Envoy.
const body = "fault filter abort"

// million is the whole of which fractions are.
const million = 1_000_000

// maxDelay bounds a delay: the exchange and its buffers are kept for so long.
const maxDelay = time.Hour

// Active counts the requests that are under a delay of each policy. The zero Active is ready, and may
// be used from any goroutine.
type Active struct {
	mu     sync.Mutex
	counts map[mesh.Name]weak.Pointer[atomic.Int64]
}

// of returns the count of a policy, the same for as long as a configuration uses it.
func (a *Active) of(policy mesh.Name) *atomic.Int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.counts[policy].Value(); n != nil {
		return n
	}
	n := new(atomic.Int64)
	if a.counts == nil {
		a.counts = map[mesh.Name]weak.Pointer[atomic.Int64]{}
	}
	for k, p := range a.counts {
		if p.Value() == nil {
			delete(a.counts, k)
		}
	}
	a.counts[policy] = weak.Make(n)
	return n
}

// Spec is the filter. It works at the level of the rule, for which the policy in
// force is known. a is where delays are counted; nil for a chain of its own.
func Spec(a *Active) filters.Spec {
	return filters.Spec{Name: "fault", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level != filters.LevelRule || c.Requests == nil || c.Requests.Faults == nil {
			return filters.Step{}, nil
		}
		f := c.Requests.Faults
		if a == nil {
			a = new(Active)
		}
		s := &step{active: a.of(f.Policy)}
		for i := range f.List {
			one, err := compile(&f.List[i])
			if err != nil {
				return filters.Step{}, fmt.Errorf("policy %s, fault %d: %w", f.Policy, i, err)
			}
			if one.delayPPM > 0 || one.abortPPM > 0 {
				s.faults = append(s.faults, one)
			}
		}
		if len(s.faults) == 0 {
			return filters.Step{}, nil
		}
		return filters.Step{OnRequest: s}, nil
	}}
}

type step struct {
	faults []fault
	active *atomic.Int64
}

// fault is a mesh.Fault that is ready to use.
type fault struct {
	delayPPM, abortPPM uint32
	maxActive          int64
	delay              time.Duration
	status             int
	grpc               string
	headers            []header
	when               *expr.Program
}

type header struct {
	name, value string
	kind        mesh.MatchKind
	re          *regexp.Regexp
}

func compile(f *mesh.Fault) (fault, error) {
	out := fault{delayPPM: f.DelayPPM, abortPPM: f.AbortPPM, maxActive: int64(f.MaxActive), delay: f.Delay, status: f.Status}
	if f.Delay <= 0 {
		out.delayPPM = 0
	}
	if f.GRPCStatus >= 0 {
		out.grpc = strconv.Itoa(f.GRPCStatus)
	}
	switch {
	case f.DelayPPM > million || f.AbortPPM > million:
		return out, fmt.Errorf("%d of a million is more than all", max(f.DelayPPM, f.AbortPPM))
	case f.Delay > maxDelay:
		return out, fmt.Errorf("a delay of %v is longer than %v", f.Delay, maxDelay)
	case f.AbortPPM > 0 && f.Status == 0 && f.GRPCStatus < 0:
		return out, fmt.Errorf("an abort needs a status, of HTTP or of gRPC")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return out, fmt.Errorf("status %d is not one of a response; 200 to 599 are", f.Status)
	case f.GRPCStatus > 16:
		return out, fmt.Errorf("gRPC status %d is not known; 0 to 16 are", f.GRPCStatus)
	}
	if out.status == 0 {
		out.status = httpOf(f.GRPCStatus)
	}
	for _, h := range f.Headers {
		m := header{name: strings.ToLower(h.Name), value: h.Value, kind: h.Kind}
		if h.Kind == mesh.MatchRegex {
			re, err := regexp.Compile("^(?:" + h.Value + ")$")
			if err != nil {
				return out, fmt.Errorf("header %q: %w", h.Name, err)
			}
			m.re = re
		}
		out.headers = append(out.headers, m)
	}
	if f.When != "" {
		p, err := expr.Compile(f.When, expr.KindBool)
		if err != nil {
			return out, fmt.Errorf("when: %w", err)
		}
		out.when = p
	}
	return out, nil
}

// httpOf is what a gRPC status looks like to those who do not speak gRPC, as in
// google.rpc.Code. Envoy would tell them 200, and that is hard to take for a fault.
func httpOf(grpc int) int {
	switch grpc {
	case 0:
		return 200
	case 3, 9, 11:
		return 400
	case 16:
		return 401
	case 7:
		return 403
	case 5:
		return 404
	case 6, 10:
		return 409
	case 8:
		return 429
	case 1:
		return 499
	case 12:
		return 501
	case 14:
		return 503
	case 4:
		return 504
	}
	return 500
}

// hit throws the dice.
func hit(ppm uint32) bool { return ppm > 0 && (ppm >= million || rand.Uint32N(million) < ppm) }

// Request delays the request, or answers it, or neither.
func (s *step) Request(x *filters.Exchange) filters.Result {
	var delay time.Duration
	var abort *fault
	limit := int64(0)
	for i := range s.faults {
		f := &s.faults[i]
		d, a := hit(f.delayPPM), abort == nil && hit(f.abortPPM)
		if !d && !a || !f.applies(x) {
			continue
		}
		if d {
			delay += f.delay
			if f.maxActive > 0 && (limit == 0 || f.maxActive < limit) {
				limit = f.maxActive
			}
		}
		if a {
			abort = f
		}
	}
	if delay > 0 {
		return s.wait(x, min(delay, maxDelay), limit, abort)
	}
	return abort.answer(x)
}

// applies reports whether the fault is for this request.
func (f *fault) applies(x *filters.Exchange) bool {
	for i := range f.headers {
		if !f.headers[i].matches(x.Req.Fields) {
			return false
		}
	}
	if f.when == nil {
		return true
	}
	ok, err := f.when.Bool(&expr.Input{Req: x.Req, Service: x.Service, Now: x.Now})
	return ok && err == nil
}

func (h *header) matches(fields mesh.Fields) bool {
	v, ok := fields.Get(h.name)
	if !ok {
		return false
	}
	switch h.kind {
	case mesh.MatchPrefix:
		return strings.HasPrefix(v, h.value)
	case mesh.MatchRegex:
		return h.re.MatchString(v)
	default:
		return v == h.value
	}
}

// wait parks the exchange for d, if no more than limit are under a delay (0: whatever their number),
// and then aborts, if abort is not nil.
func (s *step) wait(x *filters.Exchange, d time.Duration, limit int64, abort *fault) filters.Result {
	then := func(x *filters.Exchange) filters.Result { return abort.answer(x) }
	if limit == 0 {
		x.Notes().Delayed = true
		return x.After(d, then)
	}
	if s.active.Add(1) > limit {
		s.active.Add(-1)
		return abort.answer(x)
	}
	x.Notes().Delayed = true
	// The count must go down however the wait ends, which After does not tell.
	var once sync.Once
	leave := func() { once.Do(func() { s.active.Add(-1) }) }
	var timer *time.Timer
	resume := x.Await(func() {
		timer.Stop()
		leave()
	})
	timer = time.AfterFunc(d, func() {
		leave()
		resume(then)
	})
	return filters.Park
}

// answer aborts the request, or lets it pass where f is nil.
func (f *fault) answer(x *filters.Exchange) filters.Result {
	if f == nil {
		return filters.Continue
	}
	x.Answer(f.status, "FI", "fault_filter_abort", body)
	x.Reply.GRPCStatus = f.grpc
	return filters.Replied
}
