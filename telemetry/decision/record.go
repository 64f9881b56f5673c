package decision

import (
	"net/netip"
	"time"
)

// Record is what was decided about one request. Its JSON has the keys of the JSON access log where the two
// say the same, so that both can be read as one. A text that did not fit into its slot is cut; Cut tells so.
type Record struct {
	Start    time.Time
	Duration time.Duration
	// Config is the version of the configuration that served the request.
	Config uint64

	RequestID string
	Method    string
	Host      string
	Path      string // as the client sent it, with the query
	// Proto is 1 or 2.
	Proto uint8

	// Principal is the client's identity without its scheme, "" for none.
	Principal string
	// Source is the client's address, Destination what it dialled.
	Source      netip.AddrPort
	Destination netip.AddrPort

	// Status is the response's, 0 where there was none; Local says that the proxy answered.
	Status  int
	Local   bool
	Flags   string
	Details string
	// DryRun is what policies in dry run and those that audit say.
	DryRun string

	// Service is the host of the service that was asked for, "" for a workload's own address.
	Service string
	// Headers are the header fields that policies or routes look at and that may be told; nil is for one that was not
	// there. Others are not known.
	Headers map[string]*string

	// Rule is the route's rule, Cluster and Endpoint where the request went.
	Rule     string
	Cluster  string
	Endpoint netip.AddrPort

	// Cut says that Path, or another text, is the beginning of a longer one.
	Cut bool
}
