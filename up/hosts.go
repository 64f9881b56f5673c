package up

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// hostsFile renders every name of the mesh in the form of hosts(5): services by
// their hostname, headless ones by the addresses of their endpoints. A program
// in a pod finds "name", "name.namespace" and "name.namespace.svc" by searching
// as a pod's resolv.conf would.
func hostsFile(s *mesh.Snapshot) []byte {
	var b bytes.Buffer
	b.WriteString("# names of this mesh; rewritten whenever they change\n")
	for _, v := range s.Services {
		for _, a := range serviceAddresses(s, v) {
			if !strings.HasPrefix(v.Key.Hostname, "*") { // a file of hosts has no word for it
				fmt.Fprintf(&b, "%s\t%s\n", a, v.Key.Hostname)
			}
		}
	}
	return b.Bytes()
}

// serviceAddresses returns a service's VIPs, or a headless one's endpoints.
func serviceAddresses(s *mesh.Snapshot, v *mesh.Service) []netip.Addr {
	if len(v.VIPs) > 0 {
		return v.VIPs
	}
	var out []netip.Addr
	for _, e := range s.Endpoints(v.Key) {
		out = append(out, e.Workload.Addresses...)
	}
	return out
}

// boundPorts says where ports are really bound: what a program asks for, to
// the port that it gets. A port that is not in it is bound as it stands.
type boundPorts map[netip.AddrPort]uint16

// portsFile renders the table as lines "ADDRESS PORT BOUNDPORT".
func (p boundPorts) portsFile() []byte {
	lines := make([]string, 0, len(p))
	for ap, bound := range p {
		if ap.Port() != bound {
			lines = append(lines, fmt.Sprintf("%s %d %d\n", ap.Addr(), ap.Port(), bound))
		}
	}
	sort.Strings(lines)
	return []byte("# ports that this user may not bind, and where they are instead\n" + strings.Join(lines, ""))
}

// serviceEnv returns the environment by which Kubernetes tells a pod of the
// services of its namespace: NAME_SERVICE_HOST, NAME_SERVICE_PORT and
// NAME_SERVICE_PORT_PORTNAME.
func serviceEnv(s *mesh.Snapshot, namespace string, bound boundPorts) []string {
	var env []string
	for _, v := range s.Services {
		if v.Key.Namespace != namespace || len(v.VIPs) == 0 || len(v.Ports) == 0 || v.External {
			continue
		}
		name := envName(v.Name)
		env = append(env, name+"_SERVICE_HOST="+v.VIPs[0].String())
		for i, p := range v.Ports {
			port := strconv.Itoa(int(bound.of(netip.AddrPortFrom(v.VIPs[0], p.Port))))
			if i == 0 {
				env = append(env, name+"_SERVICE_PORT="+port)
			}
			if p.Name != "" {
				env = append(env, name+"_SERVICE_PORT_"+envName(p.Name)+"="+port)
			}
		}
	}
	return env
}

// of returns the port that ap is bound at.
func (p boundPorts) of(ap netip.AddrPort) uint16 {
	if b, ok := p[ap]; ok {
		return b
	}
	return ap.Port()
}

func envName(s string) string {
	return strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(s))
}

// replaceFile writes a file so that a reader sees the old or the new content,
// never a part.
func replaceFile(path string, content []byte) error {
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(content)
	if e := f.Chmod(0o644); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
