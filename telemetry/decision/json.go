package decision

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// line is a Record as JSON has it. The access log's spelling is read as well: null for what is not known, "-"
// for no flags, addresses as texts.
type line struct {
	Start       time.Time `json:"start_time,omitzero"`
	DurationMs  float64   `json:"duration"`
	Config      uint64    `json:"config,omitempty"`
	RequestID   string    `json:"request_id"`
	Method      string    `json:"method"`
	Host        string    `json:"authority"`
	Path        string    `json:"path"`
	Protocol    string    `json:"protocol"`
	Principal   string    `json:"source_principal,omitempty"`
	Source      string    `json:"downstream_remote_address,omitempty"`
	Destination string    `json:"downstream_local_address,omitempty"`
	Status      int       `json:"response_code"`
	Local       bool      `json:"local,omitempty"`
	Flags       string    `json:"response_flags,omitempty"`
	Details     string    `json:"response_code_details,omitempty"`
	DryRun      string    `json:"dry_run,omitempty"`
	Service     string    `json:"service,omitempty"`
	Rule        string    `json:"route_name,omitempty"`
	Cluster     string    `json:"upstream_cluster,omitempty"`
	Endpoint    string    `json:"upstream_host,omitempty"`
	Cut         bool      `json:"cut,omitempty"`

	Headers map[string]*string `json:"headers,omitempty"`
}

const scheme = "spiffe://"

// MarshalJSON writes r with the access log's keys.
func (r Record) MarshalJSON() ([]byte, error) {
	l := line{
		Start: r.Start, DurationMs: float64(r.Duration.Microseconds()) / 1000, Config: r.Config, RequestID: r.RequestID,
		Method: r.Method, Host: r.Host, Path: r.Path, Protocol: "HTTP/1.1", Status: r.Status, Local: r.Local, Flags: r.Flags,
		Details: r.Details, DryRun: r.DryRun, Service: r.Service, Headers: r.Headers, Rule: r.Rule, Cluster: r.Cluster, Cut: r.Cut,
		Source: text(r.Source), Destination: text(r.Destination), Endpoint: text(r.Endpoint),
	}
	if r.Proto == 2 {
		l.Protocol = "HTTP/2"
	}
	if r.Principal != "" {
		l.Principal = scheme + r.Principal
	}
	return json.Marshal(l)
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// UnmarshalJSON reads a record, or a line of the JSON access log.
func (r *Record) UnmarshalJSON(b []byte) error {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return err
	}
	*r = Record{
		Start: l.Start, Duration: time.Duration(l.DurationMs * float64(time.Millisecond)), Config: l.Config, RequestID: l.RequestID,
		Method: l.Method, Host: l.Host, Path: l.Path, Proto: 1, Principal: strings.TrimPrefix(l.Principal, scheme),
		Status: l.Status, Local: l.Local, Flags: l.Flags, Details: l.Details, DryRun: l.DryRun, Service: l.Service, Headers: l.Headers, Rule: l.Rule, Cluster: l.Cluster, Cut: l.Cut,
	}
	if l.Protocol == "HTTP/2" {
		r.Proto = 2
	}
	if r.Flags == "-" {
		r.Flags = ""
	}
	for _, a := range []struct {
		key, text string
		to        *netip.AddrPort
	}{{"downstream_remote_address", l.Source, &r.Source}, {"downstream_local_address", l.Destination, &r.Destination}, {"upstream_host", l.Endpoint, &r.Endpoint}} {
		if a.text == "" || a.text == "-" {
			continue
		}
		v, err := netip.ParseAddrPort(a.text)
		if err != nil {
			return fmt.Errorf("%s: %w", a.key, err)
		}
		*a.to = v
	}
	if r.Method == "" || r.Path == "" {
		return errors.New("neither a decision record nor a line of the access log as JSON: it has no method or no path")
	}
	return nil
}

// Limits on what Read takes: a file is the user's, and may be any file.
const (
	maxLine  = 256 << 10
	maxLines = 5_000_000
)

// Read reads records, one JSON object a line: what Write wrote, or an access log as JSON. Empty lines are
// passed over; another that cannot be read is an error with its number.
func Read(r io.Reader, f func(Record) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	for ; s.Scan(); n++ {
		if n >= maxLines {
			return fmt.Errorf("more than %d lines; split the file", maxLines)
		}
		b := s.Bytes()
		if len(strings.TrimSpace(string(b))) == 0 {
			continue
		}
		var rec Record
		if err := json.Unmarshal(b, &rec); err != nil {
			return fmt.Errorf("line %d: %w", n+1, err)
		}
		if err := f(rec); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	return nil
}

// Write writes records, one JSON object a line.
func Write(w io.Writer, list []Record) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range list {
		if err := e.Encode(list[i]); err != nil {
			return fmt.Errorf("writing decision records: %w", err)
		}
	}
	return nil
}
