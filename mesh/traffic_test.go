package mesh_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"github.com/google/go-cmp/cmp"
)

func TestBackendPolicyOver(t *testing.T) {
	a, b := mesh.Name{Name: "a"}, mesh.Name{Name: "b"}
	over := &mesh.BackendPolicy{
		Connection: &mesh.ConnectionSettings{Policy: a, IdleTimeout: mesh.Never},
		Breaker:    &mesh.CircuitBreaker{Policy: a, MaxRequests: 1},
		Balancer:   &mesh.Balancer{Policy: a, Kind: mesh.BalanceRandom},
	}
	base := &mesh.BackendPolicy{
		Connection: &mesh.ConnectionSettings{Policy: b, ConnectTimeout: time.Second, IdleTimeout: time.Second, MaxRequests: 2, HTTP2: true},
		Breaker:    &mesh.CircuitBreaker{Policy: b, MaxConnections: 2, MaxPending: 2, MaxRequests: 2, MaxRetries: 2},
		Balancer:   &mesh.Balancer{Policy: b, TableSize: 2},
		Budget:     &mesh.RetryBudget{Policy: b, Percent: 2},
		Subset:     map[string]string{"v": "b"},
	}
	want := &mesh.BackendPolicy{
		Connection: &mesh.ConnectionSettings{Policy: a, ConnectTimeout: time.Second, IdleTimeout: mesh.Never, MaxRequests: 2, HTTP2: true},
		Breaker:    &mesh.CircuitBreaker{Policy: a, MaxConnections: 2, MaxPending: 2, MaxRequests: 1, MaxRetries: 2},
		Balancer:   &mesh.Balancer{Policy: a, Kind: mesh.BalanceRandom}, // a part is taken as a whole
		Budget:     &mesh.RetryBudget{Policy: b, Percent: 2},
		Subset:     map[string]string{"v": "b"},
	}
	if d := cmp.Diff(want, over.Over(base)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	var none *mesh.BackendPolicy
	if over.Over(nil) != over || none.Over(base) != base || none.Over(nil) != nil || !none.IsZero() || over.IsZero() {
		t.Error("a policy alone is not itself")
	}
}

func TestRequestPolicyOver(t *testing.T) {
	over := &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: mesh.Never}, Retry: &mesh.Retry{Attempts: 1}}
	base := &mesh.RequestPolicy{Timeouts: &mesh.Timeouts{Request: 1, PerTry: 2, Idle: 3, MaxDuration: 4}, Retry: &mesh.Retry{Codes: []int{503}}, Hedging: &mesh.Hedging{Max: 1}}
	want := &mesh.RequestPolicy{
		Timeouts: &mesh.Timeouts{Request: mesh.Never, PerTry: 2, Idle: 3, MaxDuration: 4},
		Retry:    &mesh.Retry{Attempts: 1}, Hedging: &mesh.Hedging{Max: 1},
	}
	if d := cmp.Diff(want, over.Over(base)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestSecret(t *testing.T) {
	type holder struct {
		Key  mesh.Secret
		Name string
	}
	h := holder{mesh.Secret("k3y"), "n"}
	text, err := json.Marshal(h)
	if err != nil || string(text) != `{"Key":"[hidden]","Name":"n"}` {
		t.Errorf("JSON is %s, %v", text, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "holder", h, "key", h.Key)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "holder", h, "key", h.Key)
	for _, got := range []string{fmt.Sprint(h), fmt.Sprintf("%+v %#v %s %q %x %d %v", h, h, h.Key, h.Key, h.Key, h.Key, &h), log.String()} {
		if strings.Contains(got, "k3y") || strings.Contains(got, "6b3379") || strings.Contains(got, "107 51") {
			t.Errorf("the secret is seen in %s", got)
		}
	}
	// A proxy of its own process gets it all the same.
	var wire bytes.Buffer
	var got holder
	if err := gob.NewEncoder(&wire).Encode(h); err != nil {
		t.Fatal(err)
	}
	if err := gob.NewDecoder(&wire).Decode(&got); err != nil || string(got.Key) != "k3y" {
		t.Errorf("gob gives %q, %v", []byte(got.Key), err)
	}
}
