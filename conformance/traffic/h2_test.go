package traffic

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/node"
)

type envoyService = envoy.Service

// refuse lets the pod's node proxy refuse connections to its HTTP port, or accept
// them again.
func (p *pod) refuse(x *trial, refuse bool) {
	for port, l := range p.listeners {
		x.nodes.Refuse(netip.AddrPortFrom(p.addr, port), refuse, l)
	}
}

// failCalls makes the first n unary calls fail with a status.
func (p *pod) failCalls(n int64, name string) {
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
		panic(err)
	}
	var left atomic.Int64
	left.Store(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.call = func(context.Context) error {
		if left.Add(-1) >= 0 {
			return status.Error(code, "as the case has it")
		}
		return nil
	}
}

// refuseStreams puts an HTTP/2 server in place of the pod's, which refuses the first
// n streams and answers the others.
func (p *pod) refuseStreams(x *trial, n int64) {
	at := netip.AddrPortFrom(p.addr, appHTTP)
	l := x.nodes.Listen(at)
	p.listeners[appHTTP] = l
	var left atomic.Int64
	left.Store(n)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go refuser(c, &left)
		}
	}()
}

func refuser(c net.Conn, left *atomic.Int64) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(c, c)
	fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				fr.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			if left.Add(-1) >= 0 {
				fr.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream)
				continue
			}
			block.Reset()
			enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		}
	}
}

var _ net.Listener = (*node.Listener)(nil)
