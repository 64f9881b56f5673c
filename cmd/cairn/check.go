package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
	"cairnproxy.dev/cairn/source/object"
)

func newCheckCommand() *cobra.Command {
	var asJSON, enrol bool
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "Say what is wrong with manifests, without starting anything",
		Long: `Reads manifests as "cairn up" does and prints everything that is wrong with
them, a line each: file, line, object, field, and what to do about it. Exits 1
if there is anything.`,
		Example: `  cairn check examples/bookinfo
  cairn check manifests/ --json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src := file.New(file.Options{Paths: args, Objects: object.Options{Enrol: enrol}})
			return printCheck(cmd.OutOrStdout(), src.Load(), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print problems and notices as JSON")
	cmd.Flags().BoolVar(&enrol, "enrol", true, "enrol namespaces that carry no istio.io/dataplane-mode label")
	return cmd
}

// printCheck prints what a look at manifests gave.
func printCheck(w io.Writer, res file.Result, asJSON bool) error {
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

func printCheckJSON(w io.Writer, res file.Result) error {
	out := struct {
		Files    int              `json:"files"`
		Objects  int              `json:"objects"`
		Problems []source.Problem `json:"problems"`
		Notices  []object.Notice  `json:"notices"`
	}{res.Files, res.Objects, append([]source.Problem{}, res.Problems...), append([]object.Notice{}, res.Notices...)}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
