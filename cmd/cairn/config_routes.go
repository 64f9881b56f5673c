package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// routeRow is a route as a waypoint dumps it; see waypoint.ConfigRouteObject.
type routeRow struct {
	Kind, Name string
	Hostnames  []string
	Parents    []parentRow
	Rules      []ruleRow
}

type parentRow struct {
	Parent     string
	Conditions []struct{ Type, Status, Reason, Message string }
}

type ruleRow struct {
	Name, Broken     string
	Matches, Filters []string
	Ports            []struct {
		Hostname         string
		Port             uint16
		Consumer, Policy string
	}
	Backends []struct {
		Service        string
		Port           uint16
		Weight         uint32
		Broken, Policy string
		Filters        []string
	}
}

// printRoutes prints each route with its parents, what became of it there, and its rules:
// what they match and do, where they are attached with the policy in force, and where they send.
func printRoutes(w io.Writer, raw json.RawMessage) error {
	var rows []routeRow
	if err := json.Unmarshal(raw, &rows); err != nil {
		return fmt.Errorf("reading the dump: %w", err)
	}
	var b strings.Builder
	if len(rows) == 0 {
		b.WriteString("no routes\n")
	}
	for i := range rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		rows[i].print(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *routeRow) print(b *strings.Builder) {
	fmt.Fprintf(b, "%s %s\n", r.Kind, r.Name)
	if len(r.Hostnames) > 0 {
		fmt.Fprintf(b, "  hostnames %s\n", strings.Join(r.Hostnames, " "))
	}
	for _, p := range r.Parents {
		fmt.Fprintf(b, "  parent %s: %s\n", p.Parent, p.conditions())
	}
	for i := range r.Rules {
		r.Rules[i].print(b)
	}
}

// conditions returns "Accepted=True ResolvedRefs=False (BackendNotFound: …)".
func (p *parentRow) conditions() string {
	var parts []string
	for _, c := range p.Conditions {
		s := c.Type + "=" + c.Status
		if c.Message != "" {
			s += " (" + c.Reason + ": " + c.Message + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func (r *ruleRow) print(b *strings.Builder) {
	fmt.Fprintf(b, "  rule %s\n", r.Name)
	line := func(what, text string) {
		if text != "" {
			fmt.Fprintf(b, "    %-8s %s\n", what, text)
		}
	}
	line("broken", r.Broken)
	if len(r.Matches) == 0 {
		line("match", "all")
	}
	for _, m := range r.Matches {
		line("match", m)
	}
	for _, f := range r.Filters {
		line("filter", f)
	}
	for _, p := range r.Ports {
		s := fmt.Sprintf("%s:%d", p.Hostname, p.Port)
		if p.Consumer != "" {
			s += " for clients of " + p.Consumer
		}
		if p.Policy != "" {
			s += ": " + p.Policy
		}
		line("at", s)
	}
	for _, to := range r.Backends {
		parts := []string{fmt.Sprintf("%s:%d weight=%d", to.Service, to.Port, to.Weight)}
		if to.Policy != "" {
			parts = append(parts, to.Policy)
		}
		parts = append(parts, to.Filters...)
		if to.Broken != "" {
			parts = append(parts, "BROKEN: "+to.Broken)
		}
		line("to", strings.Join(parts, ", "))
	}
}
