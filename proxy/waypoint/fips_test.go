package waypoint

import (
	"crypto/fips140"
	"os"
	"os/exec"
	"testing"
)

// TestFIPSOnly runs what uses cryptography in other ways than requests do again,
// where nothing but FIPS 140-3's algorithms is allowed: WebSocket keys, and TLS to endpoints.
func TestFIPSOnly(t *testing.T) {
	if fips140.Enforced() {
		t.Skip("it is so already")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^Test(ExtendedConnectToHTTP1|WebSocketToHTTP2|TLSOrigination|RequestsBetweenProtocols|TLSPassthrough)$", "-test.count=1")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}
