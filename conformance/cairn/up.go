package cairn

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
)

// Mesh is what `cairn up --json` says once everything serves.
type Mesh struct {
	Services  []Service         `json:"services"`
	Pods      []Pod             `json:"pods"`
	Waypoints []RunningWaypoint `json:"waypoints"`
	Nodes     []Node            `json:"nodes"`
	CA        *CA               `json:"ca"` // with --ca
	Process   *proc.Process     `json:"-"`
}

// Service is one service of a running mesh.
type Service struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Hostname  string   `json:"hostname"`
	Addresses []string `json:"addresses"`
	Ports     []Port   `json:"ports"`
	Waypoint  string   `json:"waypoint"` // NAMESPACE/NAME or empty
}

// Port is one port of a service; Listen is the port really bound.
type Port struct {
	Name     string `json:"name"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
	Listen   uint16 `json:"listen"`
}

// Pod is one pod; State is running or external.
type Pod struct {
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	Address        string `json:"address"`
	Node           string `json:"node"`
	ServiceAccount string `json:"serviceAccount"`
	State          string `json:"state"`
}

// RunningWaypoint is a waypoint.
type RunningWaypoint struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Address   string `json:"address"`
	Admin     string `json:"admin"`
	Metrics   string `json:"metrics"`
}

// CA says where certificates are served.
type CA struct {
	Address    string `json:"address"`
	Root       string `json:"root"`       // file
	Tokens     string `json:"tokens"`     // folder
	NodeTokens string `json:"nodeTokens"` // folder
}

// Node is a running node proxy.
type Node struct {
	Name    string `json:"name"`
	Admin   string `json:"admin"`
	Metrics string `json:"metrics"`
}

// Up runs `cairn up PATH --json` with further arguments and waits for the
// ready event, whose contents it returns. The files it writes are in dir.
func Up(ctx context.Context, dir, path string, args ...string) (*Mesh, error) {
	binary, err := peers.Cairn()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "up.events")
	p, err := proc.Start(proc.Options{
		Path: binary, Args: append([]string{"up", path, "--json"}, args...),
		Dir: dir, Log: filepath.Join(dir, "up.log"), Out: out,
	})
	if err != nil {
		return nil, err
	}
	m := &Mesh{Process: p}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := p.Await(ctx, func() error { return m.read(out) }); err != nil {
		_ = p.Stop(5 * time.Second) // its log is in err already
		return nil, fmt.Errorf("starting cairn up: %w", err)
	}
	return m, nil
}

// read looks for the ready event in the events so far.
func (m *Mesh) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the events: %w", err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e struct {
			Event string `json:"event"`
			*Mesh
		}
		e.Mesh = m
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return fmt.Errorf("event %q: %w", s.Text(), err)
		}
		if e.Event == "ready" {
			return nil
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("reading the events: %w", err)
	}
	return errors.New("no ready event yet")
}

// URL returns where a port of a service is reached.
func (m *Mesh) URL(namespace, name, port string) (host string, listen uint16, err error) {
	for _, s := range m.Services {
		if s.Namespace != namespace || s.Name != name || len(s.Addresses) == 0 {
			continue
		}
		for _, p := range s.Ports {
			if p.Name == port {
				return s.Addresses[0], p.Listen, nil
			}
		}
	}
	return "", 0, fmt.Errorf("the ready event names no port %s of %s/%s: %+v", port, namespace, name, m.Services)
}
