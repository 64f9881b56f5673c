package up

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/identity/istioca"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

// Names inside the state's folder, beside those of identity.CA.
const (
	tokensDir     = "tokens"      // NAMESPACE/SERVICEACCOUNT
	nodeTokensDir = "node-tokens" // NODE
)

// nodeProxy is the service account by which node proxies of other processes
// ask for their workloads' certificates, as in Istio's charts.
const (
	nodeProxyNamespace = "istio-system"
	nodeProxyAccount   = "ztunnel"
)

// authority is the mesh's CA and, if that is asked for, its service for proxies
// that the user runs: Istio's API, and a token for each service account.
type authority struct {
	ca     *identity.CA
	ttl    time.Duration
	dir    string // of the state; "" if all is in memory
	store  *source.Store
	log    *slog.Logger
	tokens *istioca.Tokens
	ln     net.Listener // nil: no service

	written map[string]time.Time // token files, by path below dir
	synced  *mesh.Snapshot       // for which tokens were written
}

// newAuthority opens the CA in o.State, or else makes one that lives as long as
// the mesh. With o.CA it listens.
func newAuthority(o Options, dir string, store *source.Store) (*authority, error) {
	a := &authority{ttl: o.CertTTL, dir: o.State, store: store, log: o.Log, written: map[string]time.Time{}}
	if a.dir == "" && o.CA != "" {
		a.dir = filepath.Join(dir, "ca")
	}
	var err error
	if a.dir == "" {
		a.ca, err = identity.NewCA(mesh.DefaultTrustDomain)
	} else {
		a.ca, err = identity.OpenCA(a.dir, mesh.DefaultTrustDomain)
	}
	if err != nil {
		return nil, fmt.Errorf("making the mesh's certificate authority: %w", err)
	}
	if o.CA == "" {
		return a, nil
	}
	a.tokens = istioca.NewTokens(a.ca.TokenKey(), mesh.DefaultTrustDomain)
	if a.ln, err = net.Listen("tcp", o.CA); err != nil {
		return nil, fmt.Errorf("serving certificates (choose another address with --ca): %w", err)
	}
	return a, nil
}

// issuer is what the mesh's own proxies get certificates from.
func (a *authority) issuer() identity.Issuer { return a.ca.Issuer(a.ttl) }

// serve answers requests until ctx ends.
func (a *authority) serve(ctx context.Context) error {
	if a.ln == nil {
		return nil
	}
	host, _, err := net.SplitHostPort(a.ln.Addr().String())
	if err != nil {
		return fmt.Errorf("serving certificates: %w", err)
	}
	s := istioca.NewServer(istioca.ServerOptions{
		CA: a.ca, Tokens: a.tokens, TTL: a.ttl, Log: a.log, MayImpersonate: a.mayImpersonate, Known: a.known,
		// The last is the name that Istio's proxies demand when nothing else is said.
		Hosts: []string{host, "localhost", "istiod.istio-system.svc"},
	})
	return s.Serve(ctx, a.ln)
}

// close ends a service that was never started.
func (a *authority) close() {
	if a.ln != nil {
		a.ln.Close()
	}
}

// describe says where certificates are served; nil if nowhere.
func (a *authority) describe() *caInfo {
	if a.ln == nil {
		return nil
	}
	return &caInfo{
		Address: a.ln.Addr().String(), Root: a.ca.RootFile(),
		Tokens: filepath.Join(a.dir, tokensDir), NodeTokens: filepath.Join(a.dir, nodeTokensDir),
	}
}

// mayImpersonate lets a node's proxy have the certificates of that node's workloads.
func (a *authority) mayImpersonate(caller istioca.Caller, id mesh.Identity) error {
	if caller.Identity.Namespace != nodeProxyNamespace || caller.Identity.ServiceAccount != nodeProxyAccount || caller.Node == "" {
		return fmt.Errorf("only node proxies may, with their token in %s", nodeTokensDir)
	}
	for _, w := range a.store.Current().Workloads {
		if w.Node == caller.Node && w.Identity() == id {
			return nil
		}
	}
	return fmt.Errorf("no workload of node %s has that identity", caller.Node)
}

// known says whether a caller is of the mesh as it is now: a token, and the certificate that
// one renews with, outlive the workload that they were for.
func (a *authority) known(caller istioca.Caller) error {
	s := a.store.Current()
	for _, w := range s.Workloads {
		if caller.Node != "" && w.Node == caller.Node || caller.Node == "" && w.Identity() == caller.Identity {
			return nil
		}
	}
	for _, w := range s.Waypoints {
		if caller.Node == "" && w.Identity == caller.Identity {
			return nil
		}
	}
	return fmt.Errorf("the mesh has no workload and no waypoint of %s", caller.Identity)
}

// tend does what is due: tokens for the current snapshot, fresh ones for those
// that are half over, and the CA's housekeeping.
func (a *authority) tend(now time.Time) error {
	err := a.ca.Tend()
	if a.tokens == nil {
		return err
	}
	return errors.Join(err, a.writeTokens(now))
}

// writeTokens makes the folders of tokens what the snapshot says.
func (a *authority) writeTokens(now time.Time) error {
	s := a.store.Current()
	want := a.callers(s)
	var errs []error
	for path, c := range want {
		if at, ok := a.written[path]; ok && now.Sub(at) < istioca.TokenTTL/2 {
			continue
		}
		token, err := a.tokens.Make(c, now, istioca.TokenTTL)
		if err == nil {
			err = writeSecret(filepath.Join(a.dir, path), token+"\n")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("writing a token: %w", err))
			continue
		}
		a.written[path] = now
	}
	if s == a.synced {
		return errors.Join(errs...)
	}
	a.synced = s
	// What an earlier run left behind goes too.
	for _, top := range []string{tokensDir, nodeTokensDir} {
		err := filepath.WalkDir(filepath.Join(a.dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(a.dir, path)
			if _, ok := want[rel]; ok || err != nil {
				return err
			}
			delete(a.written, rel)
			return os.Remove(path)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing tokens: %w", err))
		}
	}
	return errors.Join(errs...)
}

// callers are those who get a token, by the path of its file below dir.
func (a *authority) callers(s *mesh.Snapshot) map[string]istioca.Caller {
	out := map[string]istioca.Caller{}
	account := func(id mesh.Identity) {
		if path := filepath.Join(tokensDir, id.Namespace, id.ServiceAccount); plainName(id.Namespace) && plainName(id.ServiceAccount) {
			out[path] = istioca.Caller{Identity: id}
		}
	}
	for _, w := range s.Workloads {
		account(w.Identity())
		if plainName(w.Node) {
			out[filepath.Join(nodeTokensDir, w.Node)] = istioca.Caller{
				Identity: mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: nodeProxyNamespace, ServiceAccount: nodeProxyAccount},
				Node:     w.Node,
			}
		}
	}
	for _, w := range s.Waypoints {
		account(w.Identity)
	}
	return out
}

// plainName reports whether s is one element of a path and nothing else.
func plainName(s string) bool {
	return s != "" && s[0] != '.' && filepath.IsLocal(s) && filepath.Base(s) == s
}

// writeSecret replaces a file that only this user may read.
func writeSecret(path, text string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
