package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/identity"
)

func newCARevokeCommand() *cobra.Command {
	f := &caFlags{}
	cmd := &cobra.Command{
		Use:   "revoke CERTIFICATE...",
		Short: "Revoke certificates before they are over, and cut whoever presents them",
		Long: `Adds certificates to the list of those that are revoked (` + identity.CRLFile + ` in the
folder of --state). A running "cairn up --state" of the same folder cuts the
tunnels of their holders within two seconds and refuses new ones; so do proxies
that are given the list with --crl. A certificate is named by its serial number
(decimal, as "cairn config certificates" prints it, or hexadecimal after 0x, as
the log does) or by a PEM file.

Revoking takes back a certificate, not an identity: a workload that may still ask
this authority gets another one. To shut an identity out, deny it with an
AuthorizationPolicy.`,
		Example: `  cairn ca revoke --state ~/.cairn/mesh 0x5b0c1e7f
  cairn ca revoke --state ~/.cairn/mesh stolen.pem`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var serials []*big.Int
			for _, a := range args {
				n, err := serialOf(a)
				if err != nil {
					return err
				}
				serials = append(serials, n)
			}
			ca, err := identity.LoadCA(f.state, f.trustDomain)
			if err != nil {
				return err
			}
			if err := ca.Revoke(serials...); err != nil {
				return err
			}
			for _, n := range serials {
				fmt.Fprintf(cmd.OutOrStdout(), "revoked %#x in %s\n", n, ca.CRLPath())
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

// serialOf reads a serial number, or takes that of the first certificate in a PEM file.
func serialOf(arg string) (*big.Int, error) {
	digits, base := arg, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(arg), "0x"); ok {
		digits, base = hex, 16
	}
	if n, ok := new(big.Int).SetString(digits, base); ok && n.Sign() > 0 {
		return n, nil
	}
	text, err := os.ReadFile(arg)
	if err != nil {
		return nil, &usageError{fmt.Errorf("%q is neither a serial number (decimal, or hexadecimal after 0x) nor a file: %w", arg, err)}
	}
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, &usageError{fmt.Errorf("%s does not begin with a PEM block of type CERTIFICATE", arg)}
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", arg, err)
	}
	return c.SerialNumber, nil
}
