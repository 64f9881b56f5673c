package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"cairnproxy.dev/cairn/conformance/manifests"
)

// meshFiles are the manifests of one shape on disk. Cairn reads them by
// itself; the others are configured from what read returns.
type meshFiles struct {
	folder string
	vip    netip.AddrPort // of the service that is used
	pod    netip.AddrPort
	model  *manifests.Mesh
}

//go:embed manifests.yaml
var manifestText string

//go:embed others.yaml
var otherText string

// podsPerFile keeps files at some megabytes: larger ones are refused.
const podsPerFile = 10_000

// rulesPerRoute is how many rules Gateway API lets an HTTPRoute have.
const rulesPerRoute = 16

// The addresses of the services and pods that nobody uses.
var (
	otherServices = netip.MustParseAddr("10.64.0.0")
	otherPods     = netip.MustParseAddr("10.128.0.0")
)

// otherService is a service that the waypoint has to know, and no more.
type otherService struct {
	Name string
	Addr netip.Addr
	Pods []netip.Addr
}

// mesh writes the manifests of a shape, once.
func (l *lab) mesh(s shape) (*meshFiles, error) {
	if m := l.meshes[s]; m != nil {
		return m, nil
	}
	m := &meshFiles{folder: filepath.Join(l.dir, fmt.Sprintf("mesh-%d", len(l.meshes))), vip: l.vip, pod: l.pod}
	if err := m.write(s); err != nil {
		return nil, fmt.Errorf("writing the manifests: %w", err)
	}
	l.meshes[s] = m
	return m, nil
}

func (m *meshFiles) write(s shape) error {
	if err := os.Mkdir(m.folder, 0o755); err != nil {
		return err
	}
	err := m.file("mesh.yaml", manifestText, map[string]any{
		"VIP": m.vip, "Pod": m.pod, "GRPC": s.grpc, "RBAC": !s.noPolicy, "Routes": s.prefixes(), "Idle": s.idle,
	})
	if err != nil {
		return err
	}
	for i, some := range slices.Collect(slices.Chunk(s.others(), max(podsPerFile/max(s.pods, 1), 1))) {
		if err := m.file(fmt.Sprintf("others-%d.yaml", i), otherText, some); err != nil {
			return err
		}
	}
	return nil
}

// file writes one file of the folder.
func (m *meshFiles) file(name, text string, data any) error {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(m.folder, name))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return errors.Join(t.Execute(w, data), w.Flush(), f.Close())
}

// prefixes are the path prefixes of the service's routes, by HTTPRoute. The
// one that requests ask for is the shortest: whoever looks at one after the
// other, the longest first, comes to it last.
func (s shape) prefixes() [][]string {
	var all []string
	for i := range max(s.routes, 1) - 1 {
		all = append(all, fmt.Sprintf("/api/v1/resource-%05d", i))
	}
	return slices.Collect(slices.Chunk(append(all, "/bytes"), rulesPerRoute))
}

// others are the services that nobody uses.
func (s shape) others() []otherService {
	var all []otherService
	service, pod := otherServices, otherPods
	for i := range max(s.services, 1) - 1 {
		service = service.Next()
		o := otherService{Name: fmt.Sprintf("other-%05d", i), Addr: service}
		for range max(s.pods, 1) {
			pod = pod.Next()
			o.Pods = append(o.Pods, pod)
		}
		all = append(all, o)
	}
	return all
}

// read translates the manifests, once, and checks that the service that is
// used is in them.
func (m *meshFiles) read() (*manifests.Mesh, error) {
	if m.model != nil {
		return m.model, nil
	}
	model, err := manifests.Read(m.folder)
	if err != nil {
		return nil, err
	}
	s, err := model.Find(m.vip)
	if err != nil {
		return nil, err
	}
	if len(s.Endpoints) != 1 || s.Endpoints[0].Addr != m.pod {
		return nil, fmt.Errorf("the service at %s has endpoints %v, the sink is %s", m.vip, s.Endpoints, m.pod)
	}
	m.model = model
	return model, nil
}
