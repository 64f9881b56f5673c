package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxDump bounds what is read of a configuration dump.
const maxDump = 256 << 20

func newConfigCommand() *cobra.Command {
	var admin, output string
	cmd := &cobra.Command{
		Use:   "config [SECTION]",
		Short: "Print what a running proxy believes",
		Long: `Prints the configuration that a running node proxy or waypoint serves by: the
whole dump, or one of its sections (services, workloads, policies, routes,
statuses, certificates and so on) as a table. Routes are printed with their parents
and conditions, their rules, and the policy in force at each port that they serve.`,
		Example: `  cairn config --admin 127.0.0.1:15000             # all of it, as JSON
  cairn config services --admin 127.0.0.1:15000
  cairn config routes --admin 127.0.0.1:15000      # of a waypoint
  cairn config certificates -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			section := "dump"
			if len(args) == 1 {
				section = args[0]
			}
			if output != "table" && output != "json" {
				return &usageError{fmt.Errorf("--output %q: want table or json", output)}
			}
			dump, err := fetchDump(cmd.Context(), admin)
			if err != nil {
				return err
			}
			return printSection(cmd.OutOrStdout(), dump, section, output)
		},
	}
	cmd.Flags().StringVar(&admin, "admin", "127.0.0.1:15000", "the proxy's admin address, HOST:PORT")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how a section is printed: table or json")
	return cmd
}

// fetchDump reads the configuration of the proxy whose admin port is addr.
func fetchDump(ctx context.Context, addr string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := "http://" + addr + "/config_dump"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--admin %q: want HOST:PORT", addr)}
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the proxy: %w (is one running, with its admin port there? `cairn up` prints it)", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDump))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return body, nil
}

// printSection prints one section of a dump, or all of it.
func printSection(w io.Writer, dump []byte, section, output string) error {
	if section == "dump" {
		return printJSON(w, dump)
	}
	var sections map[string]json.RawMessage
	if err := json.Unmarshal(dump, &sections); err != nil {
		return fmt.Errorf("reading the dump: %w", err)
	}
	raw, ok := sections[section]
	if !ok && section == "policies" {
		raw, ok = perService(sections["services"], section)
	}
	if !ok {
		return &usageError{fmt.Errorf("this proxy has no section %q; it has dump, %s", section, strings.Join(slices.Sorted(maps.Keys(sections)), ", "))}
	}
	if section == "routes" && output == "table" {
		return printRoutes(w, raw)
	}
	var rows []map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if output == "json" || d.Decode(&rows) != nil {
		return printJSON(w, raw)
	}
	return printTable(w, columnsOf(section, rows), rows)
}

func printJSON(w io.Writer, raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("reading the dump: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}

// perService gathers what a waypoint lists with each of its services, as policies,
// into rows of their own.
func perService(services json.RawMessage, section string) (json.RawMessage, bool) {
	var list []map[string]any
	if json.Unmarshal(services, &list) != nil {
		return nil, false
	}
	rows := []map[string]any{}
	for _, s := range list {
		of, _ := s[section].([]any)
		for _, e := range of {
			row, ok := e.(map[string]any)
			if !ok {
				row = map[string]any{"name": e}
			}
			row["hostname"], row["address"] = s["hostname"], s["address"]
			rows = append(rows, row)
		}
	}
	out, err := json.Marshal(rows)
	return out, err == nil
}
