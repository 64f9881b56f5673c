package traffic

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// serveWebSocket is what a pod does at /ws: it sends messages back, by the library's
// server. All else is answered as an ordinary request.
func serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/ws" {
		io.WriteString(w, "plain")
		return
	}
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(8 << 20)
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

func (x *trial) websocket(ctx context.Context, path string) (*websocket.Conn, func(), error) {
	for _, p := range x.pods {
		p.do(serveWebSocket)
	}
	tr := x.transport(ask{})
	c, _, err := websocket.Dial(ctx, "ws://echo"+path, &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}, Subprotocols: []string{"echo"}})
	if err != nil {
		tr.CloseIdleConnections()
		return nil, nil, err
	}
	c.SetReadLimit(8 << 20)
	return c, func() { c.CloseNow(); tr.CloseIdleConnections() }, nil
}

// websockets sends messages by the library's client and expects them back, then pings
// and closes.
func websockets(path string, large bool) func(*trial) error {
	return func(x *trial) error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		c, end, err := x.websocket(ctx, path)
		if err != nil {
			return err
		}
		defer end()
		if c.Subprotocol() != "echo" {
			return wrongf("subprotocol %q", c.Subprotocol())
		}
		sizes := []int{0, 1, 125, 126, 65535, 65536}
		if large {
			sizes = append(sizes, 1<<20, 3<<20)
			for range 2000 {
				sizes = append(sizes, 64)
			}
		}
		for _, n := range sizes {
			message := make([]byte, n)
			rand.Read(message)
			if err := c.Write(ctx, websocket.MessageBinary, message); err != nil {
				return err
			}
			kind, got, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if kind != websocket.MessageBinary || string(got) != string(message) {
				return wrongf("a message of %d bytes came back as %d", n, len(got))
			}
		}
		// A ping is answered while somebody reads.
		c.CloseRead(ctx)
		if err := c.Ping(ctx); err != nil {
			return err
		}
		return nil
	}
}

// websocketEnds proves that a WebSocket in which the client sends nothing is ended.
func websocketEnds(within time.Duration) func(*trial) error {
	return func(x *trial) error {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		c, end, err := x.websocket(ctx, "/ws")
		if err != nil {
			return err
		}
		defer end()
		if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
			return err
		}
		if _, _, err := c.Read(ctx); err != nil {
			return err
		}
		_, _, err = c.Read(ctx)
		if ctx.Err() != nil {
			return wrongf("the WebSocket is open after %v (%v)", within, err)
		}
		return nil
	}
}

// echoStream answers an upgrade or an extended CONNECT at /ws and sends bytes back.
func echoStream(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != "/ws":
		http.Error(w, "nothing to upgrade here", http.StatusForbidden)
	case r.Method == http.MethodConnect:
		rc := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		rc.Flush()
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			if n > 0 {
				w.Write(buf[:n])
				rc.Flush()
			}
			if err != nil {
				return
			}
		}
	default:
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptKey(r.Header.Get("Sec-WebSocket-Key")))
		io.Copy(conn, buf)
	}
}

// upgradeTo upgrades by HTTP/1.1 and expects bytes back.
func upgradeTo(path string) func(*trial) error {
	return func(x *trial) error {
		x.pod("echo-1").do(echoStream)
		conn, err := x.open("echo", portHTTP)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path)
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
			return wrongf("answered %s %v", resp.Status, resp.Header)
		}
		io.WriteString(conn, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(br, got); err != nil || string(got) != "hello" {
			return wrongf("%q came back (%v)", got, err)
		}
		return nil
	}
}

func dialHTTP2(x *trial) func(context.Context, string, string, *tls.Config) (net.Conn, error) {
	return func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		return x.dial(ctx, x.ns, "client", ask{}.from, x.vip("echo", portHTTP))
	}
}

// acceptKey is the answer to a Sec-WebSocket-Key (RFC 6455 section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
