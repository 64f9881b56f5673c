package file

import (
	"fmt"
	"io"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
)

// Report is what a check of manifests found.
type Report struct {
	Files     int              `json:"files"`
	Objects   int              `json:"objects"`
	Services  int              `json:"services"`
	Workloads int              `json:"workloads"`
	Waypoints int              `json:"waypoints"`
	Routes    int              `json:"routes"`
	Policies  int              `json:"policies"`
	Notices   []object.Notice  `json:"notices"`
	Problems  []source.Problem `json:"problems"`
}

// Check reads manifests as a Source would, and starts nothing.
func Check(paths []string, opts object.Options) Report {
	res := New(Options{Paths: paths, Objects: opts}).Load()
	type rule struct {
		object string
		rule   int
	}
	rules := map[rule]bool{}
	for _, a := range res.Parts.Attachments {
		rules[rule{a.Route.Object.String(), a.Route.Rule}] = true
	}
	return Report{
		Files: res.Files, Objects: res.Objects,
		Services: len(res.Parts.Services), Workloads: len(res.Parts.Workloads), Waypoints: len(res.Parts.Waypoints),
		Routes: len(rules), Policies: len(res.Parts.Policies) + len(res.Parts.PeerAuth) + len(res.Parts.Access),
		Notices: append([]object.Notice{}, res.Notices...), Problems: append([]source.Problem{}, res.Problems...),
	}
}

// OK reports whether the manifests can be served.
func (r Report) OK() bool { return len(r.Problems) == 0 }

// Write prints the report for people: notices, problems, and a last line that sums up.
func (r Report) Write(w io.Writer) error {
	for _, n := range r.Notices {
		if _, err := fmt.Fprintln(w, "notice:", n); err != nil {
			return err
		}
	}
	for _, p := range r.Problems {
		if _, err := fmt.Fprintln(w, "error:", p); err != nil {
			return err
		}
	}
	verdict := "good"
	if n := len(r.Problems); n > 0 {
		verdict = plural(n, "problem")
	}
	_, err := fmt.Fprintf(w, "%s in %s: %s, %s, %s, %s, %s: %s\n", plural(r.Objects, "object"), plural(r.Files, "file"),
		plural(r.Services, "service"), plural(r.Workloads, "workload"), plural(r.Waypoints, "waypoint"),
		plural(r.Routes, "route rule"), count(r.Policies, "policy", "policies"), verdict)
	return err
}

func plural(n int, what string) string { return count(n, what, what+"s") }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
