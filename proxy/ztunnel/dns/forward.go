package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// attempts is how often each nameserver is asked.
const attempts = 2

// forward passes the query on as it is and returns the first answer as it is:
// nothing of it is taken apart, so that every type of record passes unharmed.
func (s *Server) forward(ctx context.Context, q *dns.Msg, query []byte, network string) (answer []byte, failed bool) {
	if len(s.o.Upstreams) == 0 {
		return pack(q, reply(q, dns.RcodeNameError), network), false
	}
	var errs []error
	for range attempts {
		for _, to := range s.o.Upstreams {
			b, err := s.exchange(ctx, network, to, query)
			if err == nil {
				return b, false
			}
			errs = append(errs, err)
		}
	}
	s.o.Log.Debug("no nameserver answered", "name", q.Question[0].Name, "error", errors.Join(errs...))
	return pack(q, reply(q, dns.RcodeServerFailure), network), true
}

func (s *Server) exchange(ctx context.Context, network string, to netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	conn, err := s.o.Dial(ctx, network, to)
	if err != nil {
		return nil, fmt.Errorf("asking nameserver %s: %w", to, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		if err := writeTCP(conn, query); err != nil {
			return nil, fmt.Errorf("asking nameserver %s: %w", to, err)
		}
		b, err := readTCP(conn)
		if err == nil && !answers(b, query) {
			err = errors.New("answer to another question")
		}
		if err != nil {
			return nil, fmt.Errorf("asking nameserver %s: %w", to, err)
		}
		return b, nil
	}
	return exchangeUDP(conn, to, query)
}

func exchangeUDP(conn net.Conn, to netip.AddrPort, query []byte) ([]byte, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, fmt.Errorf("asking nameserver %s: %w", to, err)
	}
	buf := make([]byte, maxMessage)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("asking nameserver %s: %w", to, err)
		}
		if answers(buf[:n], query) {
			return bytes.Clone(buf[:n]), nil
		}
		// Somebody else's, late, or forged: wait for the right one.
	}
}

// answers reports whether b is an answer to the query: the same ID and, if it
// repeats the question, the same question.
func answers(b, query []byte) bool {
	if len(b) < 12 || b[0] != query[0] || b[1] != query[1] || b[2]&0x80 == 0 {
		return false
	}
	if binary.BigEndian.Uint16(b[4:]) == 0 {
		return b[3]&0x0f != dns.RcodeSuccess // refusals may leave it out
	}
	asked, ok := firstQuestion(query)
	got, _ := firstQuestion(b)
	return ok && got == asked
}

// question is a message's question in comparable form.
type question struct {
	name       string
	typ, class uint16
}

// firstQuestion reads it; ok is false when there is none.
func firstQuestion(b []byte) (q question, ok bool) {
	name, off, err := dns.UnpackDomainName(b, 12)
	if err != nil || off+4 > len(b) {
		return q, false
	}
	return question{strings.ToLower(name), binary.BigEndian.Uint16(b[off:]), binary.BigEndian.Uint16(b[off+2:])}, true
}
