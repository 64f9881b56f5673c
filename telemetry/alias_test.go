package telemetry

import "unsafe"

// aliasString is how data-path code views pooled bytes as a string.
func aliasString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
