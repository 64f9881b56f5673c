package ratelimit

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// maxLimits bounds the local limits of a policy.
const maxLimits = 32

// Spec is the filter, with r as its memory. It works at the level of the rule, for which the policy
// in force is known: requests that no rule matches are not limited. A nil r limits
// nothing, for chains that are compiled only to be looked at.
func Spec(r *Registry) filters.Spec {
	return filters.Spec{Name: "ratelimit", Build: func(c filters.BuildContext) (filters.Step, error) {
		if c.Level != filters.LevelRule || c.Requests == nil || c.Requests.RateLimit == nil || r == nil {
			return filters.Step{}, nil
		}
		s, err := build(r, c.Requests.RateLimit)
		if err != nil || len(s.local) == 0 && s.global == nil {
			return filters.Step{}, err
		}
		step := filters.Step{OnRequest: s}
		if s.fields != mesh.QuotaNever || s.global != nil { // a rate limit service has fields of its own
			step.OnLocal = s
		}
		if s.fields == mesh.QuotaAlways || s.global != nil {
			step.OnResponse = s
		}
		return step, nil
	}}
}

// step is the filter of one policy.
type step struct {
	epoch  time.Time
	local  []local
	global *global
	fields mesh.QuotaFields
}

// local is one local limit.
type local struct {
	*limit
	when, cost *expr.Program
	key        []*expr.Program
	dryRun     bool
	status     int
}

func build(r *Registry, p *mesh.RateLimit) (*step, error) {
	if len(p.Local) > maxLimits {
		return nil, fmt.Errorf("policy %s has %d local limits; at most %d are possible", p.Policy, len(p.Local), maxLimits)
	}
	s := &step{epoch: r.epoch, fields: p.Fields}
	for i := range p.Local {
		l, err := buildLocal(&p.Local[i])
		if err != nil {
			return nil, fmt.Errorf("policy %s, local limit %q: %w", p.Policy, p.Local[i].Name, err)
		}
		s.local = append(s.local, l)
	}
	var err error
	if s.global, err = buildGlobal(r, p); err != nil {
		return nil, fmt.Errorf("policy %s, global limit: %w", p.Policy, err)
	}
	for i := range s.local { // only now: what cannot be built must not change what counts
		s.local[i].limit = r.limit(p.Policy, &p.Local[i], time.Now())
	}
	return s, nil
}

func buildLocal(l *mesh.LocalLimit) (local, error) {
	out := local{dryRun: l.DryRun, status: statusOr(l.Status, http.StatusTooManyRequests)}
	if l.Requests == 0 || l.Per <= 0 {
		return out, fmt.Errorf("%d requests in %v are no rate; say how many, and in what time", l.Requests, l.Per)
	}
	var err error
	if out.when, err = optional(l.When, expr.KindBool); err != nil {
		return out, fmt.Errorf("when: %w", err)
	}
	if out.cost, err = optional(l.Cost, expr.KindInt); err != nil {
		return out, fmt.Errorf("cost: %w", err)
	}
	for i, k := range l.Key {
		p, err := expr.Compile(k, expr.KindScalar)
		if err != nil {
			return out, fmt.Errorf("key %d: %w", i, err)
		}
		out.key = append(out.key, p)
	}
	return out, nil
}

func optional(text string, kind expr.Kind) (*expr.Program, error) {
	if text == "" {
		return nil, nil
	}
	return expr.Compile(text, kind)
}

func statusOr(status, otherwise int) int {
	if status == 0 {
		return otherwise
	}
	return status
}

// applies evaluates a condition. One that fails is true: the limit holds.
func applies(when *expr.Program, in *expr.Input) bool {
	if when == nil {
		return true
	}
	ok, err := when.Bool(in)
	return ok || err != nil
}

// maxCost bounds the tokens of one request.
const maxCost = 1 << 31

// costOf evaluates a cost. One that fails is 1, a negative one 0.
func costOf(cost *expr.Program, in *expr.Input) uint64 {
	if cost == nil {
		return 1
	}
	n, err := cost.Int(in)
	if err != nil {
		return 1
	}
	return uint64(min(max(n, 0), maxCost))
}

// Request lets the request pass, answers it, or asks the rate limit service.
func (s *step) Request(x *filters.Exchange) filters.Result {
	in := expr.Input{Req: x.Req, Service: x.Service, Now: x.Now}
	if len(s.local) > 0 {
		if r := s.takeLocal(x, &in); r != filters.Continue {
			return r
		}
	}
	if s.global != nil {
		return s.global.ask(x, &in)
	}
	return filters.Continue
}

// took is what a limit has given, to be given back when another refuses.
type took struct {
	l    *local
	hash hash
	cost uint64
}

// takeLocal takes tokens of all local limits that apply, or of none.
func (s *step) takeLocal(x *filters.Exchange, in *expr.Input) filters.Result {
	var buf [8]took // more limits take memory
	given := buf[:0]
	now := x.Now.Sub(s.epoch)
	for i := range s.local {
		l := &s.local[i]
		if !applies(l.when, in) {
			continue
		}
		t := took{l: l, cost: costOf(l.cost, in)}
		if l.many != nil {
			t.hash = l.bucketOf(x, in)
		}
		got, sh := l.take(now, t.hash, t.cost)
		if got.ok {
			given = append(given, t)
			if !l.dryRun && s.fields == mesh.QuotaAlways {
				note(x, sh, got)
			}
			continue
		}
		if l.dryRun {
			l.totals.dryRun.Inc()
			x.Notes().WouldLimit = l.name
			continue
		}
		l.refused.Inc()
		for _, g := range given {
			g.l.giveBack(g.hash, g.cost)
		}
		return refuse(x, l.status, "local_rate_limited", "local_rate_limited", quotaOf(sh, got))
	}
	return filters.Continue
}

// bucketOf is the hash of the key's values. Each stands behind its length, so that
// no two lists of values look alike.
func (l *local) bucketOf(x *filters.Exchange, in *expr.Input) hash {
	if len(l.key) == 1 {
		v, _ := l.key[0].Text(in)
		return l.many.hash(v)
	}
	b := x.Append()
	for _, p := range l.key {
		v, _ := p.Text(in)
		b = strconv.AppendInt(b, int64(len(v)), 10)
		b = append(append(b, ':'), v...)
	}
	return l.many.hash(x.Text(b))
}

// note keeps the quota of the limit that has least left.
func note(x *filters.Exchange, s *shape, got taken) {
	n := x.Notes()
	if n.Quota.Limit == "" || got.left < n.Quota.Remaining {
		n.Quota = quotaOf(s, got)
	}
}

func quotaOf(s *shape, got taken) filters.Quota {
	q := filters.Quota{Limit: s.quota, Remaining: got.left, Reset: seconds(got.reset)}
	if !got.ok && got.retry > 0 {
		q.RetryAfter = seconds(got.retry)
	}
	return q
}

// resourceExhausted is the status of gRPC calls over a limit, as gRPC's own limits have it and as
// Envoy has it where rate_limited_as_resource_exhausted is set.
const resourceExhausted = "8"

func refuse(x *filters.Exchange, status int, details, body string, q filters.Quota) filters.Result {
	q.Refused = true
	x.Notes().Quota = q
	x.Answer(status, "RL", details, body)
	x.Reply.GRPCStatus = resourceExhausted
	return filters.Replied
}
