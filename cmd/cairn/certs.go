package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/identity/istioca"
	"cairnproxy.dev/cairn/identity/spiffe"
	"cairnproxy.dev/cairn/mesh"
)

// certFlags say where a proxy gets its certificates from: files, a CA of
// Istio's API, or the SPIFFE Workload API.
type certFlags struct {
	cert, key, root              string
	ca, caToken, caRoot, cluster string
	socket                       string
	ttl                          time.Duration
	headers                      map[string]string
}

func (f *certFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.cert, "cert", "", "file with the certificate chain, PEM; read again when it changes")
	fl.StringVar(&f.key, "key", "", "file with its private key, PEM")
	fl.StringVar(&f.root, "root", "", "file with the trusted roots, PEM")
	fl.StringVar(&f.ca, "ca", "", "instead of files: the CA to ask, HOST:PORT (istiod, or cairn up --ca); default $CA_ADDRESS or $CA_ADDR")
	fl.StringVar(&f.caToken, "ca-token", "", "file with the token for the CA; read for each request (default "+istioca.DefaultTokenFile+")")
	fl.StringVar(&f.caRoot, "ca-root", "", `file with the roots that the CA's own certificate is trusted by, or "SYSTEM" (default `+istioca.DefaultRootFile+")")
	fl.StringVar(&f.socket, "spiffe-socket", "", "instead of both: the SPIFFE Workload API, as unix:///PATH (default $SPIFFE_ENDPOINT_SOCKET)")
}

// fromEnvironment fills in what no flag says. A flag that names a source wins
// over all variables.
func (f *certFlags) fromEnvironment(get func(string) (string, bool)) {
	text := func(to *string, names ...string) {
		for _, name := range names {
			if v, ok := get(name); ok && *to == "" {
				*to = v
			}
		}
	}
	if f.cert+f.key+f.root+f.ca+f.socket == "" {
		text(&f.ca, "CA_ADDRESS", "CA_ADDR")
		if f.ca == "" {
			text(&f.socket, "SPIFFE_ENDPOINT_SOCKET")
		}
	}
	text(&f.caToken, "AUTH_TOKEN")
	text(&f.caRoot, "CA_ROOT_CA")
	text(&f.cluster, "ISTIO_META_CLUSTER_ID", "CLUSTER_ID")
	if f.caToken == "" {
		f.caToken = istioca.DefaultTokenFile
	}
	if f.caRoot == "" {
		f.caRoot = istioca.DefaultRootFile
	}
}

// headersOf are the variables CA_HEADER_NAME=VALUE, sent with each request.
func headersOf(environ []string) map[string]string {
	out := map[string]string{}
	for _, e := range environ {
		if rest, ok := strings.CutPrefix(e, "CA_HEADER_"); ok {
			if name, value, ok := strings.Cut(rest, "="); ok && name != "" {
				out[strings.ToLower(name)] = value
			}
		}
	}
	return out
}

// certSource is an opened source of certificates.
type certSource struct {
	issuer identity.Issuer
	// files is set if that is what they come from.
	files *identity.Files
	// run follows the source until ctx ends; nil if there is nothing to follow.
	run   func(ctx context.Context) error
	close func()
}

// open opens the one source that f names.
func (f *certFlags) open(log *slog.Logger) (*certSource, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	switch {
	case f.socket != "":
		c, err := spiffe.New(f.socket, log)
		if err != nil {
			return nil, &usageError{err}
		}
		return &certSource{issuer: c, run: c.Run, close: func() {}}, nil
	case f.ca != "":
		c, err := istioca.NewClient(istioca.ClientOptions{
			Address: f.ca, TokenFile: f.caToken, RootFile: f.caRoot, ClusterID: f.cluster, TTL: f.ttl, Headers: f.headers,
		})
		if err != nil {
			return nil, &usageError{err}
		}
		return &certSource{issuer: c, close: func() { _ = c.Close() }}, nil
	}
	for _, x := range []struct{ flag, value string }{{"cert", f.cert}, {"key", f.key}, {"root", f.root}} {
		if x.value == "" {
			return nil, &usageError{fmt.Errorf("--%s is needed beside the other files", x.flag)}
		}
	}
	c := identity.NewFiles(f.cert, f.key, f.root)
	return &certSource{issuer: c, files: c, close: func() {}}, nil
}

// check says that there is not one place to get certificates from.
func (f *certFlags) check() error {
	files := f.cert != "" || f.key != "" || f.root != ""
	n := 0
	for _, given := range []bool{files, f.ca != "", f.socket != ""} {
		if given {
			n++
		}
	}
	switch n {
	case 0:
		return &usageError{errors.New("certificates are needed: --cert, --key and --root (files), --ca (istiod, or cairn up --ca), or --spiffe-socket")}
	case 1:
		return nil
	}
	return &usageError{errors.New("give one of: files (--cert, --key, --root), --ca, --spiffe-socket")}
}

// rootsFile is the file with roots that f names, "" if there is none.
func (f *certFlags) rootsFile() string {
	switch {
	case f.socket != "" || f.caRoot == "SYSTEM":
		return ""
	case f.ca != "":
		return f.caRoot
	}
	return f.root
}

// load reads the files, if that is where certificates come from: what is wrong with
// them is told before anything listens. Otherwise it returns nil.
func (c *certSource) load() (*identity.Cert, error) {
	if c.files == nil {
		return nil, nil
	}
	return c.files.Load()
}

// follow is the part of the source that runs beside the proxy.
func (c *certSource) follow(ctx context.Context) error {
	if c.run == nil {
		return nil
	}
	return c.run(ctx)
}

// before makes proxy start only once there is a certificate of id: a proxy that
// cannot prove who it is has nothing to serve. The cache logs why there is none
// yet and tries again.
func (c *certSource) before(proxy func(context.Context) error, cache *identity.Cache, id mesh.Identity) func(context.Context) error {
	if c.files != nil {
		return proxy // load has looked at them
	}
	return func(ctx context.Context) error {
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			if _, err := cache.Get(ctx, id); err == nil {
				return proxy(ctx)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-t.C:
			}
		}
	}
}

// lookupEnv is os.LookupEnv without what is empty.
func lookupEnv(name string) (string, bool) {
	v := os.Getenv(name)
	return v, v != ""
}
