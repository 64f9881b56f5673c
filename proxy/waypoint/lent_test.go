package waypoint

import (
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// What lies in memory that the next request of a tunnel uses again must not get
// into a compression table, which outlives it.
func TestLent(t *testing.T) {
	arena := append(make([]byte, 0, 64), "/path"...)
	r := &h2Request{arena: arena}
	x := &r.x
	x.down = r
	x.requestID = append(x.requestID, "0123-4567"...)
	made := x.fx.Concat("a", "b", "c")
	kept := strings.Repeat("k", 9)
	fields := mesh.Fields{
		{Name: "x-request-id", Value: viewString(x.requestID)},
		{Name: "x-made", Value: made},
		{Name: made, Value: "value"},
		{Name: "x-part", Value: viewString(arena)[1:3]},
		{Name: "x-kept", Value: kept},
		{Name: "x-empty", Value: ""},
		{Name: "cookie", Value: kept},
	}
	want := []bool{true, true, true, true, false, false, true}
	for i, f := range appendFields(nil, fields, x.requestLent()) {
		if f.Sensitive != want[i] {
			t.Errorf("%s: never indexed is %v, want %v", f.Name, f.Sensitive, want[i])
		}
	}
	x.down = &h1Server{}
	if f := appendFields(nil, fields, x.requestLent()); !f[4].Sensitive {
		t.Error("a field of HTTP/1.1 may be indexed")
	}
}

// The memory of a request goes to the next one of its tunnel, not to one beside it.
func TestRequestsAreUsedAgain(t *testing.T) {
	b := newH2Bench(t, nil)
	var s *h2Server
	for s = range b.p.h2Servers {
	}
	if s == nil {
		t.Fatal("the bench's tunnel has no HTTP/2 server")
	}
	b.round()
	if len(s.free) != 1 {
		t.Fatalf("%d requests are kept after one at a time, want 1", len(s.free))
	}
	kept := s.free[0]
	b.round()
	if len(s.free) != 1 || s.free[0] != kept {
		t.Errorf("the next request had other memory: %d are kept", len(s.free))
	}
	first, second := s.request(), s.request()
	if first != kept || second == first {
		t.Error("a request was given out twice, or the kept one not at all")
	}
}
