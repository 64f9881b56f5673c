package explain

import (
	"fmt"
	"io"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// WriteText writes e for people.
func (e *Explanation) WriteText(w io.Writer) error {
	p := &printer{}
	e.print(p)
	_, err := io.WriteString(w, p.String())
	return err
}

type printer struct{ strings.Builder }

// line writes "name  text" at a depth of two spaces each.
func (p *printer) line(depth int, name, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text == "" {
		return
	}
	indent := strings.Repeat("  ", depth)
	if name == "" {
		fmt.Fprintf(p, "%s%s\n", indent, text)
		return
	}
	fmt.Fprintf(p, "%s%-*s %s\n", indent, 10-2*depth, name, text)
}

func (e *Explanation) print(p *printer) {
	q := &e.Request
	p.line(0, "request", "%s", Clean(q.Line()))
	from := q.Who()
	if q.Source.IsValid() {
		from += " at " + q.Source.Addr().String()
	}
	p.line(1, "from", "%s", Clean(from))
	p.line(1, "id", "%s", Clean(q.ID))
	if r := e.Record; r != nil {
		s := fmt.Sprintf("%d", r.Status)
		if r.Status == 0 {
			s = "nothing"
		}
		for _, more := range []string{r.Flags, r.Details} {
			if more != "" {
				s += " " + more
			}
		}
		p.line(1, "at", "%s, answered %s after %v", r.Start.Format(time.RFC3339Nano), s, r.Duration)
		p.line(1, "dry run", "%s", r.DryRun)
	}
	p.line(0, "outcome", "%s", e.Outcome)
	for _, n := range e.Notes {
		p.line(0, "note", "%s", n)
	}
	p.line(0, "config", "%s", e.Configuration)
	if c := e.Client; c != nil {
		to := c.To
		if c.Refused != "" {
			to = "refused: " + c.Refused
		}
		p.line(0, "client", "%s → %s", c.From, to)
	}
	if e.Waypoint != nil {
		e.Waypoint.print(p)
	}
	for i := range e.Nodes {
		n := &e.Nodes[i]
		p.line(0, "node", "proxy of %s: %s, which connects, is %s", n.Workload, n.Peer, n.Decision.verdict())
		n.Decision.steps(p)
	}
}

func (w *Waypoint) print(p *printer) {
	at := w.Service
	if w.Protocol != "" {
		at += " (" + w.Protocol + ")"
	}
	p.line(0, "waypoint", "%s for %s", w.Name, at)
	if len(w.Tokens) > 0 {
		p.line(1, "tokens", "of %s are believed, and are not verified here", strings.Join(w.Tokens, ", "))
	}
	switch {
	case w.Policies != nil:
		w.Policies.print(p, "policies")
	case w.Service != "":
		p.line(1, "policies", "none: everybody may")
	}
	if w.Route == nil {
		return
	}
	r := w.Route
	switch {
	case r.Rule == "":
		p.line(1, "route", "none matches")
	case r.Match == "":
		p.line(1, "route", "%s", r.Rule)
	default:
		p.line(1, "route", "%s: %s", r.Rule, r.Match)
	}
	for _, t := range r.Tried {
		if !t.Taken {
			p.line(2, "not", "%s: %s: %s", t.Rule, t.Match, t.Failed)
		}
	}
	p.line(2, "broken", "%s", r.Broken)
	if r.Policies != nil {
		r.Policies.print(p, "its policies")
	}
	for _, f := range r.Filters {
		p.line(2, "filter", "%s", f)
	}
	p.line(2, "policy", "%s", r.Requests)
	for i := range r.Backends {
		r.Backends[i].print(p)
	}
}

func (b *Backend) print(p *printer) {
	s := fmt.Sprintf("%s:%d %.4g%%", b.Service, b.Port, b.Percent)
	if b.Balancer != "" {
		s += ", " + b.Balancer
	}
	if b.Policy != "" {
		s += ", " + b.Policy
	}
	if b.Took {
		s += "  ← taken"
	}
	p.line(1, "backend", "%s", s)
	p.line(2, "broken", "%s", b.Broken)
	const most = 10
	for i, ep := range b.Endpoints {
		if i >= most && !ep.Took {
			continue
		}
		s := ep.Address + " " + ep.Workload
		if ep.Condition != "" {
			s += " (" + ep.Condition + ")"
		}
		if ep.Took {
			s += "  ← taken"
		}
		p.line(2, "", "%s", s)
	}
	if n := len(b.Endpoints) - most; n > 0 {
		p.line(2, "", "… and %d more", n)
	}
	if len(b.Endpoints) == 0 && b.Broken == "" {
		p.line(2, "", "no endpoint")
	}
}

func (d *Decision) verdict() string {
	s := "refused"
	if d.Allowed {
		s = "allowed"
	}
	if d.By != "" {
		return s + " by " + d.By + ": " + d.Reason
	}
	return s + ": " + d.Reason
}

func (d *Decision) print(p *printer, name string) {
	p.line(1, name, "%s", d.verdict())
	for _, a := range d.Ask {
		p.line(2, "", "%s is asked first, and was not asked here", a)
	}
	if d.DryRun != "" {
		p.line(2, "", "in dry run: %s", d.DryRun)
	}
	d.steps(p)
}

// steps writes a line for each policy, and below it one for each rule.
func (d *Decision) steps(p *printer) {
	last := ""
	for i := range d.Steps {
		s := &d.Steps[i]
		head := s.Kind + " " + s.Policy
		if s.Kind != "AccessPolicy" {
			head = s.Action + " " + head
		}
		if s.Mode != mesh.ModeEnforce.String() {
			head += " (" + s.Mode + ")"
		}
		if head != last {
			p.line(2, "", "%s", head)
			last = head
		}
		p.line(3, "", "%s", s.text())
	}
}

func (s *Step) text() string {
	var name string
	switch {
	case s.Rule < 0:
		name = "-"
	case s.Kind == "AccessPolicy":
		name = s.Action + " " + s.ruleName()
	default:
		name = "rule " + s.ruleName()
	}
	says := "does not match"
	switch {
	case s.Matched && s.Action == "require":
		says = "is not met"
	case s.Action == "require":
		says = "is met"
	case s.Matched:
		says = "matches"
	}
	if s.Decided {
		says += ", and decides"
	}
	if s.Failed != "" {
		says += ": " + Clean(s.Failed)
	}
	if s.Error != "" {
		says += " (" + Clean(s.Error) + ")"
	}
	return name + " " + says
}

// Clean makes what a client sent fit for a terminal, and not too long.
func Clean(s string) string {
	const most = 400
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e {
			return '\uFFFD'
		}
		return r
	}, s)
}
