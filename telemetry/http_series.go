package telemetry

import (
	"slices"
	"sync/atomic"
)

// HTTPSeries counts the requests of one label set: istio_requests_total,
// istio_request_duration_milliseconds, istio_request_bytes and
// istio_response_bytes, and gRPC's messages.
type HTTPSeries struct {
	duration, request, response histogram
	requestMessages             atomic.Uint64
	responseMessages            atomic.Uint64

	// What follows is written once in a while and read on the way.
	_        [64]byte
	siblings atomic.Pointer[[]sibling]
	table    *table[HTTPLabels, HTTPSeries]
	labels   HTTPLabels
}

// sibling is a series that differs in how the requests ended.
type sibling struct {
	code        int
	grpc, flags string
	series      *HTTPSeries
}

func newHTTPSeries(t *table[HTTPLabels, HTTPSeries], l HTTPLabels) *HTTPSeries {
	return &HTTPSeries{table: t, labels: l}
}

// Observe counts one request that has ended: its duration from the first byte
// of the request to the last of the response in nanoseconds, and the sizes of
// headers and bodies as they were on the wire. It costs six atomic additions.
func (s *HTTPSeries) Observe(durationNanos int64, reqBytes, respBytes uint64) {
	s.duration.observe(durationScale, uint64(max(durationNanos, 0)))
	s.request.observe(byteScale, reqBytes)
	s.response.observe(byteScale, respBytes)
}

// Messages counts gRPC messages, as they pass or at the end.
func (s *HTTPSeries) Messages(request, response uint64) {
	if request > 0 {
		s.requestMessages.Add(request)
	}
	if response > 0 {
		s.responseMessages.Add(response)
	}
}

// With returns the series with the same source and destination and another
// end of the request. It is made to be called for each request on a series that
// the caller keeps: the ends that occurred before are found without a lock.
func (s *HTTPSeries) With(code int, grpcStatus, flags string) *HTTPSeries {
	list := s.siblings.Load()
	if list != nil {
		for i := range *list {
			if e := &(*list)[i]; e.code == code && e.grpc == grpcStatus && e.flags == flags {
				return e.series
			}
		}
	}
	return s.addSibling(list, code, grpcStatus, flags)
}

// maxSiblings bounds the list that With searches.
const maxSiblings = 32

func (s *HTTPSeries) addSibling(old *[]sibling, code int, grpcStatus, flags string) *HTTPSeries {
	l := s.labels
	l.ResponseCode, l.GRPCStatus, l.ResponseFlags = code, grpcStatus, flags
	e := s.table.get(l)
	var list []sibling
	if old != nil {
		list = *old
	}
	// Only a spelling that is the label itself is worth keeping: the strings
	// are the series' own.
	if len(list) < maxSiblings && e.labels.ResponseCode == code && e.labels.GRPCStatus == grpcStatus &&
		(e.labels.ResponseFlags == flags || flags == "") {
		own := e.labels.ResponseFlags
		if flags == "" {
			own = ""
		}
		grown := append(slices.Clip(list), sibling{code, e.labels.GRPCStatus, own, e})
		s.siblings.CompareAndSwap(old, &grown) // lost to another: next time
	}
	return e
}

// Labels returns the label set, as it is exposed.
func (s *HTTPSeries) Labels() HTTPLabels { return s.labels }

// requests is how many were observed.
func (s *HTTPSeries) requests() uint64 {
	counts, _ := s.duration.read()
	return counts[infinity]
}
