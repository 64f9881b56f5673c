package waypoint

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// outside makes a workload without a node proxy: it is reached by plain TCP.
func (r *rig) outside(name string, port uint16, serve func(net.Listener)) *mesh.Workload {
	r.t.Helper()
	w := &mesh.Workload{
		UID: "Kubernetes//Pod/app/" + name, Name: name, Namespace: "app", Addresses: []netip.Addr{r.address()}, Ready: true, Capacity: 1,
		WorkloadName: name, Services: map[mesh.ServiceKey]map[uint16]uint16{},
	}
	ln, err := net.Listen("tcp", netip.AddrPortFrom(w.Addresses[0], port).String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ln.Close() })
	go serve(ln)
	return w
}

func serveHTTP(h http.Handler) func(net.Listener) {
	return func(ln net.Listener) {
		srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		srv.Serve(ln)
	}
}

func onePlain(t *testing.T, proto mesh.AppProtocol, serve func(net.Listener)) (*rig, *mesh.Service) {
	var v *mesh.Service
	r := newRig(t, func(r *rig) mesh.Parts {
		w := r.outside("ext", 8080, serve)
		v = r.service("ext", 80, proto, w)
		return mesh.Parts{Workloads: []*mesh.Workload{w}, Services: []*mesh.Service{v}}
	})
	return r, v
}

func TestEndpointsOutsideTheMesh(t *testing.T) {
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2} {
		for _, http2 := range []bool{false, true} {
			r, v := onePlain(t, proto, serveHTTP(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				b, _ := io.ReadAll(req.Body)
				w.Write(b)
			})))
			c := r.client(v, http2)
			for i := range 20 {
				data := bytes.Repeat([]byte{byte(i)}, i*i*5000)
				resp, err := c.Post("http://ext/", "", bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%s h2=%v: %d bytes came back, %v; want %d", proto, http2, len(got), err, len(data))
				}
			}
		}
	}
}

// An endpoint outside the mesh that ends its half still gets the client's.
func TestPlainEndpointEndsFirst(t *testing.T) {
	got := make(chan string, 1)
	r, v := onePlain(t, mesh.ProtocolTCP, func(ln net.Listener) {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "bye")
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
		c.Close()
	})
	c := r.conn(v)
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "bye" {
		t.Fatalf("read %q, %v", b, err)
	}
	want := strings.Repeat("more", 50_000)
	io.WriteString(c, want)
	c.(*net.TCPConn).CloseWrite()
	if s := <-got; s != want {
		t.Errorf("the endpoint got %d bytes after it had ended, want %d", len(s), len(want))
	}
}

// A fast endpoint outside the mesh is stopped by a slow client.
func TestPlainEndpointIsPaused(t *testing.T) {
	size := 64 << 20
	if raceDetector {
		size = 16 << 20
	}
	for _, proto := range []mesh.AppProtocol{mesh.ProtocolTCP, mesh.ProtocolHTTP} {
		r, v := onePlain(t, proto, func(ln net.Listener) {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					if proto == mesh.ProtocolHTTP {
						c.Read(make([]byte, 4096))
						fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
					}
					chunk := make([]byte, 64<<10)
					for range size / len(chunk) {
						if _, err := c.Write(chunk); err != nil {
							return
						}
					}
				}()
			}
		})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		c := r.conn(v)
		if proto == mesh.ProtocolHTTP {
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		}
		io.ReadFull(c, make([]byte, 1))
		settle(t, func() uint64 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc >> 20
		})
		if used := r.proxy.o.Budget.Used(); used > 8<<20 {
			t.Errorf("%s: %d MiB wait for a client that does not read", proto, used>>20)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
			t.Errorf("%s: the heap grew by %d MiB for a client that does not read", proto, grown>>20)
		}
		if n, err := io.Copy(io.Discard, c); err != nil || n < int64(size-1) {
			t.Errorf("%s: reading on gave %d bytes, %v", proto, n, err)
		}
	}
}
