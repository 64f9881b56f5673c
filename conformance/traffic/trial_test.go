package traffic

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/node"
)

// svc is a service of a case and the pods behind it. Each has the ports of
// portsOf.
type svc struct {
	name   string
	ns     string            // added to the case's namespace; empty: that itself
	pods   int               // 0: one; none for none
	labels map[string]string // of the pods
	each   []map[string]string
	app    string            // appProtocol of port 80
	spec   string            // further lines of the Service's spec
	local  []string          // nodes of the pods, in turn
	pick   map[string]string // labels to select; nil: the pods made for it
	entry  bool              // no Service: what the case calls so by itself, with endpoints outside the mesh
	plain  bool              // pods listen on real ports, too
	ports  []svcPort         // nil: portHTTP, portGRPC and portTCP
}

type svcPort struct {
	name         string
	port, target uint16
	app          string
}

func (s svc) allPorts() []svcPort {
	if s.ports != nil {
		return s.ports
	}
	return []svcPort{
		{"http", portHTTP, appHTTP, cmp.Or(s.app, "http")},
		{"grpc", portGRPC, appGRPC, "grpc"},
		{"tcp", portTCP, appTCP, "tcp"},
	}
}

// key is the name of a service in a trial's tables.
func (s svc) key() string {
	return s.ns[min(len(s.ns), 1):] + strings.Repeat("/", b2i(s.ns != "")) + s.name
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s svc) selector() map[string]string {
	if s.pick != nil {
		return s.pick
	}
	return map[string]string{"set": s.name}
}

const none = -1

// The ports of every service, and where they lead in a pod.
const (
	portHTTP = 80
	portGRPC = 81
	portTCP  = 82

	appHTTP = 8080
	appGRPC = 8081
	appTCP  = 8082

	// What the pods of Gateway API's suite listen on.
	officialGRPC = 7070
	officialTCP  = 9090
)

// trial is a case, or its twin, with services of its own.
type trial struct {
	*lab
	c       *testCase
	twin    bool
	ns      string
	vips    map[string]netip.Addr // of services by name, or NAMESPACE/NAME with what is added
	pods    []*pod
	refused string // why the waypoint does not have it
	text    string // the manifests in force beside services and pods

	clusters envoy.List // that no service has, of Envoy
	memo     map[string]string
}

// add makes the services and pods of a case in a namespace of their own.
func (l *lab) add(c *testCase, twin bool) (*trial, error) {
	x := &trial{lab: l, c: c, twin: twin, ns: strings.ToLower(c.name), vips: map[string]netip.Addr{}, memo: map[string]string{}}
	if twin {
		x.ns += "-twin"
	}
	for _, s := range c.services() {
		x.vips[s.key()] = l.net.Next()
		for range max(0, cmp.Or(s.pods, 1)) {
			if _, err := x.addPod(s); err != nil {
				return nil, err
			}
		}
	}
	x.text = x.expand(c.text(twin))
	l.trials = append(l.trials, x)
	return x, nil
}

// addPod makes one more pod of a service.
func (x *trial) addPod(s svc) (*pod, error) {
	n := 0
	for _, p := range x.pods {
		if p.svc == s.name && p.ns == x.ns+s.ns {
			n++
		}
	}
	p := &pod{svc: s.name, ns: x.ns + s.ns, name: fmt.Sprintf("%s-%d", s.name, n+1), addr: x.net.Next(), labels: map[string]string{"app": s.name, "set": s.name}}
	maps.Copy(p.labels, s.labels)
	if n < len(s.each) {
		maps.Copy(p.labels, s.each[n])
	}
	if len(s.local) > 0 {
		p.node = s.local[n%len(s.local)]
	}
	leaf, err := x.ca.Issue(p.ns, s.name)
	if err != nil {
		return nil, err
	}
	if err := x.nodes.Add(p.addr, leaf); err != nil {
		return nil, err
	}
	p.outside = s.entry
	if err := p.serve(x.nodes, s.plain || s.entry); err != nil {
		return nil, err
	}
	x.pods = append(x.pods, p)
	return p, nil
}

// expand fills in $NS, $PEER, $CA for the certificate of what is outside, $KEYS for a key server's URL, $VIP-NAME for
// a service's address and $POD-NAME for a pod's.
func (x *trial) expand(text string) string {
	text = strings.NewReplacer("$NS", x.ns, "$PEER", x.peer, "$CA", strconv.Quote(outsideCA), "$KEYS", keyServers().url+x.keyPath()).Replace(text)
	for _, p := range x.pods {
		text = strings.ReplaceAll(text, "$POD-"+p.name, p.addr.String())
		if p.outside {
			text = strings.ReplaceAll(text, "$PORT", strconv.Itoa(p.local))
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(x.vips), func(a, b string) int { return len(b) - len(a) }) {
		text = strings.ReplaceAll(text, "$VIP-"+name, x.vips[name].String())
	}
	return text
}

func (x *trial) file() string { return filepath.Join(x.folder, x.ns+".yaml") }

// write puts manifests in force; the waypoint follows within a second.
func (x *trial) write(text string) error {
	part := filepath.Join(x.dir, x.ns+".part")
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(part, x.file())
}

// manifests are the services and pods of the trial and what its case says.
func (x *trial) manifests() string {
	var b strings.Builder
	spaces := map[string]bool{}
	for _, s := range x.c.services() {
		ns := x.ns + s.ns
		if s.entry {
			continue
		}
		if !spaces[ns] {
			spaces[ns] = true
			fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: mesh}\n---\n", ns)
		}
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec:\n  clusterIP: %s\n  selector: {%s}\n",
			s.name, ns, x.vips[s.key()], flow(s.selector()))
		if s.spec != "" {
			b.WriteString("  " + strings.ReplaceAll(strings.TrimSpace(s.spec), "\n", "\n  ") + "\n")
		}
		b.WriteString("  ports:\n")
		for _, p := range s.allPorts() {
			fmt.Fprintf(&b, "  - {name: %s, port: %d, targetPort: %d", p.name, p.port, p.target)
			if p.app != "" {
				fmt.Fprintf(&b, ", appProtocol: %s", p.app)
			}
			b.WriteString("}\n")
		}
		b.WriteString("---\n")
	}
	for _, p := range x.pods {
		if !p.outside {
			b.WriteString(p.manifest() + "---\n")
		}
	}
	return b.String() + x.text
}

// pod is one endpoint.
type pod struct {
	svc, ns, name, node string
	addr                netip.Addr
	labels              map[string]string
	gone                bool
	outside             bool // it is no pod at all
	app
	listeners map[uint16]*node.Listener
}

func (p *pod) manifest() string {
	if p.gone {
		return ""
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: %s
  labels: {%s}
spec:
  serviceAccountName: %s
  nodeName: %s
  containers: [{name: app, image: example.com/app}]
status:
  phase: Running
  podIP: %[6]s
  podIPs: [{ip: %[6]s}]
  conditions: [{type: Ready, status: "True"}]
`, p.name, p.ns, flow(p.labels), p.svc, cmp.Or(p.node, "node-1"), p.addr)
}

// flow writes a map in YAML's short form.
func flow(m map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, fmt.Sprintf("%s: %q", k, m[k]))
	}
	return strings.Join(list, ", ")
}

// pod returns a pod by its name; a case that asks for one that it has not is
// wrong.
func (x *trial) pod(name string) *pod {
	for _, p := range x.pods {
		if p.name == name {
			return p
		}
	}
	panic(fmt.Sprintf("case %s has no pod %s", x.c.name, name))
}

// podsOf returns the pods of a service.
func (x *trial) podsOf(name string) []*pod {
	return slices.DeleteFunc(slices.Clone(x.pods), func(p *pod) bool { return p.svc != name })
}
