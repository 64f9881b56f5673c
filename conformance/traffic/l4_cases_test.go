package traffic

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/conformance/envoy"
)

func TestL4(t *testing.T) { runGroup(t, "l4", tcpCases) }

// TestTLS has a waypoint of its own because Envoy, where it looks at what begins
// connections, does not let servers speak first.
func TestTLS(t *testing.T) { runGroup(t, "tls", tlsCases) }

func tcpRoute(rules string) string {
	return strings.Replace(routeOf("TCPRoute", "r", `{group: "", kind: Service, name: echo, port: 82}`, rules), "gateway.networking.k8s.io/v1\n", "gateway.networking.k8s.io/v1alpha2\n", 1)
}

// tlsRoute is a TLSRoute of the port tls of the service echo.
func tlsRoute(name, hostnames, to string) string {
	text := routeOf("TLSRoute", name, `{group: "", kind: Service, name: echo, port: 443}`, "  - backendRefs: [{name: "+to+", port: 443}]")
	return strings.Replace(text, "\n  rules:", "\n  hostnames: ["+hostnames+"]\n  rules:", 1)
}

// tcpClusters is a patch that makes the TCP port of echo lead to clusters by weight.
func tcpClusters(weights map[string]int) patch {
	return patch{services: func(x *trial, services []envoyService) []envoyService {
		var clusters list
		for _, s := range services {
			name, _, _ := strings.Cut(s.Host, ".")
			if w := weights[name]; w > 0 && s.Addr.Port() == portTCP {
				clusters = append(clusters, obj{"name": s.ClusterName(), "weight": w})
			}
		}
		for i := range services {
			if s := &services[i]; strings.HasPrefix(s.Host, "echo.") && s.Addr.Port() == portTCP {
				s.Chain = list{obj{"name": "envoy.filters.network.tcp_proxy", "typed_config": ext("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", obj{
					"stat_prefix": "split", "weighted_clusters": obj{"clusters": clusters},
				})}}
			}
		}
		return services
	}}
}

// connections opens n connections and counts which pods they reach; "" is none.
func (x *trial) connections(n int) map[string]int {
	out := map[string]int{}
	for range n {
		conn, pod, err := x.tcpFrom("echo", "hello")
		if err == nil {
			conn.Close()
		}
		out[pod]++
	}
	return out
}

var tlsPorts = []svcPort{{"tls", 443, appTCP, "tls"}}

// tlsMesh is services whose pods speak TLS by themselves.
var tlsMesh = []svc{{name: "echo", ports: tlsPorts}, {name: "v1", ports: tlsPorts}, {name: "v2", ports: tlsPorts}}

// sniClusters lets Envoy send connections to the cluster that is called as their SNI.
func sniClusters(hosts map[string]string) patch {
	return patch{services: func(x *trial, services []envoyService) []envoyService {
		for i := range services {
			s := &services[i]
			name, _, _ := strings.Cut(s.Host, ".")
			if name == "echo" {
				s.Chain = list{
					obj{"name": "envoy.filters.network.sni_cluster", "typed_config": ext("envoy.extensions.filters.network.sni_cluster.v3.SniCluster", nil)},
					obj{"name": "envoy.filters.network.tcp_proxy", "typed_config": ext("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", obj{"stat_prefix": "sni", "cluster": "none"})},
				}
			}
			if host := hosts[name]; host != "" {
				x.clusters = append(x.clusters, envoy.NamedCluster(*s, x.expand(host)))
			}
		}
		return services
	}}
}

var tcpCases = []testCase{
	{
		name: "tcp-split", of: "TCPRoute shares connections among backends by weight", mesh: versions,
		yaml:  tcpRoute("  - backendRefs: [{name: v1, port: 82, weight: 3}, {name: v2, port: 82, weight: 1}]"),
		envoy: tcpClusters(map[string]int{"v1": 3, "v2": 1}),
		prove: func(x *trial) error {
			got := x.connections(80)
			if got["v1-1"] < 42 || got["v2-1"] < 6 || got["v1-1"]+got["v2-1"] != 80 {
				return wrongf("80 connections went to %v", got)
			}
			return nil
		},
	},
	{
		name: "tcp-missing", of: "TCPRoute to a backend that does not exist: the connection is closed, for its share", mesh: versions,
		yaml:  tcpRoute("  - backendRefs: [{name: v1, port: 82, weight: 1}, {name: nobody, port: 82, weight: 1}]"),
		alone: "its TCP proxy has no cluster that is not there",
		prove: func(x *trial) error {
			got := x.connections(60)
			if got["v1-1"] < 12 || got[""] < 12 || got["v1-1"]+got[""] != 60 {
				return wrongf("60 connections went to %v", got)
			}
			return nil
		},
	},
	{
		name: "tcp-half-close", of: "TCP through a waypoint: each side may end its half", untold: true, yaml: "",
		prove: halfClose(true), wrong: halfClose(false),
	},
}

var tlsCases = []testCase{
	{
		name: "tls-sni", of: "TLSRoute by SNI; the TLS is passed through unopened", mesh: tlsMesh,
		yaml:  tlsRoute("a", "a.$NS.example", "v1") + tlsRoute("b", "b.$NS.example", "v2"),
		envoy: sniClusters(map[string]string{"v1": "a.$NS.example", "v2": "b.$NS.example"}),
		prove: func(x *trial) error {
			if err := x.wantTLS("a.$NS.example", "v1-1"); err != nil {
				return err
			}
			return x.wantTLS("b.$NS.example", "v2-1")
		},
	},
	{
		name: "tls-no-match", of: "TLS whose SNI no route has is closed", mesh: tlsMesh,
		yaml:  tlsRoute("a", "a.$NS.example", "v1"),
		envoy: sniClusters(map[string]string{"v1": "a.$NS.example"}),
		prove: func(x *trial) error {
			if err := x.wantTLS("a.$NS.example", "v1-1"); err != nil {
				return err
			}
			if pod, err := x.tlsTo("c.$NS.example"); err == nil {
				return wrongf("c.example was answered by %s", pod)
			}
			return nil
		},
	},
	{
		name: "tls-wildcard", of: "TLSRoute by wildcards: exact before the longest wildcard", mesh: tlsMesh,
		yaml:  tlsRoute("a", `"*.$NS.example"`, "v1") + tlsRoute("b", `"*.b.$NS.example"`, "v2") + tlsRoute("c", "x.b.$NS.example", "echo"),
		alone: "sni_cluster, which stands for TLSRoute here, knows no wildcards",
		prove: func(x *trial) error {
			for host, pod := range map[string]string{"a.$NS.example": "v1-1", "y.b.$NS.example": "v2-1", "x.b.$NS.example": "echo-1", "q.r.$NS.example": "v1-1"} {
				if err := x.wantTLS(host, pod); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		name: "tls-fragmented", of: "a ClientHello in many pieces is read whole", mesh: tlsMesh,
		yaml:  tlsRoute("a", "a.$NS.example", "v1"),
		envoy: sniClusters(map[string]string{"v1": "a.$NS.example"}),
		prove: func(x *trial) error {
			conn, err := x.open("echo", 443)
			if err != nil {
				return err
			}
			defer conn.Close()
			return x.overTLS(&dribble{Conn: conn}, "a.$NS.example", "v1-1")
		},
	},
}

// dribble writes the first kilobytes in pieces.
type dribble struct {
	net.Conn
	sent int
}

func (d *dribble) Write(p []byte) (int, error) {
	for i := range p {
		if d.sent > 600 {
			n, err := d.Conn.Write(p[i:])
			return i + n, err
		}
		if d.sent++; d.sent%50 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// halfClose ends the client's half and expects what the pod sends after it.
func halfClose(end bool) func(*trial) error {
	return func(x *trial) error {
		conn, err := x.open("echo", portTCP)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		br := bufio.NewReader(conn)
		if line, err := br.ReadString('\n'); err != nil || line != "echo-1\n" {
			return wrongf("the pod said %q (%v)", line, err)
		}
		io.WriteString(conn, "hello")
		if end {
			conn.CloseWrite()
		}
		got, err := io.ReadAll(br)
		if err != nil || string(got) != "hello|5" {
			return wrongf("%q came back (%v)", got, err)
		}
		return nil
	}
}

// speakTLS makes the pods speak TLS on their TCP port: each says its name and the SNI
// that it saw.
func (x *trial) speakTLS() error {
	cert, err := selfSigned("pod")
	if err != nil {
		return err
	}
	for _, p := range x.pods {
		p.mu.Lock()
		p.tcp = func(c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			if s.Handshake() == nil {
				fmt.Fprintf(s, "%s %s\n", p.name, s.ConnectionState().ServerName)
				io.Copy(io.Discard, s) // the client ends it
			}
			s.Close()
		}
		p.mu.Unlock()
	}
	return nil
}

// tlsTo connects to the TLS port of echo with a server name and returns the pod that
// answered.
func (x *trial) tlsTo(host string) (string, error) {
	if err := x.speakTLS(); err != nil {
		return "", err
	}
	conn, err := x.open("echo", 443)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return tlsOver(conn, x.expand(host))
}

func tlsOver(conn net.Conn, host string) (string, error) {
	c := tls.Client(conn, &tls.Config{ServerName: host, InsecureSkipVerify: true}) // the pod's own; that it is the pod's is seen in its answer
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", err
	}
	pod, sni, _ := strings.Cut(strings.TrimSpace(line), " ")
	if sni != host {
		return "", wrongf("the pod saw SNI %q, want %q", sni, host)
	}
	return pod, nil
}

func (x *trial) wantTLS(host, pod string) error {
	got, err := x.tlsTo(host)
	if err == nil && got != pod {
		err = wrongf("answered by %s, want %s", got, pod)
	}
	if err != nil {
		return fmt.Errorf("TLS to %s: %w", host, err)
	}
	return nil
}

func (x *trial) overTLS(conn net.Conn, host, pod string) error {
	if err := x.speakTLS(); err != nil {
		return err
	}
	got, err := tlsOver(conn, x.expand(host))
	if err == nil && got != pod {
		err = wrongf("answered by %s, want %s", got, pod)
	}
	return err
}

// selfSigned makes a certificate that signs itself.
func selfSigned(names ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: names,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func pemOf(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}
