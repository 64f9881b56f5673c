package up

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity/istioca"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

func caWorkload(name, account, node string) *mesh.Workload {
	return &mesh.Workload{
		UID: name, Name: name, Namespace: "shop", ServiceAccount: account, TrustDomain: mesh.DefaultTrustDomain, Node: node,
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 70, 0, byte(len(name))})}, Ready: true,
	}
}

// tokenFiles lists the token files below dir.
func tokenFiles(t *testing.T, dir string) (out []string) {
	t.Helper()
	for _, top := range []string{tokensDir, nodeTokensDir} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(out)
	return out
}

func TestAuthorityTokens(t *testing.T) {
	store := source.NewStore()
	store.Publish(mesh.Parts{Workloads: []*mesh.Workload{caWorkload("a", "web", "n1"), caWorkload("bb", "db", "n2"), caWorkload("ccc", "../../evil", "..")}})
	dir := t.TempDir()
	a, err := newAuthority(Options{State: dir, CA: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}, t.TempDir(), store)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	now := time.Now()
	if err := a.tend(now); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tokenFiles(t, dir), " "); got != "node-tokens/n1 node-tokens/n2 tokens/shop/db tokens/shop/web" {
		t.Errorf("token files: %s", got)
	}
	read := func() string {
		text, err := os.ReadFile(filepath.Join(dir, "tokens/shop/web"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	first := read()
	web := mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: "shop", ServiceAccount: "web"}
	if c, err := a.tokens.Check(first, now); err != nil || c.Identity != web {
		t.Errorf("the token of web is of %v, %v", c, err)
	}
	if err := a.tend(now.Add(istioca.TokenTTL/2 - time.Minute)); err != nil || read() != first {
		t.Errorf("the token was replaced too early (%v)", err)
	}
	if err := a.tend(now.Add(istioca.TokenTTL / 2)); err != nil || read() == first {
		t.Errorf("the token was not replaced at half of its life (%v)", err)
	}
	store.Publish(mesh.Parts{Workloads: []*mesh.Workload{caWorkload("a", "web", "n1")}})
	if err := a.tend(now); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tokenFiles(t, dir), " "); got != "node-tokens/n1 tokens/shop/web" {
		t.Errorf("token files after the others have gone: %s", got)
	}
}

func TestMayImpersonate(t *testing.T) {
	store := source.NewStore()
	store.Publish(mesh.Parts{Workloads: []*mesh.Workload{caWorkload("a", "web", "n1"), caWorkload("bb", "db", "n2")}})
	a := &authority{store: store}
	id := func(ns, sa string) mesh.Identity {
		return mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: ns, ServiceAccount: sa}
	}
	node := id(nodeProxyNamespace, nodeProxyAccount)
	for name, tt := range map[string]struct {
		caller istioca.Caller
		id     mesh.Identity
		ok     bool
	}{
		"own-node":     {istioca.Caller{Identity: node, Node: "n1"}, id("shop", "web"), true},
		"other-node":   {istioca.Caller{Identity: node, Node: "n1"}, id("shop", "db"), false},
		"no-node":      {istioca.Caller{Identity: node}, id("shop", "web"), false},
		"workload":     {istioca.Caller{Identity: id("shop", "web"), Node: "n1"}, id("shop", "web"), false},
		"account-else": {istioca.Caller{Identity: id("shop", nodeProxyAccount), Node: "n1"}, id("shop", "web"), false},
		"unknown":      {istioca.Caller{Identity: node, Node: "n1"}, id("shop", "x"), false},
		"other-domain": {istioca.Caller{Identity: node, Node: "n1"}, mesh.Identity{TrustDomain: "x", Namespace: "shop", ServiceAccount: "web"}, false},
	} {
		if err := a.mayImpersonate(tt.caller, tt.id); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKnown: who has left the mesh gets no certificate any more, whatever it still holds.
func TestKnown(t *testing.T) {
	id := func(ns, sa string) mesh.Identity {
		return mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: ns, ServiceAccount: sa}
	}
	store := source.NewStore()
	store.Publish(mesh.Parts{
		Workloads: []*mesh.Workload{caWorkload("a", "web", "n1")},
		Waypoints: []*mesh.Waypoint{{Name: mesh.Name{Namespace: "shop", Name: "wp"}, Identity: id("shop", "wp")}},
	})
	a, node := &authority{store: store}, id(nodeProxyNamespace, nodeProxyAccount)
	for name, tt := range map[string]struct {
		caller istioca.Caller
		ok     bool
	}{
		"workload":    {istioca.Caller{Identity: id("shop", "web")}, true},
		"waypoint":    {istioca.Caller{Identity: id("shop", "wp")}, true},
		"node":        {istioca.Caller{Identity: node, Node: "n1"}, true},
		"gone":        {istioca.Caller{Identity: id("shop", "db")}, false},
		"namespace":   {istioca.Caller{Identity: id("else", "web")}, false},
		"node-gone":   {istioca.Caller{Identity: node, Node: "n2"}, false},
		"node-proxys": {istioca.Caller{Identity: node}, false},
	} {
		if err := a.known(tt.caller); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAuthorityState: the next run has the same root; without a folder nothing is written.
func TestAuthorityState(t *testing.T) {
	state, scratch := filepath.Join(t.TempDir(), "state"), t.TempDir()
	open := func(o Options) string {
		o.Log = slog.New(slog.DiscardHandler)
		a, err := newAuthority(o, scratch, source.NewStore())
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		return string(a.ca.RootPEM())
	}
	if first, second := open(Options{State: state}), open(Options{State: state}); first != second {
		t.Error("the root is another in the next run")
	}
	if first, second := open(Options{}), open(Options{}); first == second {
		t.Error("two meshes without a folder share a root")
	}
	if left, _ := os.ReadDir(scratch); len(left) != 0 {
		t.Errorf("written: %v", left)
	}
}
