package pod

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// namespaceFile is where Kubernetes tells a container its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Options describe a pod. The zero Options are a program of its own: all
// addresses, DNS, the machine's name.
type Options struct {
	// Name is the pod's name. Empty means the host name, which is the pod's
	// name in Kubernetes.
	Name string
	// Namespace is the pod's namespace. Empty means the one that Kubernetes
	// mounts into the container, or else "default".
	Namespace string
	// Version is the version of the service that the pod runs, such as "v2". It
	// may be empty.
	Version string
	// IP is the pod's address: listeners are bound to it and connections start
	// from it. Empty means all addresses, and the one the kernel chooses.
	IP string
	// HostsFile is the path of a hosts(5) file consulted before DNS. Empty
	// means none; a file that does not exist yet is empty until it does.
	HostsFile string
	// Ports is the table of ports that are bound elsewhere: the path of a file,
	// or the lines themselves, separated by newlines, commas or semicolons.
	// Empty means every port is where it says.
	Ports string
}

// FromEnv returns the Options that the environment names, as read by getenv
// (os.Getenv): CAIRN_POD_NAME, CAIRN_NAMESPACE, CAIRN_SERVICE_VERSION,
// CAIRN_POD_IP, CAIRN_HOSTS and CAIRN_PORTS.
func FromEnv(getenv func(string) string) Options {
	return Options{
		Name:      getenv("CAIRN_POD_NAME"),
		Namespace: getenv("CAIRN_NAMESPACE"),
		Version:   getenv("CAIRN_SERVICE_VERSION"),
		IP:        getenv("CAIRN_POD_IP"),
		HostsFile: getenv("CAIRN_HOSTS"),
		Ports:     getenv("CAIRN_PORTS"),
	}
}

// Pod is the place a sample runs in. Build it with New.
type Pod struct {
	name      string
	namespace string
	version   string
	ip        netip.Addr // invalid: no address of its own
	hosts     *table[hosts]
	ports     *table[ports]
}

// New returns the Pod that o describes. It reads the port table if that is
// given in line, and opens nothing else.
func New(o Options) (*Pod, error) {
	p := &Pod{name: o.Name, namespace: o.Namespace, version: o.Version}
	if o.IP != "" {
		ip, err := netip.ParseAddr(o.IP)
		if err != nil {
			return nil, fmt.Errorf("reading the pod's address %q: %w", o.IP, err)
		}
		p.ip = ip.Unmap()
	}
	if p.name == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("asking for the host name, to name the pod: %w", err)
		}
		p.name = name
	}
	if p.namespace == "" {
		p.namespace = namespaceOf(namespaceFile)
	}
	if o.HostsFile != "" {
		p.hosts = fileTable(o.HostsFile, parseHosts)
	}
	switch {
	case o.Ports == "":
	case strings.ContainsAny(o.Ports, " \t\n"):
		lines := strings.NewReplacer(",", "\n", ";", "\n").Replace(o.Ports)
		fixed, err := parsePorts([]byte(lines))
		if err != nil {
			return nil, fmt.Errorf("reading the port table: %w", err)
		}
		p.ports = fixedTable(fixed)
	default:
		p.ports = fileTable(o.Ports, parsePorts)
	}
	return p, nil
}

// namespaceOf reads the namespace that Kubernetes wrote at path, or returns
// "default".
func namespaceOf(path string) string {
	b, err := os.ReadFile(path)
	if ns := string(bytes.TrimSpace(b)); err == nil && ns != "" {
		return ns
	}
	return "default"
}

// Name returns the pod's name; never empty.
func (p *Pod) Name() string { return p.name }

// Namespace returns the pod's namespace; never empty.
func (p *Pod) Namespace() string { return p.namespace }

// Version returns the version of the service that the pod runs, or "".
func (p *Pod) Version() string { return p.version }
