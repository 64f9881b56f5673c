package acceptance

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"cairnproxy.dev/cairn/conformance/ca"
	"cairnproxy.dev/cairn/conformance/cairn"
	"cairnproxy.dev/cairn/conformance/hbone"
	"cairnproxy.dev/cairn/conformance/loopback"
	"cairnproxy.dev/cairn/conformance/proc"
)

const aloneMesh = demoWaypoint + `---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  clusterIP: VIP
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec:
  serviceAccountName: web
  containers: [{name: web, image: example.com/web, ports: [{containerPort: 8080}]}]
status:
  phase: Running
  podIP: POD
  podIPs: [{ip: POD}]
  conditions: [{type: Ready, status: "True"}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: demo}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: demo}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/demo/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
`

// TestWaypointAlone runs one waypoint with certificate files between a client
// and a server of HBONE that are not Cairn's.
func TestWaypointAlone(t *testing.T) {
	block, err := loopback.Take()
	if err != nil {
		t.Fatal(err)
	}
	defer block.Close()
	dir := t.TempDir()
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(account string) *ca.Leaf {
		l, err := authority.Issue("demo", account)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	files, err := authority.Write(dir, "waypoint", leaf("waypoint"))
	if err != nil {
		t.Fatal(err)
	}
	vip, pod, address := block.Addr(1), block.Addr(2), block.Addr(3)
	ln, err := net.Listen("tcp", net.JoinHostPort(pod.String(), "15008"))
	if err != nil {
		t.Fatal(err)
	}
	sink := &hbone.Sink{TLS: leaf("web").Server(), DefaultSize: 1024}
	go sink.Serve(ln) // its end is the listener's
	defer ln.Close()
	text := strings.NewReplacer("VIP", vip.String(), "POD", pod.String()).Replace(aloneMesh)
	folder, err := cairn.WriteManifests(dir, text)
	if err != nil {
		t.Fatal(err)
	}
	w := cairn.Waypoint{
		Manifests: folder, Gateway: "demo/waypoint", Address: address, Files: files,
		Admin: net.JoinHostPort(address.String(), "15000"), Metrics: net.JoinHostPort(address.String(), "15020"),
	}
	p, err := w.Start(t.Context(), dir, "waypoint", proc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	end := tunnelEnd{net.JoinHostPort(address.String(), "15008"), nil}
	t.Run("request", func(t *testing.T) {
		got, err := end.exchange(leaf("client").Client("spiffe://cluster.local/ns/demo/sa/waypoint"), vip.String()+":80", "GET /bytes HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
		if err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") || len(got) < 1024 {
			t.Fatalf("%.300q %v", got, err)
		}
		authorities, peers, failure := sink.Seen()
		if failure != nil || authorities[pod.String()+":8080"] == 0 || peers["spiffe://cluster.local/ns/demo/sa/waypoint"] == 0 {
			t.Errorf("the server saw %v from %v, %v; want %s:8080 from the waypoint", authorities, peers, failure, pod)
		}
	})
	for _, test := range []struct{ name, account, request, want string }{
		{"method", "client", "POST /bytes HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "HTTP/1.1 403 "},
		{"identity", "stranger", "GET /bytes HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n", "HTTP/1.1 403 "},
	} {
		t.Run("denied-"+test.name, func(t *testing.T) {
			got, err := end.exchange(leaf(test.account).Client(""), vip.String()+":80", test.request)
			if err != nil || !strings.HasPrefix(got, test.want) || !strings.Contains(got, "RBAC: access denied") {
				t.Errorf("%.300q %v, want %s", got, err, test.want)
			}
		})
	}
	for name, test := range map[string]struct{ authority, want string }{
		"unknown-address": {block.Addr(99).String() + ":80", "400"},
		"unknown-port":    {vip.String() + ":81", "400"},
		"port-zero":       {vip.String() + ":0", "400"},
		"no-port":         {vip.String(), "400"},
		"nonsense":        {"no such thing", "400"},
		"illegal-port":    {vip.String() + ":15008", "400"},
		"by-name":         {"web.demo.svc.cluster.local:80", "200"},
	} {
		t.Run("connect-"+name, func(t *testing.T) {
			got, err := end.connect(leaf("client").Client(""), test.authority)
			if err != nil || got != test.want {
				t.Errorf("CONNECT %s: status %q, %v, want %s", test.authority, got, err, test.want)
			}
		})
	}
	t.Run("other-domain", func(t *testing.T) {
		foreign, err := authority.IssueURI("spiffe://elsewhere/ns/demo/sa/client")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := end.connect(foreign.Client(""), vip.String()+":80"); err == nil {
			t.Errorf("a client of another trust domain got %q", got)
		}
	})
	t.Run("servers", func(t *testing.T) {
		s := metrics(t, w.Metrics)
		if n := s.sum("istio_requests_total", `response_code="200"`); n != 1 {
			t.Errorf("istio_requests_total of status 200 is %v, want 1", n)
		}
		if n := s.sum("istio_requests_total", `response_code="403"`); n != 2 {
			t.Errorf("istio_requests_total of status 403 is %v, want 2", n)
		}
		o := command(t, "", cairnPath(t), "config", "services", "--admin", w.Admin)
		if o.code != 0 || !strings.Contains(o.stdout, "web.demo.svc.cluster.local") {
			t.Errorf("config services: exit code %d, %s%s", o.code, o.stdout, o.stderr)
		}
		eventually(t, 5*time.Second, func() error {
			lines := readLines(t, filepath.Join(dir, "waypoint.access.log"))
			if len(lines) != 3 {
				return fmt.Errorf("%d lines of access log, want 3: %s", len(lines), lines)
			}
			return nil
		})
	})
	t.Run("reload", func(t *testing.T) {
		write(t, folder, "mesh.yaml", strings.Replace(text, "methods: [GET]", "methods: [POST]", 1))
		eventually(t, 5*time.Second, func() error {
			got, err := end.exchange(leaf("client").Client(""), vip.String()+":80", "GET /bytes HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
			if err != nil || !strings.HasPrefix(got, "HTTP/1.1 403 ") {
				return fmt.Errorf("%.100q %v, want 403 after the edit", got, err)
			}
			return nil
		})
		write(t, folder, "mesh.yaml", strings.Replace(text, "action: ALLOW", "action: MAYBE", 1))
		eventually(t, 5*time.Second, func() error {
			if log := p.Tail(20); !strings.Contains(log, "MAYBE") || !strings.Contains(log, "mesh.yaml") {
				return fmt.Errorf("nothing is said of a broken edit: %s", log)
			}
			return nil
		})
		if got, err := end.exchange(leaf("client").Client(""), vip.String()+":80", "GET /bytes HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"); err != nil || !strings.HasPrefix(got, "HTTP/1.1 403 ") {
			t.Errorf("after a broken edit: %.100q %v, want 403 as before", got, err)
		}
	})
	interrupt(t, p)
}

// tunnelEnd is where HBONE is spoken.
type tunnelEnd struct {
	addr string
	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: from here
}

// open sends a CONNECT and returns its stream's framer and status.
func (e tunnelEnd) open(cfg *tls.Config, authority string) (net.Conn, *http2.Framer, string, error) {
	dial := e.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	raw, err := dial(context.Background(), "tcp", e.addr)
	if err != nil {
		return nil, nil, "", err
	}
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, cfg)
	f := http2.NewFramer(conn, bufio.NewReader(conn))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err == nil {
		err = f.WriteSettings()
	}
	if err == nil {
		err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields(":method", "CONNECT", ":authority", authority), EndHeaders: true})
	}
	for err == nil {
		var frame http2.Frame
		if frame, err = f.ReadFrame(); err != nil {
			break
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return conn, f, frame.PseudoValue("status"), nil
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("reset: %v", frame.ErrCode)
		}
	}
	raw.Close()
	return nil, nil, "", err
}

// connect returns the status of a CONNECT.
func (e tunnelEnd) connect(cfg *tls.Config, authority string) (string, error) {
	conn, _, status, err := e.open(cfg, authority)
	if err == nil {
		conn.Close()
	}
	return status, err
}

// exchange sends text through a tunnel and returns all that comes back.
func (e tunnelEnd) exchange(cfg *tls.Config, authority, text string) (string, error) {
	conn, f, status, err := e.open(cfg, authority)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if status != "200" {
		return "", fmt.Errorf("CONNECT %s: %s", authority, status)
	}
	if err := f.WriteData(1, false, []byte(text)); err != nil {
		return "", err
	}
	var got strings.Builder
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return got.String(), err
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			got.Write(frame.Data())
			if frame.StreamEnded() {
				return got.String(), nil
			}
		case *http2.RSTStreamFrame:
			return got.String(), fmt.Errorf("reset: %v", frame.ErrCode)
		}
	}
}

// TestSampleEcho asks the echo server for everything it promises.
func TestSampleEcho(t *testing.T) {
	addr := sampleAddr(t)
	p := startQuietly(t, "sample", "echo", "--listen", addr, "--pod-name", "echo-1", "--namespace", "demo")
	c := client(t, "", true)
	url := "http://" + addr
	eventually(t, 10*time.Second, func() error { return answers(t, "", url+"/x", 200) })

	resp, err := c.Post(url+"/a/b?c=d", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	var raw map[string]any
	if err != nil || json.Unmarshal(body, &raw) != nil {
		t.Fatalf("%q %v", body, err)
	}
	if _, ok := raw["headers"].(map[string]any); !ok {
		t.Errorf("headers are %v, want an object", raw["headers"])
	}
	for k, want := range map[string]any{"pod": "echo-1", "namespace": "demo", "method": "POST", "path": "/a/b?c=d", "host": addr, "proto": "HTTP/1.1", "body_bytes": 5.0} {
		if raw[k] != want {
			t.Errorf("%s is %v, want %v", k, raw[k], want)
		}
	}
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	if body := must(t, &http.Client{Transport: h2, Timeout: 10 * time.Second}, 200, "GET", url+"/x"); !strings.Contains(body, `"HTTP/2.0"`) {
		t.Errorf("over HTTP/2: %s", body)
	}
	must(t, c, 418, "GET", url+"/status/418")
	if n := len(must(t, c, 200, "GET", url+"/bytes/12345")); n != 12345 {
		t.Errorf("/bytes/12345 has %d bytes", n)
	}
	began := time.Now()
	must(t, c, 200, "GET", url+"/delay/300ms")
	if d := time.Since(began); d < 300*time.Millisecond {
		t.Errorf("/delay/300ms took %v", d)
	}
	began = time.Now()
	if n := strings.Count(must(t, c, 200, "GET", url+"/stream/5/50ms"), "\n"); n != 5 || time.Since(began) < 200*time.Millisecond {
		t.Errorf("/stream/5/50ms gave %d lines in %v", n, time.Since(began))
	}
	got := map[int]int{}
	for range 10 {
		code, _, err := do(t.Context(), c, "GET", url+"/flaky/2/5/503")
		if err != nil {
			t.Fatal(err)
		}
		got[code]++
	}
	if got[503] != 4 || got[200] != 6 {
		t.Errorf("/flaky/2/5/503 ten times: %v, want 4 of 503 and 6 of 200", got)
	}
	for _, bad := range []string{"/status/x", "/status/99", "/delay/soon", "/bytes/-1"} {
		if code, body, err := do(t.Context(), c, "GET", url+bad); err != nil || code != 400 {
			t.Errorf("%s: %s %.100q, want 400", bad, status(code, err), body)
		}
	}
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	health, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: %v %v", health, err)
	}
	cc.Close()
	c.CloseIdleConnections()
	h2.CloseIdleConnections()
	interrupt(t, p)
}

// TestSamples asks the other samples for what guides use of them.
func TestSamples(t *testing.T) {
	t.Run("httpbin", func(t *testing.T) {
		addr := sampleAddr(t)
		startQuietly(t, "sample", "httpbin", "--listen", addr)
		eventually(t, 10*time.Second, func() error { return answers(t, "", "http://"+addr+"/get", 200) })
		c := client(t, "", true)
		for path, want := range map[string]int{"/headers": 200, "/ip": 200, "/user-agent": 200, "/status/429": 429, "/anything/x": 200, "/delay/0": 200, "/bytes/10": 200, "/uuid": 200, "/html": 200, "/nowhere": 404} {
			must(t, c, want, "GET", "http://"+addr+path)
		}
		if body := must(t, c, 200, "GET", "http://"+addr+"/get?show_env=1", "X-Custom", "seen"); !strings.Contains(body, "seen") || !strings.Contains(body, "show_env") {
			t.Errorf("/get says %.300s", body)
		}
	})
	for service, path := range map[string]string{"details": "/details/0", "ratings": "/ratings/0", "reviews": "/reviews/0"} {
		t.Run(service, func(t *testing.T) {
			addr := sampleAddr(t)
			startQuietly(t, "sample", "bookinfo", service, "--listen", addr)
			eventually(t, 10*time.Second, func() error { return answers(t, "", "http://"+addr+path, 200) })
			body := must(t, client(t, "", false), 200, "GET", "http://"+addr+path)
			if !json.Valid([]byte(body)) {
				t.Errorf("%s is no JSON: %.200s", path, body)
			}
		})
	}
}

// sampleAddr is a free address and port.
func sampleAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// TestDrain ends a mesh with Ctrl-C while answers are under way: they come to
// their end, nothing new is taken, and the exit code is 0.
func TestDrain(t *testing.T) {
	for _, args := range [][]string{nil, {"--processes"}} {
		t.Run(strings.Join(append([]string{"up"}, args...), ""), func(t *testing.T) {
			dir := t.TempDir()
			folder := write(t, dir, "mesh.yaml", fmt.Sprintf(scaled, 1, 1))
			m, err := cairn.Up(t.Context(), dir, folder, append(args, "--range", takeRange(t).String())...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Process.Signal(os.Kill) }) // it has ended when all went well
			mm := &mesh{Mesh: m}
			began := make(chan struct{}, 8)
			results := make(chan error, 8)
			for i := range cap(results) {
				service := []string{"echo", "direct"}[i%2]
				go func() {
					results <- readStream("http://"+mm.addr(t, "demo", service)+"/stream/15/80ms", 15, began)
				}()
			}
			for range cap(results) {
				<-began
			}
			if err := m.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, func() error {
				conn, err := net.DialTimeout("tcp", mm.addr(t, "demo", "echo"), time.Second)
				if err != nil {
					return nil
				}
				conn.Close()
				return fmt.Errorf("new connections are taken")
			})
			for range cap(results) {
				if err := <-results; err != nil {
					t.Errorf("under way at Ctrl-C: %v", err)
				}
			}
			interrupted := time.NewTimer(15 * time.Second)
			defer interrupted.Stop()
			select {
			case <-m.Process.Ended():
			case <-interrupted.C:
				t.Fatal("still there 15 s after Ctrl-C")
			}
			if err := m.Process.Stop(time.Second); err != nil {
				t.Errorf("after Ctrl-C: %v, want exit code 0: %s", err, m.Process.Tail(5))
			}
		})
	}
}

// readStream reads an answer of n lines, and tells when the first has come.
func readStream(url string, n int, began chan<- struct{}) error {
	first := true
	told := func() {
		if first {
			began <- struct{}{}
		}
		first = false
	}
	defer told() // on failure
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := (&http.Transport{}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := 0
	s := bufio.NewScanner(resp.Body)
	for s.Scan() {
		lines++
		told()
	}
	if s.Err() != nil || lines != n || resp.StatusCode != 200 {
		return fmt.Errorf("status %d, %d lines of %d, %w", resp.StatusCode, lines, n, s.Err())
	}
	return nil
}

// TestZtunnelAlone runs one node proxy in a network namespace, in front of a
// sample, and asks it what it must carry and what it must refuse.
func TestZtunnelAlone(t *testing.T) {
	needRoot(t, "a network namespace")
	needProgram(t, "ip")
	ns := newNamespace(t, "198.18.77.2")
	dir := t.TempDir()
	authority, err := ca.New("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(account string) *ca.Leaf {
		l, err := authority.Issue("demo", account)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	files, err := authority.Write(dir, "web", leaf("web"))
	if err != nil {
		t.Fatal(err)
	}
	ns.run(t, "cairn sample", []string{cairnPath(t), "sample", "echo", "--listen", "198.18.77.2:8080", "--pod-name", "web"})
	xds := write(t, dir, "mesh.yaml", `
workloads:
- {uid: c//Pod/demo/web, name: web, namespace: demo, serviceAccount: web, trustDomain: cluster.local, workloadIps: [198.18.77.2],
   protocol: HBONE, node: n, network: "", authorizationPolicies: [demo/deny], services: {demo/web.demo.svc.cluster.local: {80: 8080}}}
policies:
- {name: deny, namespace: demo, scope: WorkloadSelector, action: Deny, dryRun: false, rules: [[[{principals: [!Exact "cluster.local/ns/demo/sa/denied"]}]]]}
services:
- {name: web, namespace: demo, hostname: web.demo.svc.cluster.local, vips: ["/198.19.77.1"], ports: {80: 8080}}
`)
	z := cairn.Ztunnel{Netns: ns.name, Workload: "demo/web/web", Node: "n", LocalXDS: xds, Files: files}
	p, err := z.Start(t.Context(), dir, "ztunnel", ns.get)
	if err != nil {
		t.Fatal(err)
	}
	end := tunnelEnd{"198.18.77.2:15008", ns.dial}
	const uri = "spiffe://cluster.local/ns/demo/sa/web"
	got, err := end.exchange(leaf("client").Client(uri), "198.18.77.2:8080", "GET /x HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
	if err != nil || !strings.Contains(got, `"pod": "web"`) {
		t.Errorf("through the tunnel: %.300q %v", got, err)
	}
	for _, test := range []struct{ name, account, authority, want string }{
		{"by-name", "client", "web.demo.svc.cluster.local:80", "200"},
		{"policy", "denied", "198.18.77.2:8080", "401"},
		{"other-address", "client", "198.18.77.9:8080", "400"},
		{"nonsense", "client", "no such thing", "400"},
		{"itself", "client", "198.18.77.2:15008", "503"},
		{"nobody-listens", "client", "198.18.77.2:9", "503"},
	} {
		if got, err := end.connect(leaf(test.account).Client(uri), test.authority); err != nil || got != test.want {
			t.Errorf("%s: CONNECT %s is answered with %q, %v, want %s", test.name, test.authority, got, err, test.want)
		}
	}
	foreign, err := authority.IssueURI("spiffe://elsewhere/ns/demo/sa/client")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := end.connect(foreign.Client(""), "198.18.77.2:8080"); err == nil {
		t.Errorf("a client of another trust domain got %q", got)
	}
	for url, want := range map[string]string{
		"http://198.18.77.2:15020/stats/prometheus": `istio_tcp_connections_opened_total{`,
		"http://198.18.77.2:15021/healthz/ready":    "ready",
		"http://127.0.0.1:15000/config_dump":        "web.demo.svc.cluster.local",
	} {
		resp, err := ns.get(t.Context(), url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %v, want %q in it", url, resp.Status, err, want)
		}
	}
	interrupt(t, p)

	for name, test := range map[string]struct{ change, words string }{
		"mode":      {"PROXY_MODE=both", "PROXY_MODE"},
		"boolean":   {"IPV6_ENABLED=1", "IPV6_ENABLED"},
		"workload":  {"PROXY_WORKLOAD_INFO=web", "PROXY_WORKLOAD_INFO"},
		"no-mesh":   {"LOCAL_XDS_PATH=", "LOCAL_XDS_PATH"},
		"not-there": {"LOCAL_XDS_PATH=" + filepath.Join(dir, "missing.yaml"), "missing.yaml"},
		"bad-mesh":  {"LOCAL_XDS_PATH=" + write(t, dir, "bad.yaml", "workloads:\n- {uid: x, frob: 1}\n"), "bad.yaml:2"},
	} {
		env := []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=demo/web/web", "NODE_NAME=n", "XDS_ADDRESS=", "LOCAL_XDS_PATH=" + xds, test.change}
		o := commandWithin(t, 20*time.Second, dir, env, "ip", "netns", "exec", ns.name, cairnPath(t), "ztunnel", "--cert", files.Cert, "--key", files.Key, "--root", files.Root)
		if o.code != 1 || !strings.Contains(o.stderr, test.words) {
			t.Errorf("%s: exit code %d, %q, want 1 and the word %s", name, o.code, o.stderr, test.words)
		}
	}
}
