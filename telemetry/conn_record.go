package telemetry

import (
	"net/netip"
	"strconv"
	"time"
)

// ConnEvent is what happened to a connection when its record is written.
type ConnEvent uint8

const (
	// ConnComplete is a connection that has ended, well or with an Error.
	ConnComplete ConnEvent = iota
	// ConnOpened is a connection that was accepted and will be carried.
	ConnOpened
	// ConnFailed is a connection that was refused before anything was known of it.
	ConnFailed
)

// ConnRecord is what the access log says of one TCP connection, under
// ztunnel's names. Empty fields are left out.
type ConnRecord struct {
	Time  time.Time
	Event ConnEvent

	Src, Dst EndpointRecord
	// DstHBONE is the CONNECT authority, where there is a tunnel.
	DstHBONE string
	// DstService is the service's hostname.
	DstService string

	// Inbound is true on the destination's node proxy.
	Inbound bool
	// BytesSent is what this proxy's own workload sent (outbound the client,
	// inbound the server), BytesRecv what came for it.
	BytesSent, BytesRecv uint64
	Duration             time.Duration
	Err                  string
	// DryRun is what policies in dry run would have done, and which audit. ztunnel has no word for it: it is
	// dry_run here, where there is something.
	DryRun string
	// Around is the waypoint that the connection went around, as a permissive binding allows: around_waypoint
	// here, for which ztunnel has no word.
	Around string
}

// EndpointRecord is one end of a connection.
type EndpointRecord struct {
	Addr      netip.AddrPort
	Workload  string // the pod's name
	Namespace string
	Identity  string // the SPIFFE URI, only where it was proven
	Cluster   string
}

func (r *ConnRecord) level() string {
	switch {
	case r.Event == ConnFailed:
		return "warn"
	case r.Err != "":
		return "error"
	case r.Event == ConnOpened:
		return "debug"
	}
	return "info"
}

func (r *ConnRecord) message() string {
	return [...]string{ConnComplete: "connection complete", ConnOpened: "connection opened", ConnFailed: "connection failed"}[r.Event]
}

func (r *ConnRecord) direction() string {
	if r.Inbound {
		return "inbound"
	}
	return "outbound"
}

// AppendConn appends r as one line in ztunnel's text format: time, level, scope
// and message separated by tabs, then key=value pairs.
func AppendConn(dst []byte, r *ConnRecord) []byte {
	dst = appendTime(dst, r.Time, 6)
	dst = append(dst, '\t')
	dst = append(dst, r.level()...)
	dst = append(dst, "\taccess\t"...)
	dst = append(dst, r.message()...)
	p := connPairs{dst: dst, first: '\t'}
	r.fields(&p)
	return append(p.dst, '\n')
}

// AppendConnJSON appends r as one line in ztunnel's JSON format.
func AppendConnJSON(dst []byte, r *ConnRecord) []byte {
	dst = append(dst, `{"level":"`...)
	dst = append(dst, r.level()...)
	dst = append(dst, `","time":"`...)
	dst = appendTime(dst, r.Time, 6)
	dst = append(dst, `","scope":"access"`...)
	p := connPairs{dst: dst, json: true}
	r.fields(&p)
	dst = append(p.dst, `,"message":"`...)
	dst = append(dst, r.message()...)
	return append(dst, `"}`+"\n"...)
}

// fields writes the pairs in ztunnel's order.
func (r *ConnRecord) fields(p *connPairs) {
	p.addr("src.addr", r.Src.Addr)
	p.text("src.workload", r.Src.Workload)
	p.text("src.namespace", r.Src.Namespace)
	p.text("src.identity", r.Src.Identity)
	p.text("src.cluster", r.Src.Cluster)
	p.addr("dst.addr", r.Dst.Addr)
	p.token("dst.hbone_addr", r.DstHBONE)
	p.text("dst.service", r.DstService)
	p.text("dst.workload", r.Dst.Workload)
	p.text("dst.namespace", r.Dst.Namespace)
	p.text("dst.identity", r.Dst.Identity)
	p.text("dst.cluster", r.Dst.Cluster)
	p.text("direction", r.direction())
	if r.Event == ConnComplete {
		p.count("bytes_sent", r.BytesSent)
		p.count("bytes_recv", r.BytesRecv)
		p.millis("duration", r.Duration)
	}
	p.text("dry_run", r.DryRun)
	p.text("around_waypoint", r.Around)
	p.text("error", r.Err)
}

// connPairs appends keys and values in one of the two formats.
type connPairs struct {
	dst   []byte
	json  bool
	first byte // before the first pair of a text line
}

func (p *connPairs) key(k string) {
	if p.json {
		p.dst = append(p.dst, ',', '"')
		p.dst = append(p.dst, k...)
		p.dst = append(p.dst, '"', ':')
		return
	}
	sep := byte(' ')
	if p.first != 0 {
		sep, p.first = p.first, 0
	}
	p.dst = append(p.dst, sep)
	p.dst = append(p.dst, k...)
	p.dst = append(p.dst, '=')
}

func (p *connPairs) text(k, v string) {
	if v == "" {
		return
	}
	p.key(k)
	if p.json {
		p.dst = appendJSON(p.dst, v)
	} else {
		p.dst = appendQuoted(p.dst, v)
	}
}

func (p *connPairs) token(k, v string) {
	if v == "" {
		return
	}
	p.key(k)
	if p.json {
		p.dst = appendJSON(p.dst, v)
	} else {
		p.dst = appendToken(p.dst, v)
	}
}

func (p *connPairs) addr(k string, a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	p.key(k)
	if p.json {
		p.dst = appendAddrJSON(p.dst, a)
	} else {
		p.dst = appendAddr(p.dst, a)
	}
}

func (p *connPairs) count(k string, n uint64) {
	p.key(k)
	p.dst = strconv.AppendUint(p.dst, n, 10)
}

func (p *connPairs) millis(k string, d time.Duration) {
	p.key(k)
	p.dst = append(p.dst, '"')
	p.dst = strconv.AppendInt(p.dst, d.Milliseconds(), 10)
	p.dst = append(p.dst, `ms"`...)
}
