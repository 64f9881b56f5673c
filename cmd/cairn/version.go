package main

import (
	"crypto/fips140"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker: make build.
var version string

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  cairn version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "cairn %s %s %s/%s\nFIPS 140-3 mode: %s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH, fipsMode())
			return err
		},
	}
}

// buildVersion is the linker's version, else the module's, else "dev".
func buildVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "dev"
}

// fipsMode says whether Go's cryptographic module works in FIPS 140-3 mode, which
// one it is, and whether everything that is not approved is refused.
func fipsMode() string {
	if !fips140.Enabled() {
		return "off"
	}
	mode := "on"
	if fips140.Enforced() {
		mode = "only"
	}
	if v := fips140.Version(); v != "" {
		mode += ", Go Cryptographic Module " + v
	}
	return mode
}
