package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/remote"
	"cairnproxy.dev/cairn/mesh"
)

// global is a policy's global limit.
type global struct {
	*totals
	name        string // "NAMESPACE/POLICY", for logs
	service     *remote.Service
	stub        rls.RateLimitServiceClient
	broken      string
	domain      string
	descriptors []descriptor
	timeout     time.Duration
	failOpen    bool
	dryRun      bool
	status      int
	epoch       time.Time
}

type descriptor struct {
	entries    []entry
	when, cost *expr.Program
}

type entry struct {
	key, value string
	expr       *expr.Program
}

const (
	// defaultTimeout is Envoy's.
	defaultTimeout = 20 * time.Millisecond
	// maxDescriptors and maxEntries bound a question.
	maxDescriptors, maxEntries = 32, 16
	// maxValue bounds an entry's value; longer ones are cut. It is a key in the service's store.
	maxValue = 1024
)

// buildGlobal returns nil where no global limit is asked for.
func buildGlobal(r *Registry, p *mesh.RateLimit) (*global, error) {
	l := p.Global
	if l == nil {
		return nil, nil
	}
	g := &global{
		totals: r.totalOf(p.Policy), name: p.Policy.String(), broken: l.Broken, domain: l.Domain, timeout: l.Timeout,
		failOpen: l.FailOpen, dryRun: l.DryRun, status: statusOr(l.Status, http.StatusTooManyRequests), epoch: r.epoch,
	}
	if g.timeout <= 0 {
		g.timeout = defaultTimeout
	}
	switch {
	case l.Domain == "":
		return nil, errors.New("it has no domain; the service's configuration has one for each set of limits")
	case len(l.Descriptors) == 0:
		return nil, errors.New("it has no descriptors, so that nothing would be counted")
	case len(l.Descriptors) > maxDescriptors:
		return nil, fmt.Errorf("it has %d descriptors; at most %d are possible", len(l.Descriptors), maxDescriptors)
	}
	for i := range l.Descriptors {
		d, err := buildDescriptor(&l.Descriptors[i])
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", i, err)
		}
		g.descriptors = append(g.descriptors, d)
	}
	if g.broken == "" {
		var err error
		if g.service, err = r.services.GRPC(l.Service, l.Port); err != nil {
			g.broken = err.Error()
		} else {
			g.stub = rls.NewRateLimitServiceClient(g.service.Conn())
		}
	}
	return g, nil
}

func (r *Registry) totalOf(policy mesh.Name) *totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total(policy, "")
}

func buildDescriptor(d *mesh.Descriptor) (out descriptor, err error) {
	if len(d.Entries) == 0 || len(d.Entries) > maxEntries {
		return out, fmt.Errorf("it has %d entries; 1 to %d are possible", len(d.Entries), maxEntries)
	}
	if out.when, err = optional(d.When, expr.KindBool); err != nil {
		return out, fmt.Errorf("when: %w", err)
	}
	if out.cost, err = optional(d.Cost, expr.KindInt); err != nil {
		return out, fmt.Errorf("cost: %w", err)
	}
	for _, e := range d.Entries {
		ent := entry{key: e.Key, value: e.Value}
		switch {
		case e.Key == "":
			return out, errors.New("an entry has no key")
		case e.Value == "" && e.Expr == "":
			return out, fmt.Errorf("entry %q has neither a value nor an expression", e.Key)
		case e.Value == "":
			if ent.expr, err = expr.Compile(e.Expr, expr.KindScalar); err != nil {
				return out, fmt.Errorf("entry %q: %w", e.Key, err)
			}
		}
		out.entries = append(out.entries, ent)
	}
	return out, nil
}

// question makes the question about a request, or nil where there is nothing to ask. It
// keeps nothing of the request's memory.
func (g *global) question(in *expr.Input) *rls.RateLimitRequest {
	var list []*ratelimitv3.RateLimitDescriptor
	hits, alike := uint64(1), true
	for i := range g.descriptors {
		d := &g.descriptors[i]
		if !applies(d.when, in) {
			continue
		}
		m := d.message(in)
		if m == nil {
			continue
		}
		n := uint64(1)
		if d.cost != nil {
			n = costOf(d.cost, in)
			m.HitsAddend = wrapperspb.UInt64(n)
		}
		alike = alike && (len(list) == 0 || n == hits)
		hits = n
		list = append(list, m)
	}
	if len(list) == 0 {
		return nil
	}
	q := &rls.RateLimitRequest{Domain: g.domain, Descriptors: list}
	if alike && hits != 1 {
		// For servers older than the descriptors' own field. There 0 means 1.
		q.HitsAddend = uint32(hits)
	}
	return q
}

// message makes the descriptor of a request, or nil where an entry has no value.
func (d *descriptor) message(in *expr.Input) *ratelimitv3.RateLimitDescriptor {
	m := &ratelimitv3.RateLimitDescriptor{Entries: make([]*ratelimitv3.RateLimitDescriptor_Entry, 0, len(d.entries))}
	for _, e := range d.entries {
		v := e.value
		if e.expr != nil {
			text, err := e.expr.Text(in)
			if err != nil || text == "" {
				return nil
			}
			v = clean(text)
		}
		m.Entries = append(m.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: e.key, Value: v})
	}
	return m
}

// clean copies a value, as protobuf's strings have to be: UTF-8, and no longer than maxValue.
func clean(v string) string {
	if len(v) > maxValue {
		v = v[:maxValue]
	}
	return strings.Clone(strings.ToValidUTF8(v, "\ufffd"))
}

// ask parks the exchange until the service has answered.
func (g *global) ask(x *filters.Exchange, in *expr.Input) filters.Result {
	q := g.question(in)
	if q == nil {
		return filters.Continue
	}
	g.asked.Inc()
	if g.service == nil {
		return g.unanswered(x)
	}
	if err := g.service.Admit(x.Now.Sub(g.epoch)); err != nil {
		return g.unanswered(x)
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
	resume := x.Await(cancel)
	go func() {
		defer cancel()
		answer, err := g.stub.ShouldRateLimit(ctx, q)
		defer g.service.Done(ctx, err)
		resume(func(x *filters.Exchange) filters.Result {
			if err != nil {
				return g.unanswered(x)
			}
			return g.answered(x, answer)
		})
	}()
	return filters.Park
}

// unanswered goes on without an answer, as the policy says.
func (g *global) unanswered(x *filters.Exchange) filters.Result {
	g.failed.Inc()
	if g.failOpen || g.dryRun {
		return filters.Continue
	}
	x.Answer(http.StatusInternalServerError, "RLSE", "rate_limiter_error", "")
	x.Reply.GRPCStatus = "14" // UNAVAILABLE
	return filters.Replied
}

// answered heeds the answer. A code that is not known counts as OK, as in Envoy.
func (g *global) answered(x *filters.Exchange, a *rls.RateLimitResponse) filters.Result {
	over := a.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT
	if g.dryRun {
		if over {
			g.totals.dryRun.Inc()
			x.Notes().WouldLimit = g.name
		}
		return filters.Continue
	}
	for i, h := range a.GetResponseHeadersToAdd() {
		if f, ok := acceptable(h.GetKey(), headerValue(h)); ok && i < maxFields {
			n := x.Notes()
			n.ResponseFields = append(n.ResponseFields, f)
		}
	}
	q, told := quotaOfAnswer(a, over)
	if over {
		g.refused.Inc()
		n := x.Notes()
		n.ResponseFields = append(n.ResponseFields, mesh.Field{Name: "x-envoy-ratelimited", Value: "true"})
		return refuse(x, g.status, "request_rate_limited", string(a.GetRawBody()), q)
	}
	if n := x.Notes(); told && (n.Quota.Limit == "" || q.Remaining < n.Quota.Remaining) {
		n.Quota = q
	}
	for i, h := range a.GetRequestHeadersToAdd() {
		if f, ok := acceptable(h.GetKey(), headerValue(h)); ok && i < maxFields {
			x.Req.Fields = append(x.Req.Fields, f)
		}
	}
	return filters.Continue
}

type header interface {
	GetKey() string
	GetValue() string
	GetRawValue() []byte
}

func headerValue(h header) string {
	if v := h.GetValue(); v != "" {
		return v
	}
	return string(h.GetRawValue())
}

// quotaOfAnswer is the quota of the limit that has least left; of those that
// refuse, where one does.
func quotaOfAnswer(a *rls.RateLimitResponse, over bool) (q filters.Quota, ok bool) {
	for _, s := range a.GetStatuses() {
		l := s.GetCurrentLimit()
		if l == nil || over && s.GetCode() != rls.RateLimitResponse_OVER_LIMIT {
			continue
		}
		left := uint64(s.GetLimitRemaining())
		if ok && left >= q.Remaining {
			continue
		}
		q, ok = filters.Quota{Limit: describe(l), Remaining: left, Reset: seconds(s.GetDurationUntilReset().AsDuration())}, true
		if over {
			q.RetryAfter = q.Reset
		}
	}
	return q, ok
}

// units are the seconds of the service's units.
var units = map[rls.RateLimitResponse_RateLimit_Unit]uint64{
	rls.RateLimitResponse_RateLimit_SECOND: 1, rls.RateLimitResponse_RateLimit_MINUTE: 60, rls.RateLimitResponse_RateLimit_HOUR: 3600,
	rls.RateLimitResponse_RateLimit_DAY: 86400, rls.RateLimitResponse_RateLimit_WEEK: 7 * 86400,
	rls.RateLimitResponse_RateLimit_MONTH: 30 * 86400, rls.RateLimitResponse_RateLimit_YEAR: 365 * 86400,
}

func describe(l *rls.RateLimitResponse_RateLimit) string {
	n := strconv.FormatUint(uint64(l.GetRequestsPerUnit()), 10)
	w, known := units[l.GetUnit()]
	if !known {
		return n
	}
	if m := l.GetUnitMultiplier().GetValue(); m > 0 {
		w *= uint64(m)
	}
	return n + ", " + n + ";w=" + strconv.FormatUint(w, 10)
}
