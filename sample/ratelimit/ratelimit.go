// Package ratelimit is a small rate limit service, for examples and tests of
// limits that all instances of a waypoint share.
//
// It speaks envoy.service.ratelimit.v3 over gRPC and reads the configuration of
// the reference server (github.com/envoyproxy/ratelimit), as far as this:
//
//	domain: shop
//	descriptors:
//	  - key: client
//	    rate_limit: {unit: minute, requests_per_unit: 3}
//	  - key: path
//	    value: /checkout
//	    descriptors:
//	      - key: client
//	        rate_limit: {unit: second, requests_per_unit: 1}
//
// A descriptor is matched entry by entry from the top; one without value
// matches any, and counts each by itself. Requests are counted in fixed windows
// of one unit, in memory: there is one server, and its counters end with it. For
// several servers that share theirs, run the reference server with Redis.
package ratelimit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Config is the limits of one domain.
type Config struct {
	Domain      string       `yaml:"domain"`
	Descriptors []Descriptor `yaml:"descriptors"`
}

// Descriptor is one level of the tree of limits.
type Descriptor struct {
	Key         string       `yaml:"key"`
	Value       string       `yaml:"value"`
	Limit       *Limit       `yaml:"rate_limit"`
	Descriptors []Descriptor `yaml:"descriptors"`
}

// Limit is how many requests may pass in each unit: second, minute, hour, day.
type Limit struct {
	Unit            string `yaml:"unit"`
	RequestsPerUnit uint32 `yaml:"requests_per_unit"`
}

type unit struct {
	length time.Duration
	pb     pb.RateLimitResponse_RateLimit_Unit
}

var units = map[string]unit{
	"second": {time.Second, pb.RateLimitResponse_RateLimit_SECOND},
	"minute": {time.Minute, pb.RateLimitResponse_RateLimit_MINUTE},
	"hour":   {time.Hour, pb.RateLimitResponse_RateLimit_HOUR},
	"day":    {24 * time.Hour, pb.RateLimitResponse_RateLimit_DAY},
}

// ParseConfig reads YAML documents, one for each domain. Unknown fields and
// units are errors.
func ParseConfig(text []byte) ([]Config, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var list []Config
	for {
		var c Config
		switch err := dec.Decode(&c); {
		case errors.Is(err, io.EOF) && len(list) > 0:
			return list, nil
		case errors.Is(err, io.EOF):
			return nil, errors.New("reading the limits: there are none; give a domain and descriptors")
		case err != nil:
			return nil, fmt.Errorf("reading the limits: %w", err)
		case c.Domain == "":
			return nil, errors.New("reading the limits: a domain is missing")
		}
		if err := check(c.Descriptors, c.Domain); err != nil {
			return nil, fmt.Errorf("reading the limits: %w", err)
		}
		list = append(list, c)
	}
}

func check(list []Descriptor, at string) error {
	for _, d := range list {
		if d.Key == "" {
			return fmt.Errorf("%s: a descriptor has no key", at)
		}
		if d.Limit != nil && units[d.Limit.Unit].length == 0 {
			return fmt.Errorf("%s: %s: unit %q is not second, minute, hour or day", at, d.Key, d.Limit.Unit)
		}
		if err := check(d.Descriptors, at+": "+d.Key); err != nil {
			return err
		}
	}
	return nil
}

// maxCounters bounds what is counted at once.
const maxCounters = 100_000

// Server is the service. It is safe for concurrent use.
type Server struct {
	pb.UnimplementedRateLimitServiceServer
	domains map[string][]Descriptor
	now     func() time.Time

	mu       sync.Mutex
	counters map[string]counter
}

type counter struct {
	window int64
	hits   uint64
}

// New returns a Server with these limits.
func New(list []Config) *Server {
	s := &Server{domains: map[string][]Descriptor{}, now: time.Now, counters: map[string]counter{}}
	for _, c := range list {
		s.domains[c.Domain] = append(s.domains[c.Domain], c.Descriptors...)
	}
	return s
}

// Handler returns the HTTP handler that speaks gRPC; serve it with HTTP/2.
func (s *Server) Handler() *grpc.Server {
	g := grpc.NewServer()
	pb.RegisterRateLimitServiceServer(g, s)
	return g
}

// ShouldRateLimit counts one request and says whether it may pass.
func (s *Server) ShouldRateLimit(_ context.Context, r *pb.RateLimitRequest) (*pb.RateLimitResponse, error) {
	out := &pb.RateLimitResponse{OverallCode: pb.RateLimitResponse_OK}
	for _, d := range r.GetDescriptors() {
		hits := uint64(max(r.GetHitsAddend(), 1))
		if h := d.GetHitsAddend(); h != nil {
			hits = h.GetValue()
		}
		st := s.status(r.GetDomain(), d, hits)
		out.Statuses = append(out.Statuses, st)
		if st.GetCode() == pb.RateLimitResponse_OVER_LIMIT {
			out.OverallCode = pb.RateLimitResponse_OVER_LIMIT
		}
	}
	return out, nil
}

// status counts one descriptor.
func (s *Server) status(domain string, d *common.RateLimitDescriptor, hits uint64) *pb.RateLimitResponse_DescriptorStatus {
	limit := find(s.domains[domain], d.GetEntries())
	if limit == nil {
		return &pb.RateLimitResponse_DescriptorStatus{Code: pb.RateLimitResponse_OK}
	}
	u := units[limit.Unit]
	parts := []string{domain}
	for _, e := range d.GetEntries() {
		parts = append(parts, e.GetKey(), e.GetValue())
	}
	key := strings.Join(parts, "\x00")
	now := s.now().UnixNano()
	window := now / int64(u.length)
	s.mu.Lock()
	c := s.counters[key]
	if c.window != window {
		c = counter{window: window}
	}
	c.hits += hits
	if len(s.counters) >= maxCounters {
		clear(s.counters) // an example's server would rather forget than grow
	}
	s.counters[key] = c
	s.mu.Unlock()
	st := &pb.RateLimitResponse_DescriptorStatus{
		Code:               pb.RateLimitResponse_OK,
		CurrentLimit:       &pb.RateLimitResponse_RateLimit{RequestsPerUnit: limit.RequestsPerUnit, Unit: u.pb},
		DurationUntilReset: durationpb.New(time.Duration((window+1)*int64(u.length) - now)),
	}
	if allowed := uint64(limit.RequestsPerUnit); c.hits > allowed {
		st.Code = pb.RateLimitResponse_OVER_LIMIT
	} else {
		st.LimitRemaining = uint32(allowed - c.hits)
	}
	return st
}

// find walks the tree: a descriptor with the entry's value before one for any.
func find(list []Descriptor, entries []*common.RateLimitDescriptor_Entry) *Limit {
	if len(entries) == 0 {
		return nil
	}
	e := entries[0]
	var any *Descriptor
	for i := range list {
		d := &list[i]
		switch {
		case d.Key != e.GetKey():
		case d.Value == e.GetValue():
			any = d
		case d.Value == "" && (any == nil || any.Value == ""):
			any = d
		}
	}
	switch {
	case any == nil:
		return nil
	case len(entries) == 1:
		return any.Limit
	}
	return find(any.Descriptors, entries[1:])
}

// String says what is limited, for a log.
func (s *Server) String() string {
	var names []string
	for d := range s.domains {
		names = append(names, d)
	}
	return "rate limits of " + strings.Join(names, ", ")
}
