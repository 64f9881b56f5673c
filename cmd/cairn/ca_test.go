package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

func TestCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	cairn := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"ca"}, args...), &out, &errs)
		return code, out.String(), errs.String()
	}
	if code, _, errs := cairn("rotate"); code != exitUsage || !strings.Contains(errs, "--state is needed") {
		t.Errorf("without a folder: %d, %s", code, errs)
	}
	if code, _, errs := cairn("rotate", "--state", dir); code != exitFailed || !strings.Contains(errs, dir) {
		t.Errorf("a folder without a CA: %d, %s", code, errs)
	}
	ca, err := identity.OpenCA(dir, mesh.DefaultTrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: "a", ServiceAccount: "b"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := cairn("status", "--state", dir); code != exitGood || strings.Count(out, "\n") != 2 || !strings.Contains(out, "signs") {
		t.Errorf("status: %d, %s%s", code, out, errs)
	}
	if code, out, errs := cairn("rotate", "--state", dir); code != exitGood || strings.Count(out, "\n") != 3 || !strings.Contains(out, "trusted, signs later") {
		t.Errorf("rotate: %d, %s%s", code, out, errs)
	}
	if code, _, errs := cairn("rotate", "--state", dir); code != exitFailed || !strings.Contains(errs, "under way") {
		t.Errorf("rotate again: %d, %s", code, errs)
	}
	if code, _, errs := cairn("status", "--state", dir, "--trust-domain", "other"); code != exitFailed || !strings.Contains(errs, "other") {
		t.Errorf("another trust domain: %d, %s", code, errs)
	}
}

func TestCertFlags(t *testing.T) {
	env := func(m map[string]string) func(string) (string, bool) {
		return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
	}
	for name, tt := range map[string]struct {
		flags certFlags
		env   map[string]string
		want  string // "files", "ca", "socket", or a part of the error
		roots string
	}{
		"none":          {want: "certificates are needed"},
		"files":         {flags: certFlags{cert: "c", key: "k", root: "r"}, env: map[string]string{"CA_ADDRESS": "x:1"}, want: "files", roots: "r"},
		"no-key":        {flags: certFlags{cert: "c", root: "r"}, want: "--key is needed"},
		"ca":            {flags: certFlags{ca: "a:1"}, env: map[string]string{"SPIFFE_ENDPOINT_SOCKET": "unix:///s"}, want: "ca", roots: "/var/run/secrets/istio/root-cert.pem"},
		"ca-variable":   {env: map[string]string{"CA_ADDR": "a:1", "CA_ROOT_CA": "SYSTEM"}, want: "ca"},
		"ca-plain":      {flags: certFlags{ca: "http://a:1"}, want: "over TLS only"},
		"socket":        {flags: certFlags{socket: "unix:///s"}, env: map[string]string{"CA_ADDRESS": "a:1"}, want: "socket"},
		"socket-env":    {env: map[string]string{"SPIFFE_ENDPOINT_SOCKET": "unix:///s"}, want: "socket"},
		"socket-bad":    {flags: certFlags{socket: "/s"}, want: "want unix:///PATH"},
		"two":           {flags: certFlags{ca: "a:1", socket: "unix:///s"}, want: "give one of"},
		"files-and-one": {flags: certFlags{cert: "c", key: "k", root: "r", ca: "a:1"}, want: "give one of"},
	} {
		t.Run(name, func(t *testing.T) {
			f := tt.flags
			f.fromEnvironment(env(tt.env))
			s, err := f.open(nil)
			got := ""
			switch {
			case err != nil:
				got = err.Error()
			case s.files != nil:
				got = "files"
			case s.run != nil:
				got = "socket"
			default:
				got = "ca"
			}
			if !strings.Contains(got, tt.want) || (err == nil && f.rootsFile() != tt.roots) {
				t.Errorf("got %q with roots %q, want %q with %q", got, f.rootsFile(), tt.want, tt.roots)
			}
		})
	}
	if h := headersOf([]string{"CA_HEADER_X-A=b=c", "CA_HEADER_=x", "OTHER=1"}); len(h) != 1 || h["x-a"] != "b=c" {
		t.Errorf("headers = %v", h)
	}
}
