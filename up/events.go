package up

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

// The events that --json prints, one JSON object per line. Scripts rely on
// their names and shapes.

// readyEvent is printed once, when everything serves.
type readyEvent struct {
	Event     string         `json:"event"` // "ready"
	Services  []serviceInfo  `json:"services"`
	Pods      []podInfo      `json:"pods"`
	Waypoints []waypointInfo `json:"waypoints"`
	Nodes     []nodeInfo     `json:"nodes"`
	CA        *caInfo        `json:"ca,omitempty"`
}

// caInfo says where certificates are served.
type caInfo struct {
	Address string `json:"address"`
	// Root is the file with the trusted roots; Tokens and NodeTokens are the
	// folders with a token per service account and per node.
	Root       string `json:"root"`
	Tokens     string `json:"tokens"`
	NodeTokens string `json:"nodeTokens"`
}

type serviceInfo struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Hostname  string     `json:"hostname"`
	Addresses []string   `json:"addresses"`
	Ports     []portInfo `json:"ports"`
	Waypoint  string     `json:"waypoint"` // "namespace/name", or empty
}

type portInfo struct {
	Name     string `json:"name"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
	Listen   uint16 `json:"listen"` // the port really bound
}

type podInfo struct {
	Namespace      string   `json:"namespace"`
	Name           string   `json:"name"`
	Address        string   `json:"address"`
	Node           string   `json:"node"`
	ServiceAccount string   `json:"serviceAccount"`
	State          PodState `json:"state"`
	// PID, where pods are network namespaces, is a process in the pod's: enter
	// it with nsenter --target PID --net --mount.
	PID int `json:"pid,omitempty"`
}

type waypointInfo struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Address   string `json:"address"`
	Admin     string `json:"admin"`
	Metrics   string `json:"metrics"`
}

type nodeInfo struct {
	Name    string `json:"name"`
	Admin   string `json:"admin"`
	Metrics string `json:"metrics"`
}

// configEvent is printed for every reload.
type configEvent struct {
	Event    string           `json:"event"` // "config"
	Accepted int              `json:"accepted"`
	Rejected []source.Problem `json:"rejected"`
	// Unresolved are the references that lead nowhere in what is accepted.
	Unresolved []source.Problem `json:"unresolved,omitempty"`
}

// servicesOf describes the services of a snapshot; bound says where their
// ports are really bound.
func servicesOf(s *mesh.Snapshot, bound boundPorts) []serviceInfo {
	out := make([]serviceInfo, 0, len(s.Services))
	for _, v := range s.Services {
		i := serviceInfo{Namespace: v.Key.Namespace, Name: v.Name, Hostname: v.Key.Hostname, Addresses: []string{}, Ports: []portInfo{}}
		for _, a := range v.VIPs {
			i.Addresses = append(i.Addresses, a.String())
		}
		if v.Waypoint != nil {
			i.Waypoint = v.Waypoint.Name.String()
		}
		for _, p := range v.Ports {
			info := portInfo{Name: p.Name, Port: p.Port, Protocol: p.Protocol.String(), Listen: p.Port}
			if len(v.VIPs) > 0 {
				info.Listen = bound.of(netip.AddrPortFrom(v.VIPs[0], p.Port))
			}
			i.Ports = append(i.Ports, info)
		}
		out = append(out, i)
	}
	return out
}

func podsOf(pods []Pod, state func(Pod) PodState) []podInfo {
	out := make([]podInfo, 0, len(pods))
	for _, p := range pods {
		out = append(out, podInfo{p.Namespace, p.Name, p.Address.String(), p.Node, p.ServiceAccount, state(p), 0})
	}
	return out
}

// reporter tells the user, or a script, what happens. It may be used from any
// goroutine.
type reporter struct {
	mu   sync.Mutex
	out  io.Writer
	json bool
}

func (r *reporter) ready(e readyEvent) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Event = "ready"
	if r.json {
		return r.line(e)
	}
	return printReady(r.out, e)
}

// config reports a reload: accepted objects with what is wrong in them all the same, or the
// problems for which nothing changed.
func (r *reporter) config(accepted int, problems []source.Problem) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	refused := source.Refused(problems) != nil
	if r.json {
		e := configEvent{"config", accepted, []source.Problem{}, nil}
		if refused {
			e.Rejected = problems
		} else {
			e.Unresolved = problems
		}
		return r.line(e)
	}
	for _, p := range problems {
		if _, err := fmt.Fprintln(r.out, p); err != nil {
			return err
		}
	}
	switch {
	case refused:
		_, err := fmt.Fprintf(r.out, "configuration refused, nothing changed; problems: %d\n", len(problems))
		return err
	case len(problems) > 0:
		_, err := fmt.Fprintf(r.out, "configuration: %d objects are live; problems: %d, of which only what depends on them suffers\n", accepted, len(problems))
		return err
	}
	_, err := fmt.Fprintf(r.out, "configuration: %d objects are live\n", accepted)
	return err
}

func (r *reporter) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	if _, err := r.out.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("writing an event: %w", err)
	}
	return nil
}
