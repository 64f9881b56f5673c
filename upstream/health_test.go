package upstream

import (
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

func TestHealth(t *testing.T) {
	for _, tt := range []struct {
		name               string
		healthy, unhealthy uint32
		answers            string // g and b
		want               string // the state after each: h and u
	}{
		{"defaults", 0, 0, "bbbgb", "hhuhh"},
		{"used_until_found_unhealthy", 1, 1, "b", "u"},
		{"good_ones_between", 1, 3, "bbgbbg", "hhhhhh"},
		{"slow_to_believe", 2, 1, "bgbgg", "uuuuh"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &mesh.HealthCheck{Healthy: tt.healthy, Unhealthy: tt.unhealthy}
			c := watchedCluster(t, 2, mesh.BackendPolicy{Health: p})
			e := c.Endpoints()[0]
			was := "h"
			for i, a := range tt.answers {
				detail := ""
				if a == 'b' {
					detail = "answered 500"
				}
				changed := c.Checked(e, p, detail)
				is := "h"
				if !e.Available() {
					is = "u"
				}
				if is != tt.want[i:i+1] || changed != (is != was) {
					t.Fatalf("after %s: %s, changed %v, want %s", tt.answers[:i+1], is, changed, tt.want[i:i+1])
				}
				was = is
			}
			for _, ev := range c.State().Events() {
				if ev.What == "unhealthy" && ev.Reason != "answered 500" {
					t.Errorf("event %+v", ev)
				}
			}
			c.Unchecked()
			if !e.Available() || c.Unhealthy() != 0 {
				t.Error("without a policy an endpoint stays unhealthy")
			}
		})
	}
}

func TestDueChecks(t *testing.T) {
	p := &mesh.HealthCheck{}
	c := watchedCluster(t, 5, mesh.BackendPolicy{Health: p})
	const interval = 10 * time.Second
	due, next := c.DueChecks(epoch, interval, 3)
	if len(due) != 3 || !next.Equal(epoch.Add(20*time.Millisecond)) {
		t.Fatalf("%d are due at first, next after %s", len(due), next.Sub(epoch))
	}
	rest, next := c.DueChecks(epoch, interval, 32)
	if len(rest) != 2 || next.Before(epoch.Add(9*time.Second)) {
		t.Fatalf("then %d, next after %s", len(rest), next.Sub(epoch))
	}
	if again, _ := c.DueChecks(epoch.Add(time.Minute), interval, 32); len(again) != 0 {
		t.Errorf("%d are asked again before they have answered", len(again))
	}
	for _, e := range append(due, rest...) {
		c.Checked(e, p, "")
	}
	if again, _ := c.DueChecks(epoch.Add(8*time.Second), interval, 32); len(again) != 0 {
		t.Errorf("%d are due too early", len(again))
	}
	if again, _ := c.DueChecks(epoch.Add(12*time.Second), interval, 32); len(again) != 5 {
		t.Errorf("%d are due after the interval, want all", len(again))
	}
}
