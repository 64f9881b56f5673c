package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"cairnproxy.dev/cairn/conformance/peers"
	"cairnproxy.dev/cairn/conformance/proc"
	"cairnproxy.dev/cairn/conformance/tcpload"
)

// nodeNet is two network namespaces, a client's and a server's pod, joined by
// one veth pair. That is the least of a kernel that a captured pod can have:
// one redirection rule in the client's, none in the server's, segments of 64 KiB
// on the wire.
type nodeNet struct {
	client, server string // names of the namespaces

	mu    sync.Mutex
	spare []int // sockets in the client's namespace
}

var (
	nodeClient = netip.MustParseAddr("198.18.0.1")
	nodeServer = netip.MustParseAddr("198.18.0.2")
	// nodeApp is the application, in the server's pod.
	nodeApp = netip.AddrPortFrom(nodeServer, 8080)
)

// captureRules send what leaves the client's pod for the application to the
// node proxy. The proxy's own connections go to another port.
const captureRules = `*nat
-A OUTPUT -p tcp -d 198.18.0.2/32 --dport 8080 -j REDIRECT --to-ports 15001
COMMIT
`

// newNodeNet makes the namespaces. It needs root.
func newNodeNet(ctx context.Context) (*nodeNet, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("node proxies are measured in network namespaces, which need root; other cases do not: -group waypoint")
	}
	n := &nodeNet{client: fmt.Sprintf("cairn-bench-%d-c", os.Getpid()), server: fmt.Sprintf("cairn-bench-%d-s", os.Getpid())}
	err := ip(ctx, fmt.Sprintf(`netns add %[1]s
netns add %[2]s
link add eth0 netns %[1]s mtu 65535 type veth peer name eth0 netns %[2]s mtu 65535
`, n.client, n.server), "-batch", "-")
	for name, addr := range map[string]netip.Addr{n.client: nodeClient, n.server: nodeServer} {
		if err == nil {
			err = ip(ctx, fmt.Sprintf("addr add %s/24 dev eth0\nlink set eth0 up\nlink set lo up\n", addr), "-netns", name, "-batch", "-")
		}
		if err == nil {
			// Thousands of short connections: their ports are busy for a minute after the end.
			err = ip(ctx, "", "netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=16000 65535")
		}
	}
	if err == nil {
		err = ip(ctx, captureRules, "netns", "exec", n.client, "iptables-restore")
	}
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// close removes the namespaces, and with them all that is in them.
func (n *nodeNet) close() error {
	n.mu.Lock()
	for _, fd := range n.spare {
		unix.Close(fd)
	}
	n.spare = nil
	n.mu.Unlock()
	var errs []error
	for _, name := range []string{n.client, n.server} {
		if _, err := os.Stat("/run/netns/" + name); err == nil {
			// Not the run's context: it may have ended.
			errs = append(errs, ip(context.Background(), "", "netns", "del", name))
		}
	}
	return errors.Join(errs...)
}

func (n *nodeNet) listen() (ln net.Listener, err error) {
	err = proc.Inside(n.server, func() (err error) {
		ln, err = net.Listen("tcp", nodeApp.String())
		return err
	})
	return ln, err
}

// dial connects from the client's pod to the application. Entering a namespace
// takes a thread, so sockets are made there in stock.
func (n *nodeNet) dial() (*tcpload.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.spare) == 0 {
		if err := proc.Inside(n.client, n.stock); err != nil {
			return nil, err
		}
	}
	fd := n.spare[len(n.spare)-1]
	n.spare = n.spare[:len(n.spare)-1]
	return tcpload.Connect(fd, nodeApp)
}

func (n *nodeNet) stock() error {
	for range 256 {
		fd, err := tcpload.Socket()
		if err != nil {
			return err
		}
		n.spare = append(n.spare, fd)
	}
	return nil
}

// ip runs `ip` with input. What it executes in a namespace is made sure of before.
func ip(ctx context.Context, stdin string, args ...string) error {
	for _, program := range []string{"ip", "iptables"} {
		if _, err := peers.Program(ctx, program); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
