package decision

import (
	"net/netip"
	"sync/atomic"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

const (
	slotSize = 384
	textSize = slotSize - 216
)

// Slot is the place of one record. Whoever has one from Ring.Begin fills it and gives it back with End.
//
// Its strings are kept as they are: they must be the configuration's, or made for this record. What lies in
// memory that is used again goes into Texts, which copies it.
type Slot struct {
	state                                                  atomic.Uint32 // 1: somebody writes or reads it
	Config                                                 uint32        // the low half of Record.Config
	Start                                                  int64         // nanoseconds since 1970
	Duration                                               time.Duration
	Principal, Service, Rule, Cluster, Flags, Details, Dry string
	// fields are the names of the header fields that are told of; nil for none.
	fields                        *Fields
	source, destination, endpoint [16]byte
	ports                         [3]uint16
	Status                        uint16
	Local                         bool
	Proto                         uint8
	end                           uint8 // of the texts
	used, cut                     bool
	id, method, host, path        uint8            // the lengths of the texts
	values                        [MaxFields]uint8 // of fields: one more than the length, 0 for one that was not there
	text                          [textSize]byte
}

// What each text may have of a slot. The path comes last, with what the others leave.
const (
	maxID     = 64
	maxMethod = 16
	maxHost   = 48
)

func (s *Slot) claim() bool { return s.state.CompareAndSwap(0, 1) }
func (s *Slot) leave()      { s.state.Store(0) }

// Addresses says who asked, what was dialled, and where the request went; the zero AddrPort is nowhere.
func (s *Slot) Addresses(source, destination, endpoint netip.AddrPort) {
	s.source, s.destination, s.endpoint = source.Addr().As16(), destination.Addr().As16(), endpoint.Addr().As16()
	s.ports = [3]uint16{source.Port(), destination.Port(), endpoint.Port()}
}

// Texts copies what the client sent, cut to what there is room for.
func (s *Slot) Texts(id, method, host, path string) {
	n := copy(s.text[:maxID], id)
	s.id = uint8(n)
	m := min(len(method), maxMethod)
	for i := range m { // nearly always three bytes: a copy is a call
		s.text[n+i] = method[i]
	}
	s.method = uint8(m)
	n += m
	h := copy(s.text[n:n+maxHost], host)
	s.host = uint8(h)
	n += h
	p := copy(s.text[n:], path)
	s.path = uint8(p)
	s.fields, s.end = nil, uint8(n+p)
	s.cut = p < len(path) || h < len(host) || m < len(method) || int(s.id) < len(id)
}

// Fields are the names of header fields that policies or routes look at, so that records tell of them.
type Fields [MaxFields]string

// MaxFields is how many header fields a record may have.
const MaxFields = 4

// noRoom marks a value that did not fit.
const noRoom = 255

// Fields copies the header fields of these names, after Texts, as far as there is room. names must not change.
func (s *Slot) Fields(names *Fields, all mesh.Fields) {
	s.fields = names
	n := int(s.end)
	for i, name := range names {
		s.values[i] = 0
		if name == "" {
			continue
		}
		v, ok := all.Get(name)
		switch {
		case !ok:
		case len(v) > len(s.text)-n || len(v) >= noRoom-1:
			s.values[i] = noRoom
		default:
			s.values[i] = uint8(1 + len(v))
			n += copy(s.text[n:], v)
		}
	}
}

// header returns the fields that the record tells of; nil is for one that was not there.
func (s *Slot) header() map[string]*string {
	if s.fields == nil {
		return nil
	}
	out := map[string]*string{}
	n := int(s.end)
	for i, name := range s.fields {
		switch l := s.values[i]; {
		case name == "" || l == noRoom:
		case l == 0:
			out[name] = nil
		default:
			v := string(s.text[n : n+int(l)-1])
			n += len(v)
			out[name] = &v
		}
	}
	return out
}

// End gives the slot back, filled.
func (s *Slot) End() {
	s.used = true
	s.leave()
}

// recordID is the request's id, a view.
func (s *Slot) recordID() []byte { return s.text[:s.id] }

func unpackAddr(a [16]byte, port uint16) netip.AddrPort {
	if a == [16]byte{} && port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
}

// record returns a copy of what the slot says. It has been claimed.
func (s *Slot) record() Record {
	rest := s.text[:]
	text := func(n uint8) string {
		v := string(rest[:n])
		rest = rest[n:]
		return v
	}
	return Record{
		Start: time.Unix(0, s.Start).UTC(), Duration: s.Duration, Config: uint64(s.Config),
		RequestID: text(s.id), Method: text(s.method), Host: text(s.host), Path: text(s.path), Proto: s.Proto,
		Principal: s.Principal, Source: unpackAddr(s.source, s.ports[0]), Destination: unpackAddr(s.destination, s.ports[1]),
		Status: int(s.Status), Local: s.Local, Flags: s.Flags, Details: s.Details, DryRun: s.Dry,
		Service: s.Service, Headers: s.header(), Rule: s.Rule, Cluster: s.Cluster, Endpoint: unpackAddr(s.endpoint, s.ports[2]), Cut: s.cut,
	}
}
