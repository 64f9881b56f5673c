package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
)

// The module that holds the manifests of Gateway API's own conformance suite,
// and its hash as go.sum has it. It is data here: nothing of it is built.
const (
	gatewayModule = "sigs.k8s.io/gateway-api/conformance@v1.6.3"
	gatewaySum    = "h1:UxhSb1GrDsyl+PdKe3g8a/BFWgP6hzy2PPFmZRgqeMQ="
)

// GatewaySuite returns the folder of Gateway API's conformance suite, from the
// module cache or, the first time, from the module proxy.
func GatewaySuite(ctx context.Context) (string, error) {
	dir, err := Home()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", gatewayModule)
	cmd.Dir = dir
	out, err := cmd.Output()
	var m struct{ Dir, Sum, Error string }
	if e := json.Unmarshal(out, &m); err == nil && e != nil {
		err = e
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("getting %s: %w: %s", gatewayModule, err, m.Error)
	case m.Sum != gatewaySum:
		return "", fmt.Errorf("getting %s: its hash is %s, pinned is %s", gatewayModule, m.Sum, gatewaySum)
	}
	return m.Dir, nil
}
