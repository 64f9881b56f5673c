package object

import (
	"math"
	"time"

	"cairnproxy.dev/cairn/expr"
	"cairnproxy.dev/cairn/mesh"
)

const (
	maxLimits      = 32 // local limits, or descriptors, of one policy
	maxKeyParts    = 8  // expressions of one key
	maxEntries     = 16 // entries of one descriptor
	maxRateLimited = 1_000_000_000
)

func (t *translator) trafficRateLimit(o *Object, in *TrafficRateLimit) *mesh.RateLimit {
	if in == nil {
		return nil
	}
	const path = "spec.rateLimit"
	out := &mesh.RateLimit{Policy: o.Name}
	switch in.Fields {
	case "", "Always":
	case "Refused":
		out.Fields = mesh.QuotaRefused
	case "Never":
		out.Fields = mesh.QuotaNever
	default:
		t.bad(o, path+".fields", "%q is not known; use Always, Refused or Never", clip(in.Fields))
	}
	if len(in.Local) == 0 && in.Global == nil {
		t.bad(o, path, "it limits nothing; add local or global")
	}
	t.atMost(o, path+".local", len(in.Local), maxLimits)
	names := map[string]int{}
	for i := range in.Local {
		l, at := &in.Local[i], elem(path+".local", i)
		switch first, dup := names[l.Name]; {
		case !isLabel(l.Name):
			t.bad(o, at+".name", "%q is not a valid name; use lower-case letters, digits and '-'", clip(l.Name))
		case dup:
			t.bad(o, at+".name", "name %q is also that of local[%d]; rename one", l.Name, first)
		}
		names[l.Name] = i
		out.Local = append(out.Local, t.localLimit(o, at, l))
	}
	if in.Global != nil {
		out.Global = t.globalLimit(o, path+".global", in.Global)
	}
	return out
}

func (t *translator) localLimit(o *Object, path string, in *TrafficLocalLimit) mesh.LocalLimit {
	out := mesh.LocalLimit{
		Name:     in.Name,
		Requests: uint64(number(t, o, path+".requests", in.Requests, 1, maxRateLimited)),
		Per:      t.positive(o, path+".per", in.Per),
		When:     t.cel(o, path+".when", in.When, expr.KindBool),
		Cost:     t.cel(o, path+".cost", in.Cost, expr.KindInt),
		MaxKeys:  int(t.optional(o, path+".maxKeys", in.MaxKeys, 1, 1_000_000)),
		Status:   t.refusal(o, path+".status", in.Status),
		DryRun:   in.DryRun,
	}
	if in.Per == nil {
		out.Per = time.Second
	}
	out.Burst = out.Requests
	if in.Burst != nil {
		out.Burst = uint64(number(t, o, path+".burst", *in.Burst, 1, maxRateLimited))
	}
	t.atMost(o, path+".key", len(in.Key), maxKeyParts)
	for i, k := range in.Key {
		out.Key = append(out.Key, t.neededCEL(o, elem(path+".key", i), k, expr.KindScalar))
	}
	if in.MaxKeys != nil && len(in.Key) == 0 {
		t.bad(o, path+".maxKeys", "a limit without a key has one bucket; add key or remove maxKeys")
	}
	return out
}

// refusal is the status with which requests over a limit are answered; 0 for the default.
func (t *translator) refusal(o *Object, path string, in *int32) int {
	if in == nil {
		return 0
	}
	return int(number(t, o, path, int64(*in), 400, 599))
}

func (t *translator) globalLimit(o *Object, path string, in *TrafficGlobalLimit) *mesh.GlobalLimit {
	out := &mesh.GlobalLimit{
		Domain: in.Domain, Timeout: t.positive(o, path+".timeout", in.Timeout), DryRun: in.DryRun,
		Status: t.refusal(o, path+".status", in.Status),
	}
	if in.Domain == "" || len(in.Domain) > math.MaxUint8 || !isFieldValue(in.Domain) {
		t.bad(o, path+".domain", "%q is not a domain of limits; use the one of the service's own configuration", clip(in.Domain))
	}
	switch in.FailureMode {
	case "Open":
		out.FailOpen = true
	case "", "Closed":
	default:
		t.bad(o, path+".failureMode", "%q is not known; use Open or Closed", clip(in.FailureMode))
	}
	if len(in.Descriptors) == 0 {
		t.bad(o, path+".descriptors", "nothing is asked of the service; add a descriptor")
	}
	t.atMost(o, path+".descriptors", len(in.Descriptors), maxLimits)
	for i := range in.Descriptors {
		out.Descriptors = append(out.Descriptors, t.descriptor(o, elem(path+".descriptors", i), &in.Descriptors[i]))
	}
	t.limitService(o, path+".backendRef", in, out)
	return out
}

func (t *translator) descriptor(o *Object, path string, in *TrafficDescriptor) mesh.Descriptor {
	out := mesh.Descriptor{When: t.cel(o, path+".when", in.When, expr.KindBool), Cost: t.cel(o, path+".cost", in.Cost, expr.KindInt)}
	if len(in.Entries) == 0 {
		t.bad(o, path+".entries", "the descriptor is empty; add an entry")
	}
	t.atMost(o, path+".entries", len(in.Entries), maxEntries)
	for i, e := range in.Entries {
		at := elem(path+".entries", i)
		if e.Key == "" {
			t.bad(o, at+".key", "the entry has no key; give it one")
		}
		if (e.Value == "") == (e.Expression == "") {
			t.bad(o, at, "the entry needs one of value and expression; give exactly one")
		}
		out.Entries = append(out.Entries, mesh.DescriptorEntry{Key: e.Key, Value: e.Value, Expr: t.cel(o, at+".expression", e.Expression, expr.KindScalar)})
	}
	return out
}

// limitService resolves the service that is asked. One that is not there is told
// of, and handled like a service that does not answer.
func (t *translator) limitService(o *Object, path string, in *TrafficGlobalLimit, out *mesh.GlobalLimit) {
	first := len(t.trail)
	out.Service, out.Port, _ = t.referredPort(o, path, &in.BackendRef)
	out.Broken = t.brokenSince(first)
}
