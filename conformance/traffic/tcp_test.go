package traffic

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"time"

	"cairnproxy.dev/cairn/conformance/node"
)

// tcpFrom opens a connection to a TCP port of a service, sends text, and returns the
// connection and the name of the pod that sent it back.
func (x *trial) tcpFrom(service, text string) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := x.dial(ctx, x.ns, "client", ask{}.from, x.vip(service, portTCP))
	if err != nil {
		return nil, "", err
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err = io.WriteString(conn, text); err == nil {
		br := bufio.NewReader(conn)
		var name string
		if name, err = br.ReadString('\n'); err == nil {
			got := make([]byte, len(text))
			if _, err = io.ReadFull(br, got); err == nil && string(got) != text {
				err = wrongf("%q came back for %q", got, text)
			}
		}
		if err == nil {
			conn.SetDeadline(time.Time{})
			return conn, strings.TrimSpace(name), nil
		}
	}
	conn.Close()
	return nil, "", err
}

// open opens a connection to a service's port.
func (x *trial) open(service string, port uint16) (*node.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := x.dial(ctx, x.ns, "client", ask{}.from, x.vip(service, port))
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	return conn, nil
}

func copyAll(to io.Writer, from io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
}
