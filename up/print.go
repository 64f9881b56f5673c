package up

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printReady prints what runs as tables for people, and one command to try.
func printReady(w io.Writer, e readyEvent) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(e.Services) > 0 {
		fmt.Fprintln(t, "SERVICE\tADDRESS\tPORTS\tWAYPOINT")
		for _, s := range e.Services {
			fmt.Fprintf(t, "%s/%s\t%s\t%s\t%s\n", s.Namespace, s.Name, orDash(strings.Join(s.Addresses, ",")), portList(s.Ports), orDash(s.Waypoint))
		}
		fmt.Fprintln(t)
	}
	if len(e.Pods) > 0 {
		fmt.Fprintln(t, "POD\tADDRESS\tNODE\tSERVICE ACCOUNT\tSTATE")
		for _, p := range e.Pods {
			fmt.Fprintf(t, "%s/%s\t%s\t%s\t%s\t%s\n", p.Namespace, p.Name, p.Address, p.Node, p.ServiceAccount, p.State)
		}
		fmt.Fprintln(t)
	}
	fmt.Fprintln(t, "PROXY\tADDRESS\tADMIN\tMETRICS")
	for _, p := range e.Waypoints {
		fmt.Fprintf(t, "waypoint %s/%s\t%s\t%s\t%s\n", p.Namespace, p.Name, p.Address, p.Admin, p.Metrics)
	}
	for _, n := range e.Nodes {
		fmt.Fprintf(t, "node %s\t-\t%s\t%s\n", n.Name, n.Admin, n.Metrics)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b.WriteString("\n")
	if e.CA != nil {
		fmt.Fprintf(&b, "Certificates are served at %s, by the tokens in %s;\nits clients trust %s.\n\n", e.CA.Address, e.CA.Tokens, e.CA.Root)
	}
	if c := curlLine(e); c != "" {
		b.WriteString("The mesh is up. Try:\n\n  " + c + "\n\n")
	} else {
		b.WriteString("The mesh is up.\n")
	}
	b.WriteString("Ctrl-C ends it. Below is the access log.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// curlLine is one command that sends a request through the mesh, or "" if no
// service speaks HTTP. Where pods are network namespaces it is run in one.
func curlLine(e readyEvent) string {
	var best serviceInfo
	var port portInfo
	rank := -1
	for _, s := range e.Services {
		for _, p := range s.Ports {
			if len(s.Addresses) == 0 || p.Protocol == "TCP" || p.Protocol == "TLS" {
				continue
			}
			if r := curlRank(e, s, p); r > rank {
				rank, best, port = r, s, p
			}
		}
	}
	if rank < 0 {
		return ""
	}
	path := "/"
	if best.Name == "productpage" {
		path = "/productpage"
	}
	if pid := clientPID(e, best); pid != 0 {
		return fmt.Sprintf("nsenter --target %d --net --mount curl http://%s.%s:%d%s", pid, best.Name, best.Namespace, port.Port, path)
	}
	return fmt.Sprintf("curl http://%s:%d%s", best.Addresses[0], port.Listen, path)
}

// clientPID is a process in a network namespace from which to call s: that of
// a pod which is not s itself, if there is one.
func clientPID(e readyEvent, s serviceInfo) int {
	pid := 0
	for _, p := range e.Pods {
		if p.PID != 0 && (pid == 0 || !strings.HasPrefix(p.Name, s.Name)) {
			pid = p.PID
		}
	}
	return pid
}

// curlRank prefers the service that people start with, then one that has a
// waypoint, then one that has a pod that runs.
func curlRank(e readyEvent, s serviceInfo, p portInfo) int {
	r := 0
	if s.Name == "productpage" {
		r += 8
	}
	for _, pod := range e.Pods {
		if pod.State == PodRunning && pod.Namespace == s.Namespace && strings.HasPrefix(pod.Name, s.Name) {
			r += 4
			break
		}
	}
	if s.Waypoint != "" {
		r += 2
	}
	if p.Protocol == "HTTP" {
		r++
	}
	return r
}

func portList(ports []portInfo) string {
	var out []string
	for _, p := range ports {
		s := fmt.Sprint(p.Port)
		if p.Listen != p.Port {
			s += fmt.Sprintf(" (at %d)", p.Listen)
		}
		out = append(out, s)
	}
	return orDash(strings.Join(out, ","))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
