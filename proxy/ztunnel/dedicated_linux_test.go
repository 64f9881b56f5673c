package ztunnel

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairnproxy.dev/cairn/host"
	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/internal/logbuf"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/telemetry"
)

// TestMain is also the program that the dedicated proxies of TestDedicated run.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CAIRN_TEST_DEDICATED"); dir != "" {
		if err := runDedicated(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runDedicated runs one proxy as ztunnel's environment says, with the
// certificate files in dir, in the network namespace it is in.
func runDedicated(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	env, err := FromEnvironment(os.Environ())
	if err != nil {
		return err
	}
	store := source.NewStore()
	store.Publish(dedicatedParts())
	files := identity.NewFiles(filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "root"))
	o := env.Options
	o.Snapshots, o.Certificates = store, identity.NewCache(files, identity.CacheOptions{})
	o.AccessLog = telemetry.NewWriter(os.Stderr, telemetry.WriterOptions{})
	p, err := New(o)
	if err != nil {
		return err
	}
	go func() {
		<-p.Ready()
		fmt.Println("ready")
	}()
	err = p.Run(ctx)
	return errors.Join(err, o.AccessLog.Close())
}

func dedicatedParts() mesh.Parts {
	server := pod("ns", "server", "10.73.0.2")
	return mesh.Parts{
		Workloads: []*mesh.Workload{pod("ns", "client", "10.73.0.1"), server},
		Services:  []*mesh.Service{svcOf("ns", "echo", "10.96.0.1", server)},
	}
}

// writeCerts puts a certificate of ns/NAME into a new folder.
func writeCerts(t *testing.T, ca *identity.CA, name string) string {
	t.Helper()
	c, err := ca.Issue(mesh.Identity{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: name}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range c.Certificate.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	dir := t.TempDir()
	for file, b := range map[string][]byte{"cert": chain, "root": c.RootPEM, "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestDedicated runs a process per pod, inside the pod, as `cairn ztunnel` does.
func TestDedicated(t *testing.T) {
	lab, err := host.NewLab()
	if errors.Is(err, host.ErrPermission) {
		t.Skip("skipped: network namespaces need root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lab.Close() })
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	w := &podWorld{world: &world{t: t}, lab: lab, pods: map[string]*host.Pod{}}
	n := w.node("n1")
	logs := map[string]*logbuf.Buffer{}
	procs := map[string]*host.Process{}
	for name, addr := range map[string]string{"client": "10.73.0.1", "server": "10.73.0.2"} {
		w.pod(n, name, addr)
		if err := w.pods[name].Namespace().Redirect(host.DefaultRedirection()); err != nil {
			t.Fatal(err)
		}
		out := &logbuf.Buffer{}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CAIRN_TEST_DEDICATED="+writeCerts(t, ca, name), "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=ns/"+name+"/"+name,
			"LOCAL_XDS_PATH=built-in", "XDS_ADDRESS=", "PACKET_MARK=1337", "ENABLE_ORIG_SRC=true", "CONNECTION_TERMINATION_DEADLINE=1s")
		cmd.Stdout, cmd.Stderr = out, out
		p, err := w.pods[name].Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); p.Wait() })
		logs[name], procs[name] = out, p
	}
	for _, l := range logs {
		w.until(func() bool { return strings.Contains(l.String(), "ready") })
	}
	for _, url := range []string{"http://echo/", "http://10.96.0.1/", "http://10.73.0.2:8080/"} {
		if got, err := w.curl("client", url); err != nil || got != "server saw 10.73.0.1" {
			t.Errorf("%s: got %q, %v", url, got, err)
		}
	}
	if got, err := w.get(n.Namespace(), netip.Addr{}, "10.73.0.2:8080"); err != nil || !strings.HasPrefix(got, "server saw ") {
		t.Errorf("plain text: got %q, %v", got, err)
	}
	for name, p := range procs {
		_ = p.Cmd.Process.Signal(syscall.SIGTERM)
		if err := p.Wait(); err != nil {
			t.Errorf("%s ended with %v:\n%s", name, err, logs[name])
		}
	}
	if log := logs["server"].String(); !bytes.Contains([]byte(log), []byte(`src.identity="spiffe://cluster.local/ns/ns/sa/client"`)) {
		t.Errorf("the server's log does not know the client:\n%s", log)
	}
}
