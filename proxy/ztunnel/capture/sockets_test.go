package capture

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/host"
)

var local = netip.MustParseAddrPort("127.0.0.1:0")

// TestOriginalDstUnredirected: without redirection it is the address dialled,
// and no proof of anything.
func TestOriginalDstUnredirected(t *testing.T) {
	s := &Sockets{KeepAlive: DefaultKeepAlive}
	for _, addr := range []netip.AddrPort{local, netip.MustParseAddrPort("[::1]:0")} {
		ln, err := s.ListenOn(t.Context(), addr)
		if err != nil {
			t.Logf("skipped %s: %v", addr, err)
			continue
		}
		defer ln.Close()
		to := AddrPort(ln.Addr())
		out, err := s.Dial(t.Context(), netip.Addr{}, to)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		in, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		s.Tune(in)
		got, err := OriginalDst(in)
		if errors.Is(err, host.ErrUnsupported) {
			t.Skip("skipped: there is no redirection on this system")
		}
		if err != nil || got != to {
			t.Errorf("got %s, %v; want %s", got, err, to)
		}
	}
}

func TestDialSource(t *testing.T) {
	s := &Sockets{}
	ln, err := s.ListenOn(t.Context(), local)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	source := netip.MustParseAddr("127.0.0.9")
	conn, err := s.Dial(t.Context(), source, AddrPort(ln.Addr()))
	if err != nil {
		t.Skipf("skipped: this system has one loopback address: %v", err)
	}
	defer conn.Close()
	if got := AddrPort(conn.LocalAddr()).Addr(); got != source {
		t.Errorf("connected from %s, want %s", got, source)
	}
}

// TestDialApp refuses where nobody listens, whatever the source is.
func TestDialApp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := AddrPort(ln.Addr())
	for _, spoof := range []Spoof{SpoofAuto, SpoofNever} {
		conn, _, err := (&Sockets{Spoof: spoof}).DialApp(t.Context(), netip.MustParseAddr("127.0.0.1"), to)
		if err != nil {
			t.Errorf("spoof %d: %v", spoof, err)
			continue
		}
		conn.Close()
	}
	ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, _, err := (&Sockets{}).DialApp(ctx, netip.Addr{}, to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v, want connection refused", err)
	}
}

func TestDialUDP(t *testing.T) {
	s := &Sockets{}
	server, err := s.ListenUDP(t.Context(), local)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	stranger, err := s.ListenUDP(t.Context(), local)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	conn, err := s.DialUDP(t.Context(), server.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("query")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	_, client, err := server.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	client = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), client.Port())
	if _, err := stranger.WriteToUDPAddrPort([]byte("forged"), client); err != nil {
		t.Fatal(err)
	}
	if _, err := server.WriteToUDPAddrPort([]byte("answer"), client); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "answer" {
		t.Errorf("got %q, %v; want the server's answer", b[:n], err)
	}
}

func TestCheck(t *testing.T) {
	if err := new(Sockets).Check(t.Context()); err != nil {
		t.Error(err)
	}
	// Where it is permitted it works, where not it says what to do.
	if err := (&Sockets{Spoof: SpoofRequired}).Check(t.Context()); err != nil && !errors.Is(err, syscall.EPERM) && !errors.Is(err, host.ErrUnsupported) {
		t.Error(err)
	}
}
