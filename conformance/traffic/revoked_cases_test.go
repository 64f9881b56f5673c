package traffic

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/node"
)

// TestRevoked has a waypoint of its own: the list of revoked certificates is for all of it.
func TestRevoked(t *testing.T) { runGroup(t, "revoked", revokedCases) }

const envoyCRL = "takes lists of revoked certificates with its configuration, not from a file that is replaced"

var revokedCases = []testCase{
	{
		name: "revoked-client", of: "the tunnels of a client whose certificate is revoked are cut within three seconds, new ones are refused, and other clients go on",
		alone: envoyCRL, quiet: true,
		prove: func(x *trial) error { return x.revoked(true) },
		// A list that names another certificate cuts nobody.
		wrong: func(x *trial) error { return x.revoked(false) },
	},
	{
		name: "revoked-endpoint", of: "the tunnels to a pod whose certificate is revoked are cut, and it gets no new connections",
		alone: envoyCRL, quiet: true, mesh: []svc{{name: "echo"}, {name: "other"}},
		prove: func(x *trial) error { return x.revokedPod("echo") },
		wrong: func(x *trial) error { return x.revokedPod("other") },
	},
}

// revoked revokes a client's certificate, or one that nobody has.
func (x *trial) revoked(the bool) error {
	leaf, err := x.ca.Issue(x.ns, "bad")
	if err != nil {
		return err
	}
	listed := leaf
	if !the {
		if listed, err = x.ca.Issue(x.ns, "bad"); err != nil {
			return err
		}
	}
	bad := node.NewClient(netip.AddrPortFrom(x.waypoint, 15008), leaf, identityOf("mesh", "waypoint"), netip.Addr{})
	defer bad.Close()
	open := func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn, err := bad.Dial(ctx, x.vip("echo", portTCP).String())
		if err != nil {
			return nil, err
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return nil, err
		}
		_, err = bufio.NewReader(conn).ReadString('\n')
		return conn, err
	}
	cut, err := open()
	if err != nil {
		return err
	}
	defer cut.Close()
	other, _, err := x.tcpFrom("echo", "hello")
	if err != nil {
		return err
	}
	defer other.Close()

	if err := x.revoke(listed); err != nil {
		return err
	}
	cut.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err = io.Copy(io.Discard, cut)
	if ne, ok := err.(net.Error); err == nil || ok && ne.Timeout() {
		return wrongf("the tunnel of a revoked client goes on: %v", err)
	}
	if conn, err := open(); err == nil {
		conn.Close()
		return wrongf("a revoked client comes in again")
	}
	other.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(other, "again"); err != nil {
		return wrongf("another client's tunnel: %v", err)
	}
	if _, err := io.ReadFull(other, make([]byte, len("again"))); err != nil {
		return wrongf("another client's tunnel: %v", err)
	}
	return nil
}

// revokedPod revokes the certificate of a service's pod, and expects echo's to be cut off.
func (x *trial) revokedPod(service string) error {
	conn, _, err := x.tcpFrom("echo", "hello")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := x.revoke(x.nodes.Leaf(x.podsOf(service)[0].addr)); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err = io.Copy(io.Discard, conn)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return wrongf("the tunnel to a revoked pod goes on: %v", err)
	}
	if again, _, err := x.tcpFrom("echo", "hello"); err == nil {
		again.Close()
		return wrongf("a revoked pod gets connections")
	}
	return nil
}

// revoke puts a list with the leaf beside the waypoint's file of roots.
func (x *trial) revoke(leaf *ca.Leaf) error {
	text, err := x.ca.CRL(leaf)
	if err != nil {
		return err
	}
	path := filepath.Join(x.dir, "ca-crl.pem")
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
