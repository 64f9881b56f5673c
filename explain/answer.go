package explain

import (
	"fmt"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// Explanation is the answer to a Question: what each proxy on the way decides, and why.
type Explanation struct {
	Request Question `json:"request"`
	// Record is what was decided, where the request is one of the past.
	Record *decision.Record `json:"record,omitempty"`
	// Configuration says which configuration answers.
	Configuration string `json:"configuration"`
	// Client is where the client's node proxy sends the connection.
	Client   *Hop      `json:"client,omitempty"`
	Waypoint *Waypoint `json:"waypoint,omitempty"`
	// Nodes are what the node proxies of the endpoints say to whoever connects there.
	Nodes []Node `json:"nodes,omitempty"`
	// Outcome is what becomes of the request, in a line.
	Outcome string   `json:"outcome"`
	Notes   []string `json:"notes,omitempty"`
}

// Hop is a connection of a node proxy.
type Hop struct {
	From string `json:"from"`
	To   string `json:"to,omitempty"`
	// Refused is why there is none.
	Refused string `json:"refused,omitempty"`
}

// Node is the decision of the node proxy of one endpoint about the connection.
type Node struct {
	Workload string   `json:"workload"`
	Peer     string   `json:"peer"` // who connects: the waypoint, or the client
	Decision Decision `json:"decision"`
}

// Waypoint is what a waypoint decides about a request.
type Waypoint struct {
	Name     string `json:"name"`
	Version  uint64 `json:"version"` // of its configuration
	Service  string `json:"service,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	// Tokens are the issuers whose tokens are believed; a token is not verified here.
	Tokens []string `json:"tokens,omitempty"`
	// Policies are those of the Gateway and the service; nil for none.
	Policies *Decision `json:"policies,omitempty"`
	Route    *Route    `json:"route,omitempty"`
	// Status is what the waypoint answers itself, 0 when the request goes on to a backend.
	Status int    `json:"status,omitempty"`
	Why    string `json:"why,omitempty"`
}

// Decision is a verdict with all that led to it.
type Decision struct {
	Allowed bool   `json:"allowed"`
	By      string `json:"by,omitempty"` // the policy and its rule; "" where none decided
	Reason  string `json:"reason"`
	DryRun  string `json:"dryRun,omitempty"`
	// Ask are the providers of CUSTOM policies which would be asked first, and were not.
	Ask   []string `json:"ask,omitempty"`
	Steps []Step   `json:"steps,omitempty"`
}

// Step is what one rule says.
type Step struct {
	Kind    string `json:"kind"`
	Policy  string `json:"policy"`
	Action  string `json:"action"`
	Mode    string `json:"mode"`
	Rule    int    `json:"rule"`
	Name    string `json:"name,omitempty"`
	Matched bool   `json:"matched"`
	Decided bool   `json:"decided,omitempty"`
	Failed  string `json:"failed,omitempty"`
	Error   string `json:"error,omitempty"`
	// Fields are the header fields that the rule looks at, "(token)" for a token.
	Fields []string `json:"fields,omitempty"`
}

// Route is how a rule was chosen, and what it does.
type Route struct {
	Rule  string `json:"rule"` // "HTTPRoute shop/reviews rule canary"; "" for none
	Match string `json:"match,omitempty"`
	// Tried are all rules, with why each is not the one.
	Tried    []Tried   `json:"tried,omitempty"`
	Broken   string    `json:"broken,omitempty"`
	Policies *Decision `json:"policies,omitempty"`
	Filters  []string  `json:"filters,omitempty"`
	Requests string    `json:"requests,omitempty"` // the traffic policy in force
	Backends []Backend `json:"backends,omitempty"`
}

// Tried is one match of one rule.
type Tried struct {
	Rule   string `json:"rule"`
	Match  string `json:"match"`
	Taken  bool   `json:"taken,omitempty"`
	Failed string `json:"failed,omitempty"`
	// Fields are the header fields that it looks at.
	Fields []string `json:"fields,omitempty"`
}

// Backend is one destination of a rule.
type Backend struct {
	Service string `json:"service"`
	Port    uint16 `json:"port"`
	Weight  uint32 `json:"weight"`
	// Percent is its share of the requests.
	Percent float64 `json:"percent"`
	Broken  string  `json:"broken,omitempty"`
	Policy  string  `json:"policy,omitempty"`
	// Balancer is how an endpoint is chosen, Endpoints which there are.
	Balancer  string     `json:"balancer,omitempty"`
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Took is true for the backend to which the recorded request went.
	Took bool `json:"took,omitempty"`
}

// Endpoint is one of a backend's.
type Endpoint struct {
	Workload string `json:"workload"`
	Address  string `json:"address"`
	// Condition is why it is not used now: ejected, unhealthy, busy.
	Condition string `json:"condition,omitempty"`
	Took      bool   `json:"took,omitempty"`
}

// NewDecision puts a verdict and its steps into words.
func NewDecision(v policy.Verdict, steps []policy.Step) *Decision {
	d := &Decision{Allowed: v.Allowed, Reason: v.Reason}
	if v.Policy != (mesh.Name{}) {
		d.By = v.Kind + " " + v.Policy.String()
	}
	for i := range steps {
		s := &steps[i]
		out := Step{
			Kind: s.Kind, Policy: s.Policy.String(), Action: s.Action, Mode: s.Mode.String(), Rule: s.Rule, Name: s.RuleName,
			Matched: s.Matched, Decided: s.Decided, Failed: s.Failed, Error: s.Error, Fields: s.Fields,
		}
		if s.Decided {
			d.By += " rule " + out.ruleName()
		}
		d.Steps = append(d.Steps, out)
	}
	if v.DryRun.Denied {
		d.DryRun = "refused by " + v.DryRun.Policy.String()
		if v.DryRun.Rule >= 0 {
			d.DryRun += fmt.Sprintf(" rule %d", v.DryRun.Rule)
		}
	}
	return d
}

// Judge says what a set of policies makes of q, whose path is taken as it is. It asks no provider.
func Judge(set *policy.L7, q *Question) *Decision {
	path, query, has := strings.Cut(q.Path, "?")
	host, _, _ := strings.Cut(strings.ToLower(q.Host), ":")
	req := &mesh.Request{
		Method: q.Method, Scheme: "http", Authority: q.Host, Host: host, Path: path, Query: query, HasQuery: has, Fields: q.Fields(), Token: q.Token(),
		Destination: q.Destination, Proto: 1, MinorVersion: 1, Peer: mesh.Peer{Identity: q.Identity(), Principal: q.Principal, Addr: q.Source},
	}
	return NewDecision(set.Explain(policy.Input{Req: req, Now: q.At}))
}

func (s *Step) ruleName() string {
	if s.Name != "" {
		return s.Name
	}
	return fmt.Sprint(s.Rule)
}

// unknown are the header fields that the decision depends on, and of which q does not know; nil where it is certain.
func (d *Decision) unknown(q *Question) []string {
	if d == nil {
		return nil
	}
	var out []string
	for i := range d.Steps {
		s := &d.Steps[i]
		if s.Mode != mesh.ModeEnforce.String() {
			continue
		}
		var of []string
		for _, f := range s.Fields {
			if !q.knows(f) {
				of = append(of, f)
			}
		}
		if s.Decided && !d.Allowed && of == nil {
			return nil // it is refused, whatever they are
		}
		out = append(out, of...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
