package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestFIPS: in FIPS 140-3 mode, and where nothing else is allowed, a mesh starts,
// carries requests over tunnels and enforces its policies.
func TestFIPS(t *testing.T) {
	for i, mode := range []string{"on", "only"} {
		t.Run(mode, func(t *testing.T) {
			t.Setenv("GODEBUG", "fips140="+mode)
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(self, "version").Output()
			if err != nil || !strings.Contains(string(out), "FIPS 140-3 mode: "+mode+",") {
				t.Errorf("version: %v\n%s", err, out)
			}
			dir := t.TempDir()
			writeMesh(t, dir, 100, 0)
			m := startMesh(t, dir, []string{"127.94.0.0/16", "127.95.0.0/16"}[i])
			buyer, url := m.client("buyer"), "http://"+m.service("echo")+"/x"
			if status, pod, err := ask(t.Context(), buyer, http.MethodGet, url); err != nil || status != http.StatusOK || pod != "echo-1" {
				t.Errorf("GET: status %d from %q, %v; want 200 from echo-1", status, pod, err)
			}
			if status, _, err := ask(t.Context(), buyer, http.MethodDelete, url); err != nil || status != http.StatusForbidden {
				t.Errorf("DELETE: status %d, %v, want 403", status, err)
			}
			if code := m.stop(); code != exitGood {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
