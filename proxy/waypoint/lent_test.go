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

// A request's memory goes to the next one only when nothing can come for it any more.
func TestRequestsAreUsedAgain(t *testing.T) {
	s := &h2Server{tun: &clientTunnel{}}
	a, b := s.request(), s.request()
	if a == b {
		t.Fatal("one request was given out twice")
	}
	if len(s.free) != 0 {
		t.Fatalf("%d are free that nobody gave back", len(s.free))
	}
}
