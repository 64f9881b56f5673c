package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

// caFlags are the flags of `cairn ca`.
type caFlags struct{ state, trustDomain string }

func (f *caFlags) add(cmd *cobra.Command) {
	requiredFlag(cmd, &f.state, "state", "the folder of the certificate authority, as for cairn up")
	cmd.Flags().StringVar(&f.trustDomain, "trust-domain", mesh.DefaultTrustDomain, "its trust domain")
}

func newCACommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Look after the certificate authority of cairn up --state",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCAStatusCommand(), newCARotateCommand(), newCARevokeCommand())
	return cmd
}

func newCAStatusCommand() *cobra.Command {
	f := &caFlags{}
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "List the roots: which one signs, and until when each is trusted",
		Example: "  cairn ca status --state ~/.cairn/mesh",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, err := identity.LoadCA(f.state, f.trustDomain)
			if err != nil {
				return err
			}
			return printRoots(cmd.OutOrStdout(), ca, time.Now())
		},
	}
	f.add(cmd)
	return cmd
}

func newCARotateCommand() *cobra.Command {
	f := &caFlags{}
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root, in two phases in which nobody is refused",
		Long: `Makes a new root. It is trusted at once by everything that is issued from now
on, and signs once all certificates from before are over, so that everybody trusts it
by then. The old root is trusted until all that it signed is over, and is
then forgotten with its key. Each phase takes as long as the longest
certificate lives. A running "cairn up --state" of the same folder follows.`,
		Example: "  cairn ca rotate --state ~/.cairn/mesh",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ca, err := identity.LoadCA(f.state, f.trustDomain)
			if err != nil {
				return err
			}
			if err := ca.Rotate(); err != nil {
				return fmt.Errorf("rotating the root: %w", err)
			}
			return printRoots(cmd.OutOrStdout(), ca, time.Now())
		},
	}
	f.add(cmd)
	return cmd
}

func printRoots(w io.Writer, ca *identity.CA, now time.Time) error {
	roots, err := ca.Roots()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROOT\tSTATE\tSIGNS FROM\tTRUSTED UNTIL")
	for _, r := range roots {
		state, until := "trusted, signs no more", r.NotAfter
		switch {
		case !r.Retires.IsZero() && !now.Before(r.Retires):
			state = "retired"
		case r.Signs:
			state = "signs"
		case now.Before(r.SignsFrom):
			state = "trusted, signs later"
		}
		if !r.Retires.IsZero() {
			until = r.Retires
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Name, state, r.SignsFrom.UTC().Format(time.RFC3339), until.UTC().Format(time.RFC3339))
	}
	return t.Flush()
}
