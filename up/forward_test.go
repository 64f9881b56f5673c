package up

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
)

func TestForwarder(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	to := netip.MustParseAddrPort(server.Addr().String())
	down := netip.MustParseAddrPort("192.0.2.1:1")
	f := newForwarder(func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		if at == down {
			return nil, errors.New("down")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", at.String())
	})
	for _, at := range []netip.AddrPort{to, down} {
		if err := f.forward(netip.MustParseAddrPort("127.0.0.1:0"), at); err != nil {
			t.Fatal(err)
		}
	}
	dial := func(i int) *net.TCPConn {
		c, err := net.Dial("tcp", f.listeners[i].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c.(*net.TCPConn)
	}
	c := dial(0)
	defer c.Close()
	io.WriteString(c, "hello")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("%q came back, %v", got, err)
	}
	c = dial(1)
	defer c.Close()
	if got, err := io.ReadAll(c); len(got) != 0 {
		t.Errorf("%q came from a server that is down, %v", got, err)
	}
	if err := f.forward(netip.MustParseAddrPort(f.listeners[0].Addr().String()), to); err == nil {
		t.Error("the same address twice is no error")
	}
	open := dial(0)
	defer open.Close()
	io.WriteString(open, "x")
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	f.close()
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its forwarder")
	}
}
