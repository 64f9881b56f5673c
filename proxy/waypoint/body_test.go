package waypoint

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// wantsBody is a filter that answers nothing and keeps what it saw.
func wantsBody(n int, saw *string) stepFunc {
	return func(x *filters.Exchange) filters.Result {
		return x.Body(n, func(_ *filters.Exchange, body []byte, whole bool) filters.Result {
			*saw = fmt.Sprintf("%s %v", body, whole)
			return filters.Continue
		})
	}
}

// A step sees as much of the body as it wants, or all there is, and the workload gets all of it.
func TestBodyHeld(t *testing.T) {
	for _, tc := range []struct {
		name string
		n    int
		head string
		rest []string // what comes later
		saw  string   // after each part: "" while it waits
		got  string   // how what the workload gets ends
	}{
		{"none", 4, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", nil, " true", "\r\n\r\n"},
		{"at_once", 4, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nfourmore", nil, "fourmore true", "fourmore"},
		{"enough", 4, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nfour", []string{"more"}, "four false", "fourmore"},
		{"in_parts", 6, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n", []string{"fo", "ur", "more"}, "fourmore true", "fourmore"},
		{"short", 100, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n", []string{"four", "more"}, "fourmore true", "fourmore"},
		{"chunks", 100, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", []string{"4\r\nfour\r\n", "0\r\n\r\n"}, "four true", "four\r\n0\r\n\r\n"},
		{"trailers", 100, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n", []string{"4\r\nfour\r\n0\r\nx-t: 1\r\n\r\n"}, "four true", "x-t: 1\r\n\r\n"},
	} {
		for at := range stageEndpoint {
			t.Run(fmt.Sprintf("%s/%d", tc.name, at), func(t *testing.T) {
				parts, v := oneService(mesh.ProtocolHTTP)
				s := newScript(t, parts)
				var saw string
				s.filter(at, wantsBody(tc.n, &saw))
				c := s.tunnel(vip(v), true)
				s.send(c, tc.head, false)
				for _, part := range tc.rest {
					s.send(c, part, false)
				}
				s.flow()
				if saw != tc.saw {
					t.Errorf("the filter saw %q, want %q", saw, tc.saw)
				}
				if len(s.works) != 1 {
					t.Fatal("the request did not reach the workload")
				}
				if got := s.works[0].take(); !strings.HasSuffix(got, tc.got) {
					t.Errorf("the workload got %q", got)
				}
				s.send(s.works[0], "HTTP/1.1 204 No Content\r\n\r\n", false)
				s.want(c.take(), "HTTP/1.1 204")
			})
		}
	}
}

// A client that waits for 100 Continue gets it from us: nobody else has been asked.
func TestBodyInvited(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	var saw string
	s.filter(stageService, wantsBody(4, &saw))
	c := s.tunnel(vip(v), true)
	s.send(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", false)
	s.want(c.take(), "HTTP/1.1 100")
	s.send(c, "four", false)
	if got := s.works[0].take(); !strings.HasSuffix(got, "four") || strings.Contains(got, "expect") {
		t.Errorf("the workload got %q", got)
	}
}

// A body that does not come ends the request.
func TestBodyLate(t *testing.T) {
	parts, v := oneService(mesh.ProtocolHTTP)
	s := newScript(t, parts)
	var saw string
	s.filter(stageService, wantsBody(4, &saw))
	c := s.tunnel(vip(v), true)
	s.send(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfo", false)
	s.pass(bodyTimeout + time.Second)
	s.want(c.take(), "HTTP/1.1 408")
	if saw != "" || len(s.works) != 0 {
		t.Errorf("the filter saw %q, %d workloads were called", saw, len(s.works))
	}
}

// While too many bytes wait already, none are waited for: what a filter wants to see is refused.
func TestBodyOverBudget(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before bool // it is so when the request comes
	}{{"before", true}, {"meanwhile", false}} {
		t.Run(tc.name, func(t *testing.T) {
			parts, v := oneService(mesh.ProtocolHTTP)
			s := newScript(t, parts)
			var saw string
			s.filter(stageService, wantsBody(8, &saw))
			c := s.tunnel(vip(v), true)
			budget := s.p.o.Budget
			fill := func() { budget.Add(int(budget.Limit)) }
			if tc.before {
				fill()
			}
			s.send(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nfo", false)
			if !tc.before {
				fill()
				s.send(c, "ur", false)
			}
			s.want(c.take(), "HTTP/1.1 503")
			if saw != "" || len(s.works) != 0 {
				t.Errorf("the filter saw %q, %d workloads were called", saw, len(s.works))
			}
			budget.Add(-int(budget.Limit))
		})
	}
}
