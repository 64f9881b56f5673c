package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/explain/offline"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/file"
	"cairnproxy.dev/cairn/source/object"
	"cairnproxy.dev/cairn/telemetry/decision"
	"cairnproxy.dev/cairn/up"
)

// explainFlags are the flags of `cairn explain`.
type explainFlags struct {
	admin, files []string
	asJSON       bool
	enrol        bool
	addresses    string

	id string

	from, method, host, path, claims, source string
	headers                                  []string

	record, refused bool
	last            int

	replay     string
	candidates []string
}

func newExplainCommand() *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why a request is let pass or refused, and where it goes",
		Long: `Explains a request: each policy and rule with what it says and the first of its
conditions that does not hold, the route and why it is that one, the backends.

  --request-id  one of the past, which a waypoint that runs has a record of: the
                id is in the x-request-id of every refusal and in the access log
  --from --host a request that is made up: with -f as manifests would have it,
                from the client's node proxy to the endpoint's; without -f as a
                waypoint that runs would
  --record      prints the records of waypoints that run, a JSON object a line
  --replay      judges such records, or an access log in JSON, by other policies:
                those of --candidate in place of those of -f, and says what
                changes; exits 1 if anything does

Waypoints that run are found by their admin ports (15000) on this machine.`,
		Example: `  cairn explain --request-id 550e8400-e29b-41d4-a716-446655440000
  cairn explain -f manifests/ --from shop/web --host reviews --path /reviews/7
  cairn explain --record > records.jsonl
  cairn explain --replay records.jsonl -f manifests/ --candidate new-policy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.admin, "admin", nil, "a waypoint's admin address, HOST:PORT; may be given more than once (default: all on this machine)")
	fl.StringSliceVarP(&f.files, "filename", "f", nil, "folder or file with manifests; may be given more than once")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON")
	fl.BoolVar(&f.enrol, "enrol", true, "enrol namespaces that carry no istio.io/dataplane-mode label")
	fl.StringVar(&f.addresses, "range", up.DefaultRange.String(), "with -f: where the addresses of services and pods are from, as for cairn up")
	fl.StringVar(&f.id, "request-id", "", "explain the request with this id")
	fl.StringVar(&f.from, "from", "", "the client: NAMESPACE/SERVICEACCOUNT, or \"none\" for one without identity")
	fl.StringVar(&f.method, "method", "GET", "the method of the request")
	fl.StringVar(&f.host, "host", "", "the host that the client asks for, with its port: a service's name, or IP:PORT")
	fl.StringVar(&f.path, "path", "/", "the path, with its query")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "a header field, NAME:VALUE; may be given more than once")
	fl.StringVar(&f.claims, "claims", "", "the claims of the request's token, a JSON object; the token is taken for valid")
	fl.StringVar(&f.source, "source-ip", "", "the client's address (default: that of a pod of its account)")
	fl.BoolVar(&f.record, "record", false, "print the records of the last requests")
	fl.IntVar(&f.last, "last", 0, "with --record: how many of each waypoint (default all)")
	fl.BoolVar(&f.refused, "refused", false, "with --record: only those that policies refused")
	fl.StringVar(&f.replay, "replay", "", "judge the records of this file, \"-\" for stdin")
	fl.StringSliceVar(&f.candidates, "candidate", nil, "with --replay: the policies that are to be tried; may be given more than once")
	return cmd
}

func (f *explainFlags) run(ctx context.Context, w io.Writer) error {
	asked := 0
	for _, yes := range []bool{f.id != "", f.host != "", f.record, f.replay != ""} {
		if yes {
			asked++
		}
	}
	if asked != 1 {
		return &usageError{errors.New("give one of --request-id, --host (with --from), --record and --replay")}
	}
	switch {
	case f.id != "":
		return f.past(ctx, w)
	case f.record:
		return f.records(ctx, w)
	case f.replay != "":
		return f.compare(w)
	}
	q, from, err := f.question()
	if err != nil {
		return &usageError{err}
	}
	if len(f.files) == 0 {
		return f.online(ctx, w, q, from)
	}
	parts, err := f.parts(f.files, nil)
	if err != nil {
		return err
	}
	e, err := offline.New(parts).Explain(q, from)
	if err != nil {
		return err
	}
	return f.print(w, []*explain.Explanation{e})
}

// question reads the flags of a request that is made up.
func (f *explainFlags) question() (explain.Question, offline.Client, error) {
	q := explain.Question{Method: f.method, Host: f.host, Path: f.path}
	var from offline.Client
	ns, sa, ok := strings.Cut(f.from, "/")
	switch {
	case f.from == "none":
	case !ok || ns == "" || sa == "" || strings.Contains(sa, "/"):
		return q, from, fmt.Errorf("--from %q: want NAMESPACE/SERVICEACCOUNT, or none", f.from)
	default:
		from = offline.Client{Namespace: ns, ServiceAccount: sa}
	}
	if !strings.HasPrefix(f.path, "/") {
		return q, from, fmt.Errorf("--path %q: it begins with /", f.path)
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return q, from, fmt.Errorf("--header %q: want NAME:VALUE", h)
		}
		q.Headers = append(q.Headers, explain.Header{Name: strings.ToLower(name), Value: strings.TrimSpace(value)})
	}
	if f.claims != "" {
		if err := json.Unmarshal([]byte(f.claims), &q.Claims); err != nil || q.Claims == nil {
			return q, from, fmt.Errorf("--claims %q: want a JSON object", f.claims)
		}
	}
	if f.source != "" {
		a, err := netip.ParseAddr(f.source)
		if err != nil {
			return q, from, fmt.Errorf("--source-ip %q: want an IP address", f.source)
		}
		q.Source = netip.AddrPortFrom(a, 0)
	}
	return q, from, nil
}

// parts reads manifests, with those of over in their place.
func (f *explainFlags) parts(paths, over []string) (mesh.Parts, error) {
	prefix, err := netip.ParsePrefix(f.addresses)
	if err != nil {
		return mesh.Parts{}, &usageError{fmt.Errorf("--range %q: want a prefix like 127.70.0.0/16", f.addresses)}
	}
	alloc, err := up.NewLoopback(prefix)
	if err != nil {
		return mesh.Parts{}, &usageError{fmt.Errorf("--range: %w", err)}
	}
	res := file.LoadWith(paths, over, object.Options{Enrol: f.enrol, Allocator: alloc})
	refused := res.Refused()
	if len(paths) == 0 { // policies alone: that what they are for is not there is no mistake
		refused = slices.DeleteFunc(refused, func(p source.Problem) bool {
			return strings.HasPrefix(p.Field, "spec.targetRef") && strings.Contains(p.Message, "does not exist")
		})
	}
	if len(refused) > 0 {
		return mesh.Parts{}, problemsError(refused)
	}
	return res.Parts, nil
}

// compare replays records.
func (f *explainFlags) compare(w io.Writer) error {
	if len(f.candidates) == 0 {
		return &usageError{errors.New("--replay needs --candidate: the policies that are to be tried")}
	}
	p := offline.Replay{Before: offline.Recorded}
	after, err := f.parts(f.files, f.candidates)
	switch {
	case err != nil:
		return err
	case len(f.files) == 0:
		p.After = offline.Alone(after)
	default:
		before, err := f.parts(f.files, nil)
		if err != nil {
			return err
		}
		p.Before, p.After = offline.New(before).Manifests, offline.New(after).Manifests
	}
	in := io.Reader(os.Stdin)
	if f.replay != "-" {
		file, err := os.Open(f.replay)
		if err != nil {
			return fmt.Errorf("reading the records: %w", err)
		}
		defer file.Close()
		in = file
	}
	if err := decision.Read(in, p.Add); err != nil {
		return fmt.Errorf("reading %s: %w", f.replay, err)
	}
	r := p.Report()
	if f.asJSON {
		err = writeJSON(w, r)
	} else {
		err = r.WriteText(w)
	}
	if err == nil && len(r.Changes) > 0 {
		err = &reportedError{}
	}
	return err
}

func (f *explainFlags) print(w io.Writer, list []*explain.Explanation) error {
	if f.asJSON {
		return writeJSON(w, list)
	}
	for i, e := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := e.WriteText(w); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
