package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// sectionColumns are the keys that a section's table shows, in order, as far
// as a proxy has them: node proxies and waypoints believe different things.
var sectionColumns = map[string][]string{
	"workloads":    {"namespace", "name", "workloadIps", "node", "serviceAccount", "protocol", "waypoint", "status"},
	"services":     {"namespace", "name", "hostname", "address", "workload", "vips", "ports", "protocol", "waypoint", "endpoints", "routes", "policies"},
	"policies":     {"hostname", "address", "namespace", "name", "scope", "action", "rules"},
	"certificates": {"identity", "state", "certChain"},
	"statuses":     {"kind", "name", "parents"},
	"clusters":     {"name", "balancer", "policies", "endpoints", "state"},
	"tokens":       {"issuer", "keys", "keyIds", "age", "error"},
}

// columnsOf returns the columns of a section: those that are listed for it and
// are there, or all keys in alphabetical order.
func columnsOf(section string, rows []map[string]any) []string {
	keys := map[string]bool{}
	for _, r := range rows {
		for k := range r {
			keys[k] = true
		}
	}
	if c, ok := sectionColumns[section]; ok {
		return slices.DeleteFunc(slices.Clone(c), func(k string) bool { return !keys[k] && len(rows) > 0 })
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
		return listCell(column, v)
	case map[string]any:
		return objectCell(column, v)
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

func objectCell(column string, v map[string]any) string {
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
}

func listCell(column string, v []any) string {
	var parts []string
	for _, e := range v {
		o, isObject := e.(map[string]any)
		switch {
		case column == "certChain":
			return fmt.Sprintf("until %v", o["expirationTime"])
		case column == "parents":
			parts = append(parts, parentCell(o))
		case column == "endpoints" && o["address"] != nil:
			at := fmt.Sprint(o["address"])
			if c, ok := o["condition"].(string); ok {
				at += "(" + c + ")"
			}
			parts = append(parts, at)
		case isObject:
			return fmt.Sprint(len(v))
		default:
			parts = append(parts, cell(column, e))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ",")
}

// parentCell renders what became of an object at one parent: "Service a/b Accepted=True".
func parentCell(p map[string]any) string {
	parts := []string{fmt.Sprint(p["parent"])}
	list, _ := p["conditions"].([]any)
	for _, e := range list {
		if c, ok := e.(map[string]any); ok {
			parts = append(parts, fmt.Sprintf("%v=%v", c["type"], c["status"]))
		}
	}
	return strings.Join(parts, " ")
}
