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
	"text/tabwriter"
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
certificates and so on) as a table.`,
		Example: `  cairn config --admin 127.0.0.1:15000             # all of it, as JSON
  cairn config services --admin 127.0.0.1:15000
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
	if !ok {
		return &usageError{fmt.Errorf("this proxy has no section %q; it has dump, %s", section, strings.Join(slices.Sorted(maps.Keys(sections)), ", "))}
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

// sectionColumns are the keys that a section's table shows, in order.
var sectionColumns = map[string][]string{
	"workloads":    {"namespace", "name", "workloadIps", "node", "serviceAccount", "protocol", "waypoint", "status"},
	"services":     {"namespace", "name", "hostname", "vips", "ports", "waypoint", "endpoints"},
	"policies":     {"namespace", "name", "scope", "action", "rules"},
	"certificates": {"identity", "state", "certChain"},
}

// columnsOf returns the columns of a section; one that is not known shows the
// keys whose values are short, in alphabetical order.
func columnsOf(section string, rows []map[string]any) []string {
	if c, ok := sectionColumns[section]; ok {
		return c
	}
	keys := map[string]bool{}
	for _, r := range rows {
		for k := range r {
			keys[k] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

func printTable(w io.Writer, columns []string, rows []map[string]any) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(columns, "\t")))
	for _, r := range rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = cell(c, r[c])
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// cell renders one value of a table in a few words.
func cell(column string, v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case []any:
		if column == "certChain" {
			return certDates(v)
		}
		return list(column, v)
	case map[string]any:
		if d, ok := v["destination"].(string); ok {
			return strings.TrimPrefix(d, "/")
		}
		if column == "endpoints" {
			return fmt.Sprint(len(v))
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+":"+cell("", v[k]))
		}
		return strings.Join(parts, ",")
	case string:
		if v == "" {
			return "-"
		}
		if column == "vips" {
			return strings.TrimPrefix(v, "/") // NETWORK/ADDRESS, without a network
		}
		return v
	}
	return fmt.Sprint(v)
}

func list(column string, v []any) string {
	var parts []string
	for _, e := range v {
		switch e.(type) {
		case map[string]any, []any:
			return fmt.Sprintf("%d", len(v))
		}
		parts = append(parts, cell(column, e))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}

// certDates says until when the first certificate of a chain is valid.
func certDates(chain []any) string {
	if len(chain) > 0 {
		if c, ok := chain[0].(map[string]any); ok {
			return fmt.Sprintf("until %v", c["expirationTime"])
		}
	}
	return "-"
}
