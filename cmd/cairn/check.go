package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
	"cairnproxy.dev/cairn/source/object"
)

func newCheckCommand() *cobra.Command {
	var asJSON, enrol, status bool
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "Say what is wrong with manifests, without starting anything",
		Long: `Reads manifests as "cairn up" does and prints everything that is wrong with
them, a line each: file, line, object, field, and what to do about it. Then the
conditions of routes and policies that are not good, in the words of Gateway API; with
--status all of them. Exits 1 if anything is wrong.`,
		Example: `  cairn check examples/bookinfo
  cairn check manifests/ --status
  cairn check manifests/ --json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src := file.New(file.Options{Paths: args, Objects: object.Options{Enrol: enrol}})
			return printCheck(cmd.OutOrStdout(), src.Load(), asJSON, status)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print problems, notices and all conditions as JSON")
	cmd.Flags().BoolVar(&enrol, "enrol", true, "enrol namespaces that carry no istio.io/dataplane-mode label")
	cmd.Flags().BoolVar(&status, "status", false, "print all conditions of routes and policies")
	return cmd
}

// printCheck prints what a look at manifests gave.
func printCheck(w io.Writer, res file.Result, asJSON, status bool) error {
	if asJSON {
		if err := printCheckJSON(w, res); err != nil {
			return err
		}
	} else {
		for _, n := range res.Notices {
			fmt.Fprintln(w, "notice:", n)
		}
		for _, p := range res.Problems {
			fmt.Fprintln(w, p)
		}
		printConditions(w, res.Parts.Statuses, status)
	}
	if len(res.Problems) > 0 {
		return &reportedError{}
	}
	if asJSON {
		return nil
	}
	_, err := fmt.Fprintf(w, "%d objects in %d files: good\n", res.Objects, res.Files)
	return err
}

// printConditions prints a line for each condition that is not good, or for every one:
// "status: HTTPRoute a/b at Service a/c: ResolvedRefs=False BackendNotFound: …".
func printConditions(w io.Writer, statuses []*mesh.Status, all bool) {
	for _, s := range statuses {
		for i := range s.Parents {
			p := &s.Parents[i]
			for _, c := range p.Conditions {
				if c.Good() && !all {
					continue
				}
				fmt.Fprintf(w, "status: %s %s at %s: %s=%s %s", s.Kind, s.Object, p.Parent, c.Type, truth(c.True), c.Reason)
				if c.Message != "" {
					fmt.Fprintf(w, ": %s", c.Message)
				}
				fmt.Fprintln(w)
			}
		}
	}
}

// truth is how Kubernetes writes a condition's status.
func truth(v bool) string {
	if v {
		return "True"
	}
	return "False"
}

// checkStatus is the status of a route or a policy in JSON, in Gateway API's words.
type checkStatus struct {
	Kind      string        `json:"kind"`
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Parents   []checkParent `json:"parents"`
}

type checkParent struct {
	ParentRef  checkRef         `json:"parentRef"`
	Conditions []checkCondition `json:"conditions"`
}

type checkRef struct {
	Group       string `json:"group"`
	Kind        string `json:"kind"`
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	SectionName string `json:"sectionName,omitempty"`
	Port        uint16 `json:"port,omitempty"`
}

type checkCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

func statusesJSON(statuses []*mesh.Status) []checkStatus {
	out := []checkStatus{}
	for _, s := range statuses {
		x := checkStatus{Kind: s.Kind, Namespace: s.Object.Namespace, Name: s.Object.Name, Parents: []checkParent{}}
		for i := range s.Parents {
			p := s.Parents[i].Parent
			parent := checkParent{ParentRef: checkRef{p.Group, p.Kind, p.Name.Namespace, p.Name.Name, p.Section, p.Port}}
			for _, c := range s.Parents[i].Conditions {
				parent.Conditions = append(parent.Conditions, checkCondition{c.Type, truth(c.True), c.Reason, c.Message})
			}
			x.Parents = append(x.Parents, parent)
		}
		out = append(out, x)
	}
	return out
}

func printCheckJSON(w io.Writer, res file.Result) error {
	out := struct {
		Files    int              `json:"files"`
		Objects  int              `json:"objects"`
		Problems []source.Problem `json:"problems"`
		Notices  []object.Notice  `json:"notices"`
		Statuses []checkStatus    `json:"statuses"`
	}{
		res.Files, res.Objects, append([]source.Problem{}, res.Problems...), append([]object.Notice{}, res.Notices...),
		statusesJSON(res.Parts.Statuses),
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
