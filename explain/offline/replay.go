package offline

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// Verdict is what is said of one recorded request.
type Verdict struct {
	Allowed bool
	By      string // the rule, or why there is none
	// Unsure says that header fields or a token, which are not recorded, might change it.
	Unsure bool
}

// Judge says what it would do with a recorded request, or why it cannot tell.
type Judge func(*decision.Record) (Verdict, error)

// Recorded judges as was done.
func Recorded(r *decision.Record) (Verdict, error) {
	if explain.RefusedThen(r) {
		return Verdict{By: r.Details}, nil
	}
	return Verdict{Allowed: true, By: "as it was"}, nil
}

// Manifests judges as m would.
func (m *Mesh) Manifests(r *decision.Record) (Verdict, error) {
	q := explain.FromRecord(r)
	w, err := m.Judge(&q)
	if err != nil {
		return Verdict{}, err
	}
	if w.Service == "" {
		return Verdict{}, fmt.Errorf("%s: %s", w.Name, w.Why)
	}
	return Verdict{Allowed: !w.Refused(), By: w.By(), Unsure: len(w.Unknown(&q)) > 0}, nil
}

// Alone judges as if the policies of parts were all there is for the services that they target; one that targets a
// Gateway or a class is for all services. About others it says what was done. What service a line of an access log was for is
// not known, so that all policies judge it. Nothing may be wrong with the policies but that their targets are not there.
func Alone(parts mesh.Parts) Judge {
	sets := map[string]*policy.L7{}
	return func(r *decision.Record) (Verdict, error) {
		set, ok := sets[r.Service]
		if !ok {
			var a policy.Attached
			for _, p := range parts.Policies {
				if targeted(p.TargetRefs, p.Name.Namespace, r.Service) {
					p := *p
					p.Invalid = "" // its target is not there
					a.Authorization = append(a.Authorization, &p)
				}
			}
			for _, p := range parts.Access {
				if targeted(p.TargetRefs, p.Name.Namespace, r.Service) {
					p := *p
					p.Invalid = ""
					a.Access = append(a.Access, &p)
				}
			}
			if len(a.Authorization)+len(a.Access) > 0 {
				set = policy.Compile(a)
			}
			sets[r.Service] = set
		}
		if set == nil {
			return Recorded(r) // nothing is said about it
		}
		q := explain.FromRecord(r)
		w := explain.Waypoint{Policies: explain.Judge(set, &q)}
		return Verdict{Allowed: w.Policies.Allowed, By: w.By(), Unsure: len(w.Unknown(&q)) > 0}, nil
	}
}

// targeted reports whether a policy of that namespace is for requests to service, a host.
func targeted(refs []mesh.TargetRef, namespace, service string) bool {
	return slices.ContainsFunc(refs, func(ref mesh.TargetRef) bool {
		switch ref.Kind {
		case "Gateway", "GatewayClass":
			return true
		case "Service":
			return service == "" || strings.HasPrefix(service, ref.Name+"."+namespace+".svc.")
		}
		return false
	})
}

// Change is requests about which two Judges differ in the same way.
type Change struct {
	// To is "refused" or "allowed"; By is the rule that says so, WasBy the one that said the other.
	To    string `json:"to"`
	By    string `json:"by"`
	WasBy string `json:"wasBy"`
	Count int    `json:"count"`
	// Unsure counts those of which it is not certain.
	Unsure   int       `json:"unsure,omitempty"`
	Examples []Example `json:"examples"`
}

// Example is requests that look alike.
type Example struct {
	Request string `json:"request"`
	From    string `json:"from"`
	ID      string `json:"id"` // of the first
	Count   int    `json:"count"`
}

// Report is what a replay has found.
type Report struct {
	Requests int      `json:"requests"`
	Changes  []Change `json:"changes"`
	// Unsure counts requests about which nothing changes as far as can be told.
	Unsure int `json:"unsure,omitempty"`
	// Untold counts requests that could not be judged, by the reason.
	Untold map[string]int `json:"untold,omitempty"`
}

const (
	maxExamples = 5
	maxChanges  = 10_000 // rules that change something
	maxReasons  = 100
)

// Replay compares what two Judges say, record by record. Its methods are for one goroutine.
type Replay struct {
	Before, After Judge

	report  Report
	changes map[[3]string]*Change
}

// Add takes one record.
func (p *Replay) Add(r decision.Record) error {
	p.report.Requests++
	was, err := p.Before(&r)
	var is Verdict
	if err == nil {
		is, err = p.After(&r)
	}
	if explain.RefusedBefore(&r) {
		err = errors.New("refused before policies were asked, for its token or by an external service")
	}
	if err != nil {
		if p.report.Untold == nil {
			p.report.Untold = map[string]int{}
		}
		if reason := err.Error(); len(p.report.Untold) < maxReasons || p.report.Untold[reason] > 0 {
			p.report.Untold[reason]++
		} else {
			p.report.Untold["other reasons"]++
		}
		return nil
	}
	unsure := was.Unsure || is.Unsure
	if was.Allowed == is.Allowed {
		if unsure {
			p.report.Unsure++
		}
		return nil
	}
	key := [3]string{"refused", is.By, was.By}
	if is.Allowed {
		key[0] = "allowed"
	}
	c := p.changes[key]
	if c == nil {
		if len(p.changes) >= maxChanges {
			return fmt.Errorf("more than %d kinds of changes", maxChanges)
		}
		if p.changes == nil {
			p.changes = map[[3]string]*Change{}
		}
		c = &Change{To: key[0], By: key[1], WasBy: key[2]}
		p.changes[key] = c
	}
	c.add(&r, unsure)
	return nil
}

func (c *Change) add(r *decision.Record, unsure bool) {
	c.Count++
	if unsure {
		c.Unsure++
	}
	q := explain.FromRecord(r)
	line, who := q.Line(), q.Who()
	for i := range c.Examples {
		if e := &c.Examples[i]; e.Request == line && e.From == who {
			e.Count++
			return
		}
	}
	if len(c.Examples) < maxExamples {
		c.Examples = append(c.Examples, Example{line, who, r.RequestID, 1})
	}
}

// Report returns what was found: what would be refused first, what concerns most requests first.
func (p *Replay) Report() *Report {
	out := p.report
	out.Changes = []Change{}
	for _, c := range p.changes {
		out.Changes = append(out.Changes, *c)
	}
	slices.SortFunc(out.Changes, func(a, b Change) int {
		return cmp.Or(strings.Compare(b.To, a.To), cmp.Compare(b.Count, a.Count), strings.Compare(a.By, b.By), strings.Compare(a.WasBy, b.WasBy))
	})
	return &out
}

// Changed counts the requests about which something else is said.
func (r *Report) Changed() int {
	n := 0
	for i := range r.Changes {
		n += r.Changes[i].Count
	}
	return n
}

// WriteText writes r for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d requests would be answered otherwise\n", r.Changed(), r.Requests)
	for i := range r.Changes {
		c := &r.Changes[i]
		from := "refused"
		if c.To == from {
			from = "allowed"
		}
		fmt.Fprintf(&b, "%s → %s: %d\n", from, c.To, c.Count)
		fmt.Fprintf(&b, "  now  %s\n  was  %s\n", c.By, c.WasBy)
		if c.Unsure > 0 {
			fmt.Fprintf(&b, "  %d of them depend on header fields or tokens, which are not recorded\n", c.Unsure)
		}
		shown := 0
		for _, e := range c.Examples {
			fmt.Fprintf(&b, "  %5d %s from %s (%s)\n", e.Count, explain.Clean(e.Request), explain.Clean(e.From), explain.Clean(e.ID))
			shown += e.Count
		}
		if n := c.Count - shown; n > 0 {
			fmt.Fprintf(&b, "  %5d others\n", n)
		}
	}
	if r.Unsure > 0 {
		fmt.Fprintf(&b, "%d of the others depend on header fields or tokens, which are not recorded\n", r.Unsure)
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Untold)) {
		fmt.Fprintf(&b, "%d cannot be judged: %s\n", r.Untold[reason], reason)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
