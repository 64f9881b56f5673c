//go:build !linux

package host

import (
	"net/netip"
	"os/exec"
)

// ProbeAddr is the source address of a node's own health checks.
var ProbeAddr = netip.AddrFrom4([4]byte{169, 254, 7, 127})

// NewNamespace fails with ErrUnsupported.
func NewNamespace() (*Namespace, error) { return nil, ErrUnsupported }

// OpenNamespace fails with ErrUnsupported.
func OpenNamespace(int) (*Namespace, error) { return nil, ErrUnsupported }

// Same reports whether both are the same namespace.
func (n *Namespace) Same(o *Namespace) bool { return n == o }

// Redirect fails with ErrUnsupported.
func (n *Namespace) Redirect(Redirection) error { return ErrUnsupported }

func (n *Namespace) enter() (leave func() error, err error) { return nil, ErrUnsupported }

// Lab is a set of nodes that reach each other; there are none here.
type Lab struct{}

// NewLab fails with ErrUnsupported.
func NewLab() (*Lab, error) { return nil, ErrUnsupported }

// AddNode fails with ErrUnsupported.
func (l *Lab) AddNode(string) (*Node, error) { return nil, ErrUnsupported }

// Close does nothing.
func (l *Lab) Close() error { return nil }

// Node is a namespace with a bridge to which its pods are attached.
type Node struct {
	Name string
}

// Namespace returns nil.
func (n *Node) Namespace() *Namespace { return nil }

// AddPod fails with ErrUnsupported.
func (n *Node) AddPod(PodOptions) (*Pod, error) { return nil, ErrUnsupported }

// PodOptions describes a pod.
type PodOptions struct {
	Name       string
	Address    netip.Addr
	ResolvConf string
}

// Pod is a namespace with an address of its own.
type Pod struct {
	Name    string
	Address netip.Addr
	Node    *Node
}

// Namespace returns nil.
func (p *Pod) Namespace() *Namespace { return nil }

// Start fails with ErrUnsupported.
func (p *Pod) Start(*exec.Cmd) (*Process, error) { return nil, ErrUnsupported }

// Close does nothing.
func (p *Pod) Close() error { return nil }
