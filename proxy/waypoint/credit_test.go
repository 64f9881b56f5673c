package waypoint

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// A client gets its window back for the content of requests that are answered
// here and go nowhere.
func TestWindowComesBackFromUnwantedContent(t *testing.T) {
	const size = 15_000 // it comes with its head: a request that is not complete ends the connection
	request := fmt.Sprintf("POST /%%s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
	parts, v := oneService(mesh.ProtocolHTTP)
	parts.Attachments = []mesh.RouteAttachment{route("r", 1, v, mesh.Route{Matches: []mesh.RouteMatch{pathMatch(mesh.MatchExact, "/there")}, Backends: []mesh.Backend{to(v, 1)}})}
	s := newScript(t, parts)
	c := s.tunnel(vip(v), true)
	for i := range 200 { // some windows
		s.send(c, fmt.Sprintf(request, "nowhere"), false)
		if got := c.take(); !strings.HasPrefix(got, "HTTP/1.1 404") {
			t.Fatalf("request %d got %.100q, want 404", i, got)
		}
	}
	s.send(c, fmt.Sprintf(request, "there"), false)
	if len(s.works) != 1 || !strings.Contains(s.works[0].take(), strings.Repeat("x", size)) {
		t.Fatal("a request after those does not reach the workload")
	}
}
