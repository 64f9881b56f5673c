package traffic

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cairnproxy.dev/cairn/conformance/envoy"
	"cairnproxy.dev/cairn/conformance/peers"
)

// testCase is one promise.
type testCase struct {
	name string // a DNS label: it is a namespace, too
	of   string // what it proves, in the words of a user
	mesh []svc  // nil: one service "echo" with one pod

	keep   string // manifests that the twin has, too
	yaml   string // manifests that the case is about
	twin   string // in their place
	untold bool   // the twin has yaml, too: what differs is in prove

	// Entries of MeshConfig's extensionProviders, of which the mesh has one: they are named by $NS.
	provider, providerTwin string

	// What the manifests mean to Envoy where the translation has no words, and why
	// Envoy is not asked at all.
	envoy     patch
	envoyTwin patch // of the twin
	alone     string

	// prove sends requests and returns what is not as it must be.
	prove func(x *trial) error
	// wrong is prove of the twin where the twin differs in what it sends.
	wrong func(x *trial) error
	// slow cases run while others do not.
	quiet bool
}

// patch is a fragment of Envoy's configuration.
type patch struct {
	port    uint16       // of the services; 0: all
	route   envoy.Object // over the action of each route that forwards
	entry   envoy.Object // over each route
	cluster envoy.Object // over each cluster
	filters envoy.List   // before the router
	manager envoy.Object // over the connection manager
	// services changes what the translation made.
	services func(x *trial, services []envoy.Service) []envoy.Service
}

func (c *testCase) services() []svc {
	if c.mesh == nil {
		return []svc{{name: "echo"}}
	}
	return c.mesh
}

func (c *testCase) text(twin bool) string {
	if twin && !c.untold {
		return c.keep + separated(c.twin)
	}
	return c.keep + separated(c.yaml)
}

func separated(text string) string { return "\n---\n" + text }

// runGroup runs the cases of a group against every peer.
func runGroup(t *testing.T, group string, cases []testCase) {
	for _, peer := range []string{"cairn", "envoy"} {
		t.Run(peer, func(t *testing.T) {
			t.Parallel()
			runPeer(t, group, peer, cases)
		})
	}
}

func runPeer(t *testing.T, group, peer string, cases []testCase) {
	l := newLab(t, peer)
	type pair struct {
		c          *testCase
		real, twin *trial
	}
	var pairs []pair
	for i := range cases {
		c := &cases[i]
		table.note(group, c, peer, "")
		if peer == "envoy" && c.alone != "" {
			table.note(group, c, peer, "— "+c.alone)
			continue
		}
		if !selected(t, c.name) {
			table.note(group, c, peer, "not run")
			continue
		}
		p := pair{c: c}
		var err error
		if p.real, err = l.add(c, false); err != nil {
			t.Fatal(err)
		}
		if p.twin, err = l.add(c, true); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, p)
	}
	if len(pairs) == 0 {
		return
	}
	l.start(t)
	t.Run("case", func(t *testing.T) {
		for _, p := range pairs {
			t.Run(p.c.name, func(t *testing.T) {
				if !p.c.quiet {
					t.Parallel()
				}
				said := run(p.c, p.real, p.twin)
				table.note(group, p.c, peer, cmp.Or(said.wrong, "pass"))
				table.twin(group, p.c, peer, said.twin)
				if said.wrong != "" {
					t.Errorf("%s\n%s", p.c.of, said.wrong)
				}
			})
		}
	})
}

type outcome struct {
	wrong string // empty: as it must be
	twin  string // how the twin failed
}

// run proves a case, and that its twin fails.
func run(c *testCase, real, twin *trial) (out outcome) {
	if real.refused != "" {
		return outcome{wrong: "refused: " + real.refused}
	}
	if err := c.prove(real); err != nil {
		return outcome{wrong: err.Error()}
	}
	if twin.refused != "" {
		return outcome{wrong: "the twin is refused: " + twin.refused}
	}
	wrong := c.prove
	if c.wrong != nil {
		wrong = c.wrong
	}
	err := wrong(twin)
	if err == nil {
		return outcome{wrong: "the negative twin passes, too: this case cannot fail"}
	}
	return outcome{twin: err.Error()}
}

// selected reports whether -run may choose the case, so that few can be run
// without making the services of all.
func selected(t *testing.T, name string) bool {
	parts := strings.Split(flag.Lookup("test.run").Value.String(), "/")
	return len(parts) < 4 || strings.Contains(name, strings.Trim(parts[3], "^$"))
}

// results is the table of cases and peers.
type results struct {
	mu   sync.Mutex
	rows map[string]*row
}

type row struct {
	group, name, of string
	said            map[string]string
	twins           map[string]string
}

var table = results{rows: map[string]*row{}}

func (r *results) of(group string, c *testCase) *row {
	key := group + "/" + c.name
	if r.rows[key] == nil {
		r.rows[key] = &row{group: group, name: c.name, of: c.of, said: map[string]string{}, twins: map[string]string{}}
	}
	return r.rows[key]
}

func (r *results) note(group string, c *testCase, peer, said string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(group, c).said[peer] = said
}

func (r *results) twin(group string, c *testCase, peer, said string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(group, c).twins[peer] = said
}

// write puts the table into the results' folder.
func (r *results) write() error {
	root, err := peers.ModuleRoot()
	if err != nil {
		return err
	}
	rows := make([]*row, 0, len(r.rows))
	for _, x := range r.rows {
		rows = append(rows, x)
	}
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Or(strings.Compare(a.group, b.group), strings.Compare(a.name, b.name)) })
	var b strings.Builder
	passed := map[string]int{}
	b.WriteString("| group | case | what it proves | cairn | envoy | how the twin fails |\n|---|---|---|---|---|---|\n")
	for _, x := range rows {
		for peer, said := range x.said {
			if said == "pass" {
				passed[peer]++
			}
		}
		twin := cmp.Or(x.twins["cairn"], x.twins["envoy"])
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", x.group, x.name, cell(x.of), cell(x.said["cairn"]), cell(x.said["envoy"]), cell(twin))
	}
	fmt.Fprintf(&b, "\n%d cases: Cairn passes %d, Envoy %d.\n", len(rows), passed["cairn"], passed["envoy"])
	dir := filepath.Join(root, "results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "traffic.md"), []byte(b.String()), 0o644)
}

func cell(s string) string {
	s = strings.Join(strings.Fields(strings.ReplaceAll(s, "|", `\|`)), " ")
	if len(s) > 160 {
		s = s[:157] + "..."
	}
	return s
}

func TestMain(m *testing.M) {
	// net/http and x/net/http2 speak extended CONNECT only if they are told at their start.
	if !strings.Contains(os.Getenv("GODEBUG"), "http2xconnect=1") {
		os.Setenv("GODEBUG", strings.Trim(os.Getenv("GODEBUG")+",http2xconnect=1", ","))
		path, err := os.Executable()
		if err == nil {
			err = syscall.Exec(path, os.Args, os.Environ())
		}
		panic(err)
	}
	flag.Parse()
	// Cases wait for timers more than they compute.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := table.write(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
