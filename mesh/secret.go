package mesh

import (
	"fmt"
	"io"
)

// hidden stands for a Secret wherever somebody might read it.
const hidden = "[hidden]"

// Secret is what must not be seen: it is hidden from fmt, logs, JSON and YAML. gob, in which
// proxies of `cairn up` get their snapshots over a socket of their own, carries it as it is.
type Secret []byte

// Format hides the secret from all verbs of package fmt.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// String hides the secret.
func (Secret) String() string { return hidden }

// MarshalText hides the secret from JSON, YAML and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }
