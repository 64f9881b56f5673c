package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// certSerial is the serial number of an account's certificate in a proxy's dump.
func certSerial(t *testing.T, admin, account string) string {
	t.Helper()
	dump, err := fetchDump(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Certificates []struct {
			Identity  string
			CertChain []struct{ SerialNumber string }
		}
	}
	if err := json.Unmarshal(dump, &d); err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Certificates {
		if strings.HasSuffix(c.Identity, "/sa/"+account) && len(c.CertChain) > 0 {
			return c.CertChain[0].SerialNumber
		}
	}
	t.Fatalf("no certificate of %s in %+v", account, d.Certificates)
	return ""
}

// openStream begins a response that goes on for two minutes.
func openStream(t *testing.T, c *http.Client, url string) io.ReadCloser {
	t.Helper()
	c.Timeout = 0
	resp, err := c.Get(url + "/stream/6000/20ms")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("stream: %v, %v", resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return resp.Body
}

// TestRevokedPeerIsCut: cairn ca revoke ends the tunnels of who presents the
// certificate, over real HBONE and through every proxy, and nobody else's.
func TestRevokedPeerIsCut(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	writeMesh(t, dir, 100, 0)
	put(t, dir, "other.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: other, namespace: shop}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: other, namespace: shop}\nspec:\n  serviceAccountName: other\n  containers: [{name: curl, image: curlimages/curl, command: [/bin/sleep, infinity]}]\n")
	m := startMesh(t, dir, "127.106.0.0/16", "--state", state, "--processes")
	url := "http://" + m.service("echo")
	bad, good := openStream(t, m.client("buyer"), url), openStream(t, m.client("other"), url)
	serial := certSerial(t, m.ready.Nodes[0].Admin, "buyer")

	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"ca", "revoke", "--state", state, serial}, &out, &errs); code != exitGood || !strings.Contains(out.String(), "revoked 0x") {
		t.Fatalf("exit code %d: %s%s", code, &out, &errs)
	}
	began := time.Now()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, bad)
		ended <- err
	}()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	select {
	case err := <-ended:
		took := time.Since(began)
		t.Logf("cut after %s: %v", took.Round(time.Millisecond), err)
		if err == nil || took > 5*time.Second {
			t.Errorf("the stream of a revoked peer ended after %s with %v", took, err)
		}
	case <-late.C:
		t.Fatal("the stream of a revoked peer goes on")
	}
	if _, err := io.ReadFull(good, make([]byte, 256)); err != nil {
		t.Errorf("another identity's stream: %v", err)
	}
	// The mesh's own CA gives the workload another certificate.
	if status, _, err := ask(t.Context(), m.client("buyer"), http.MethodGet, url+"/x"); err != nil || status != http.StatusOK {
		t.Errorf("with a new certificate: %d, %v", status, err)
	}
	if again := certSerial(t, m.ready.Nodes[0].Admin, "buyer"); again == serial {
		t.Errorf("the certificate was not renewed: %s", again)
	}
}

func TestSerialOf(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "x.pem", "nothing")
	for arg, want := range map[string]string{"15": "15", "0xF": "15", "0XfF": "255", "-3": "", "0": "", "0x": "", dir + "/x.pem": "", "nope": ""} {
		n, err := serialOf(arg)
		if (err == nil) != (want != "") || err == nil && n.String() != want {
			t.Errorf("serialOf(%q) = %v, %v; want %q", arg, n, err, want)
		}
	}
	args := certFiles(t, "ns", "sa")
	if n, err := serialOf(args[1]); err != nil || n.Sign() <= 0 {
		t.Errorf("serialOf of a certificate's file = %v, %v", n, err)
	}
}
