package ztunnel

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
	"github.com/google/go-cmp/cmp"
)

// dedicated is the least that runs.
var dedicated = []string{"PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=ns/name/sa", "LOCAL_XDS_PATH=/x.yaml", "XDS_ADDRESS="}

func TestFromEnvironment(t *testing.T) {
	e, err := FromEnvironment(dedicated)
	if err != nil {
		t.Fatal(err)
	}
	want := &Environment{
		Options: Options{
			Mode: ModeDedicated, Workload: WorkloadInfo{"ns", "name", "sa"}, DNS: true, DrainTime: 5 * time.Second,
			Sockets:     capture.Sockets{ReusePort: true, KeepAlive: capture.DefaultKeepAlive},
			PoolStreams: 100, PoolIdle: 5 * time.Minute,
		},
		LocalXDSPath: "/x.yaml", AdminPort: 15000, StatsPort: 15020, ReadinessPort: 15021,
		TrustDomain: "cluster.local", ClusterID: "Kubernetes", ClusterDomain: "cluster.local", SecretTTL: 24 * time.Hour,
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestEnvironmentValues(t *testing.T) {
	tests := []struct {
		name string
		env  string
		ok   func(*Environment) bool
	}{
		{"mark", "PACKET_MARK=1337", func(e *Environment) bool { return e.Options.Sockets.Mark == 0x539 }},
		{"spoof", "ENABLE_ORIG_SRC=true", func(e *Environment) bool { return e.Options.Sockets.Spoof == capture.SpoofRequired }},
		{"no-spoof", "ENABLE_ORIG_SRC=false", func(e *Environment) bool { return e.Options.Sockets.Spoof == capture.SpoofNever }},
		{"ipv4", "IPV6_ENABLED=false", func(e *Environment) bool { return e.Options.Sockets.IPv4Only }},
		{"deadline", "CONNECTION_TERMINATION_DEADLINE=1m30s", func(e *Environment) bool { return e.Options.DrainTime == 90*time.Second }},
		{"deadline-number", "CONNECTION_TERMINATION_DEADLINE=7", func(e *Environment) bool { return e.Options.DrainTime == 7*time.Second }},
		{"grace-30", "TERMINATION_GRACE_PERIOD_SECONDS=30", func(e *Environment) bool { return e.Options.DrainTime == 25*time.Second }},
		{"grace-10", "TERMINATION_GRACE_PERIOD_SECONDS=10", func(e *Environment) bool { return e.Options.DrainTime == 9*time.Second }},
		{"grace-1", "TERMINATION_GRACE_PERIOD_SECONDS=1", func(e *Environment) bool { return e.Options.DrainTime == time.Second }},
		{"no-dns", "ISTIO_META_DNS_CAPTURE=false", func(e *Environment) bool { return !e.Options.DNS }},
		{"dns-upper", "ISTIO_META_DNS_CAPTURE=TRUE", func(e *Environment) bool { return e.Options.DNS }},
		{"baggage", "ENABLE_RESPONSE_BAGGAGE=false", func(e *Environment) bool { return e.Options.HideBaggage }},
		{"proxy-config", "PROXY_CONFIG={proxyAdminPort: 1, statsPort: 2, concurrency: 3}", func(e *Environment) bool { return e.AdminPort == 1 && e.StatsPort == 2 }},
		{"cluster", "CLUSTER_ID=a", func(e *Environment) bool { return e.ClusterID == "a" }},
		{"level", "RUST_LOG=proxy=trace,debug", func(e *Environment) bool { return e.LogLevel == "debug" }},
		{"json", "LOG_FORMAT=json", func(e *Environment) bool { return e.JSONLog }},
		{"threads", "ZTUNNEL_WORKER_THREADS=50%", func(*Environment) bool { return true }},
		{"node", "NODE_NAME=n1", func(e *Environment) bool { return e.Options.Node == "n1" }},
		{"keepalive", "KEEPALIVE_ENABLED=false", func(e *Environment) bool { return !e.Options.Sockets.KeepAlive.Enable }},
		{"crl", "CRL_PATH=/crl", func(e *Environment) bool { return e.CRLPath == "/crl" }},
		{"user-timeout", "USER_TIMEOUT_ENABLED=true", func(e *Environment) bool { return e.Options.Sockets.UserTimeout == 1800*time.Second }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := FromEnvironment(append(slices.Clip(dedicated), tt.env))
			if err != nil {
				t.Fatal(err)
			}
			if !tt.ok(e) {
				t.Errorf("%s gave %+v", tt.env, e)
			}
		})
	}
}

func TestEnvironmentRefused(t *testing.T) {
	for _, env := range []string{
		"PROXY_MODE=shared", "PROXY_MODE=Dedicated", "PROXY_WORKLOAD_INFO=ns/name", "PROXY_WORKLOAD_INFO=ns//sa", "IPV6_ENABLED=1", "IPV6_ENABLED=",
		"PACKET_MARK=-1", "PACKET_MARK=4294967296", "CONNECTION_TERMINATION_DEADLINE=soon", "XDS_ADDRESS=istiod:15012", "LOCAL_XDS={}",
		"LOCAL_XDS_PATH=", "LOG_FORMAT=xml", "KEEPALIVE_RETRIES=0", "HTTP2_FRAME_SIZE=100", "ZTUNNEL_WORKER_THREADS=many", "ENABLE_PROXY=false",
		"FAKE_CA=true", "TLS12_ENABLED=true", "XDS_ON_DEMAND=true", "UNSTABLE_ENABLE_SOCKS5=true", "PROXY_CONFIG=[",
		"ISTIO_META_DNS_PROXY_ADDR=0.0.0.0:15053", "ISTIO_META_DNS_PROXY_ADDR=localhost:53", "POOL_MAX_STREAMS_PER_CONNECTION=0",
	} {
		name, _, _ := strings.Cut(env, "=")
		_, err := FromEnvironment(append(slices.Clip(dedicated), env))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want an error that names the variable", env, err)
		}
	}
}

func FuzzFromEnvironment(f *testing.F) {
	f.Add("PACKET_MARK=1337\nPROXY_CONFIG={a: b}")
	f.Add("ZTUNNEL_WORKER_THREADS=%")
	f.Fuzz(func(t *testing.T, env string) {
		e, err := FromEnvironment(append(slices.Clip(dedicated), strings.Split(env, "\n")...))
		if (e == nil) == (err == nil) {
			t.Errorf("got %v and %v", e, err)
		}
	})
}
