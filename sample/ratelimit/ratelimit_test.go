package ratelimit

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const shop = `
domain: shop
descriptors:
  - key: client
    rate_limit: {unit: minute, requests_per_unit: 2}
  - key: client
    value: vip
    rate_limit: {unit: minute, requests_per_unit: 4}
  - key: path
    value: /checkout
    descriptors:
      - key: client
        rate_limit: {unit: second, requests_per_unit: 1}
`

func descriptor(kv ...string) *common.RateLimitDescriptor {
	d := &common.RateLimitDescriptor{}
	for i := 0; i < len(kv); i += 2 {
		d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: kv[i], Value: kv[i+1]})
	}
	return d
}

// TestOverGRPC asks a server as a waypoint does, over h2c.
func TestOverGRPC(t *testing.T) {
	list, err := ParseConfig([]byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	s := New(list)
	now := time.Unix(600, 0)
	s.now = func() time.Time { return now }
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s.Handler(), Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	defer srv.Close()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(domain string, hits uint32, d ...*common.RateLimitDescriptor) string {
		t.Helper()
		r, err := pb.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &pb.RateLimitRequest{Domain: domain, Descriptors: d, HitsAddend: hits})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetStatuses()) != len(d) {
			t.Errorf("%d statuses for %d descriptors", len(r.GetStatuses()), len(d))
		}
		return r.GetOverallCode().String()
	}
	const ok, over = "OK", "OVER_LIMIT"
	a, b, vip := descriptor("client", "a"), descriptor("client", "b"), descriptor("client", "vip")
	for i, tt := range []struct {
		domain string
		hits   uint32
		d      []*common.RateLimitDescriptor
		want   string
	}{
		{"shop", 0, []*common.RateLimitDescriptor{a}, ok},
		{"shop", 0, []*common.RateLimitDescriptor{a}, ok},
		{"shop", 0, []*common.RateLimitDescriptor{a}, over},
		{"shop", 0, []*common.RateLimitDescriptor{b}, ok},
		{"shop", 5, []*common.RateLimitDescriptor{b}, over},
		{"shop", 4, []*common.RateLimitDescriptor{vip}, ok},
		{"shop", 0, []*common.RateLimitDescriptor{vip}, over},
		{"shop", 0, []*common.RateLimitDescriptor{descriptor("path", "/checkout", "client", "c")}, ok},
		{"shop", 0, []*common.RateLimitDescriptor{descriptor("path", "/checkout", "client", "c")}, over},
		{"shop", 0, []*common.RateLimitDescriptor{descriptor("path", "/checkout", "client", "d"), a}, over},
		{"shop", 0, []*common.RateLimitDescriptor{descriptor("path", "/other", "client", "c")}, ok},
		{"shop", 0, []*common.RateLimitDescriptor{descriptor("nobody", "x")}, ok},
		{"other", 9, []*common.RateLimitDescriptor{a}, ok},
	} {
		if got := ask(tt.domain, tt.hits, tt.d...); got != tt.want {
			t.Errorf("question %d: %s, want %s", i, got, tt.want)
		}
	}
	now = now.Add(time.Minute)
	if got := ask("shop", 0, a); got != ok {
		t.Errorf("in the next minute: %s", got)
	}
	free := descriptor("client", "e")
	free.HitsAddend = wrapperspb.UInt64(0)
	for range 5 {
		if got := ask("shop", 0, free); got != ok {
			t.Errorf("a descriptor that counts nothing: %s", got)
		}
	}
}

func TestParseConfig(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "there are none"},
		{"no_domain", "descriptors: []", "domain is missing"},
		{"no_key", "domain: a\ndescriptors: [{value: x}]", "no key"},
		{"unit", "domain: a\ndescriptors: [{key: x, rate_limit: {unit: week, requests_per_unit: 1}}]", `unit "week"`},
		{"nested", "domain: a\ndescriptors: [{key: x, descriptors: [{key: y, rate_limit: {unit: '', requests_per_unit: 1}}]}]", "a: x: y"},
		{"unknown", "domain: a\nlimits: []", "limits"},
		{"not_yaml", "{", "reading the limits"},
	} {
		if _, err := ParseConfig([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	if list, err := ParseConfig([]byte("domain: a\n---\ndomain: b\n")); err != nil || len(list) != 2 {
		t.Errorf("two documents: %v, %v", list, err)
	}
}
