package acceptance

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// testWire looks at the tunnels from outside: what each end presents, and what
// a bystander sees of a request.
func testWire(t *testing.T, m *mesh) {
	ends := map[string]string{m.Waypoints[0].Address: "waypoint"}
	for _, p := range m.Pods {
		ends[p.Address] = p.ServiceAccount
	}
	for addr, account := range ends {
		t.Run("probe/"+addr+"="+account, func(t *testing.T) {
			probe(t, net.JoinHostPort(addr, "15008"), "spiffe://cluster.local/ns/bookinfo/sa/"+account)
		})
	}
	t.Run("capture", func(t *testing.T) { testCapture(t, m) })
}

// probe checks one HBONE end as a client that has no certificate.
func probe(t *testing.T, addr, uri string) {
	asked := false
	cfg := &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return new(tls.Certificate), nil
		},
	}
	d := &net.Dialer{Timeout: 5 * time.Second}
	conn, err := tls.DialWithDialer(d, "tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := conn.ConnectionState()
	if s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != "h2" || !asked {
		t.Errorf("version %#x, protocol %q, certificate asked for: %v; want TLS 1.3, h2, true", s.Version, s.NegotiatedProtocol, asked)
	}
	leaf := s.PeerCertificates[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != uri {
		t.Errorf("the certificate names %v, want %s alone", leaf.URIs, uri)
	}
	if leaf.PublicKeyAlgorithm != x509.ECDSA || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || leaf.IsCA {
		t.Errorf("the certificate has a key of kind %v, usages %v, CA %v", leaf.PublicKeyAlgorithm, leaf.ExtKeyUsage, leaf.IsCA)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life < 23*time.Hour || life > 25*time.Hour {
		t.Errorf("the certificate lives %v, want a day", life)
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	for err == nil { // SETTINGS may come before the alert
		_, err = conn.Read(make([]byte, 1024))
	}
	if !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("a client without a certificate gets %v, want the alert certificate_required", err)
	}
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2":  func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"http/1.1": func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} },
	} {
		c := cfg.Clone()
		change(c)
		if conn, err := tls.DialWithDialer(d, "tcp", addr, c); err == nil {
			conn.Close()
			t.Errorf("a client that speaks %s alone is accepted", name)
		}
	}
	c := cfg.Clone()
	c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	if conn, err := tls.DialWithDialer(d, "tcp", addr, c); err != nil {
		t.Errorf("X25519MLKEM768 is not offered: %v", err)
	} else {
		conn.Close()
	}
}

// testCapture listens on lo while requests with a secret run. In the clear the
// secret is seen between client, node proxy and application, which proves that
// the capture works; on port 15008 there is TLS 1.3 and nothing else.
func testCapture(t *testing.T, m *mesh) {
	secret := "Secret-" + strings.Repeat("s3cr3t", 4)
	// New tunnels, so that handshakes are seen: a pod that nobody used so far.
	flows := capture(t, m.prefix, func() {
		c := client(t, m.pod(t, "ratings").Address, false)
		for _, service := range []string{"details", "reviews-v3"} {
			path := map[string]string{"details": "/details/0", "reviews-v3": "/reviews/0"}[service]
			must(t, c, 200, "GET", "http://"+m.addr(t, "bookinfo", service)+path+"?"+secret, "X-Secret", secret)
		}
	})
	tunnels, hellos, clear := 0, 0, 0
	waypoint, _, _ := strings.Cut(m.Waypoints[0].Address, ":")
	toWaypoint, fromWaypoint := 0, 0
	for f, seen := range flows {
		data := seen.data
		if f.src.Port() != 15008 && f.dst.Port() != 15008 {
			if bytes.Contains(data, []byte(secret)) {
				clear++
			}
			continue
		}
		if len(data) == 0 {
			continue
		}
		tunnels++
		for name, text := range map[string][]byte{
			"the secret": []byte(secret), "a preface": []byte("PRI * HTTP/2.0"), "a request line": []byte("GET /"), "an address": []byte("svc.cluster.local"),
		} {
			if bytes.Contains(data, text) {
				t.Errorf("%v ► %v carries %s in the clear", f.src, f.dst, name)
			}
		}
		if f.dst.Port() == 15008 && f.dst.Addr().String() == waypoint {
			toWaypoint++
		}
		if f.dst.Port() == 15008 && f.src.Addr().String() == waypoint {
			fromWaypoint++
		}
		if !seen.whole {
			continue // begins in the middle of a record, for all we know
		}
		if err := checkRecords(data); err != nil {
			t.Errorf("%v ► %v: %v", f.src, f.dst, err)
		}
		hellos++
	}
	if clear == 0 {
		t.Error("the capture has not seen the secret between client and node proxy: it proves nothing")
	}
	if tunnels == 0 || hellos == 0 || toWaypoint == 0 || fromWaypoint == 0 {
		t.Errorf("%d flows on port 15008 (%d to the waypoint, %d from it), %d of them from a hello on; want some of each", tunnels, toWaypoint, fromWaypoint, hellos)
	}
}

// checkRecords reads a direction of a connection as TLS records. It begins
// with a hello for TLS 1.3; after that all is application data (RFC 8446
// section 5).
func checkRecords(data []byte) error {
	if len(data) < 9 || data[0] != 22 || data[1] != 3 || data[5] != 1 && data[5] != 2 {
		return fmt.Errorf("starts with %x, want a hello", data[:min(len(data), 16)])
	}
	n := int(binary.BigEndian.Uint16(data[3:5]))
	if err := checkHello(data[5:min(5+n, len(data))]); err != nil {
		return err
	}
	for first := true; len(data) >= 5; first = false {
		kind, n := data[0], int(binary.BigEndian.Uint16(data[3:5]))
		if data[1] != 3 || n > 16640 || kind < 20 || kind > 23 {
			return fmt.Errorf("no TLS record: %x", data[:5])
		}
		// 20 is the compatibility message; an alert before there are keys is 21.
		if kind == 22 && !first || kind == 21 {
			return fmt.Errorf("a record of type %d in the clear", kind)
		}
		data = data[min(5+n, len(data)):]
	}
	return nil
}

// checkHello finds supported_versions (43) in a ClientHello or ServerHello: it
// must name TLS 1.3 and nothing below. A client names no server (0).
func checkHello(b []byte) error {
	server := b[0] == 2
	short := errors.New("the hello is cut short")
	pos := 4 + 2 + 32
	skip := func(width int) bool {
		if len(b) < pos+width {
			return false
		}
		n := int(b[pos])
		if width == 2 {
			n = int(binary.BigEndian.Uint16(b[pos:]))
		}
		pos += width + n
		return len(b) >= pos
	}
	if len(b) < pos || !skip(1) {
		return short
	}
	if server {
		pos += 3
	} else if !skip(2) || !skip(1) {
		return short
	}
	pos += 2
	found := false
	for len(b) >= pos+4 {
		kind, n := binary.BigEndian.Uint16(b[pos:]), int(binary.BigEndian.Uint16(b[pos+2:]))
		pos += 4
		if len(b) < pos+n {
			return short
		}
		ext := b[pos : pos+n]
		pos += n
		switch {
		case kind == 0 && !server:
			return errors.New("the client names a server")
		case kind == 43:
			found = true
			if !server {
				ext = ext[1:]
			}
			for ; len(ext) >= 2; ext = ext[2:] {
				if v := binary.BigEndian.Uint16(ext); v != tls.VersionTLS13 {
					return fmt.Errorf("the hello offers version %#x", v)
				}
			}
		}
	}
	if !found {
		return errors.New("the hello does not name TLS 1.3")
	}
	return nil
}

// flow is one direction of a TCP connection.
type flow struct{ src, dst netip.AddrPort }

// capture returns what was sent over TCP on lo, from or to a prefix, while f
// ran: the bytes of each direction in order, from the first that was seen.
func capture(t *testing.T, prefix netip.Prefix, f func()) map[flow]*segments {
	t.Helper()
	needRoot(t, "capturing packets")
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_IP)))
	if err != nil {
		t.Skipf("capturing packets is not allowed here: %v", err)
	}
	defer unix.Close(fd)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	net4 := prefix.Masked().Addr().As4()
	want := uint32(binary.BigEndian.Uint16(net4[:2]))
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2}, // source
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipTrue: 2},
		bpf.LoadAbsolute{Off: 16, Size: 2}, // destination
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipFalse: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]unix.SockFilter, len(filter))
	for i, x := range filter {
		raw[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	for _, step := range []error{
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: lo.Index}),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	segs := map[flow]*segments{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { readPackets(fd, segs, stop) })
	f()
	close(stop)
	wg.Wait()
	return segs
}

// readPackets reads until stop is closed and nothing is left.
func readPackets(fd int, segs map[flow]*segments, stop <-chan struct{}) {
	buf := make([]byte, 1<<18)
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			select {
			case <-stop:
				return
			default:
				continue // the time-out, to look at stop
			}
		}
		// On lo every packet is seen twice, as it leaves and as it arrives.
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		addPacket(segs, buf[:n])
	}
}

// segments puts the bytes of one direction in order.
type segments struct {
	whole, started bool // whole: seen from the SYN on
	next           uint32
	data           []byte
	late           map[uint32][]byte
}

func addPacket(segs map[flow]*segments, p []byte) {
	if len(p) < 20 || p[0]>>4 != 4 || p[9] != unix.IPPROTO_TCP {
		return
	}
	ihl := int(p[0]&15) * 4
	total := int(binary.BigEndian.Uint16(p[2:]))
	if total == 0 || total > len(p) { // large packets of lo say 0
		total = len(p)
	}
	if total < ihl+20 {
		return
	}
	tcp := p[ihl:total]
	off := int(tcp[12]>>4) * 4
	if off < 20 || off > len(tcp) {
		return
	}
	src, _ := netip.AddrFromSlice(p[12:16])
	dst, _ := netip.AddrFromSlice(p[16:20])
	k := flow{netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:]))}
	s := segs[k]
	if s == nil {
		s = &segments{late: map[uint32][]byte{}}
		segs[k] = s
	}
	s.add(binary.BigEndian.Uint32(tcp[4:]), tcp[13]&2 != 0, tcp[off:])
}

func (s *segments) add(seq uint32, syn bool, data []byte) {
	if syn {
		s.whole, s.started, s.next = true, true, seq+1
		return
	}
	if !s.started {
		s.started, s.next = true, seq
	}
	if len(data) == 0 {
		return
	}
	s.late[seq] = bytes.Clone(data)
	for d, ok := s.late[s.next]; ok; d, ok = s.late[s.next] {
		delete(s.late, s.next)
		s.data = append(s.data, d...)
		s.next += uint32(len(d))
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
