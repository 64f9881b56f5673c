package ztunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
	"go.yaml.in/yaml/v3"
)

// Environment is what ztunnel's environment variables say: the Options that
// follow from them, and what the program around the proxy needs to know.
type Environment struct {
	// Options lack what no variable can give: Snapshots, Certificates, Metrics and logs.
	Options Options

	// LocalXDSPath and LocalXDS are the file, or the text, that describes the mesh.
	LocalXDSPath string
	LocalXDS     string

	// CRLPath is the file with lists of revoked certificates; "" for none.
	CRLPath string

	AdminPort, StatsPort, ReadinessPort uint16

	// TrustDomain, ClusterID, ClusterDomain and Network have ztunnel's defaults.
	TrustDomain, ClusterID, ClusterDomain, Network string
	// SecretTTL is the life of certificates to ask for.
	SecretTTL time.Duration
	// JSONLog asks for logs as JSON; LogLevel is "", or debug, info, warn or
	// error as RUST_LOG's default level has it.
	JSONLog  bool
	LogLevel string
}

// FromEnvironment reads variables of the form NAME=value (os.Environ), as
// ztunnel does: strictly. Every bad value is an error that names the variable,
// and so is what this proxy cannot do but would silently not do. Variables that
// tune what is built differently here (HTTP/2 windows, worker threads) are
// checked and otherwise ignored.
func FromEnvironment(environ []string) (*Environment, error) {
	v := &variables{m: map[string]string{}}
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok {
			v.m[name] = value
		}
	}
	e := &Environment{ReadinessPort: 15021}
	v.mode(e)
	v.ports(e)
	v.source(e)
	v.sockets(e)
	v.limits(e)
	v.dns(e)
	v.logs(e)
	e.TrustDomain = v.text("TRUST_DOMAIN", "cluster.local")
	e.ClusterID = v.text("ISTIO_META_CLUSTER_ID", v.text("CLUSTER_ID", "Kubernetes"))
	e.ClusterDomain = v.text("CLUSTER_DOMAIN", "cluster.local")
	e.Network = v.text("NETWORK", "")
	e.SecretTTL = v.duration("SECRET_TTL", 24*time.Hour)
	e.CRLPath = v.text("CRL_PATH", "")
	e.Options.Node = v.text("NODE_NAME", "")
	if err := errors.Join(v.errs...); err != nil {
		return nil, err
	}
	return e, nil
}

// variables reads values and gathers what is wrong with them.
type variables struct {
	m    map[string]string
	errs []error
}

func (v *variables) fail(name, format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf("%s=%q: "+format, append([]any{name, v.m[name]}, args...)...))
}

func (v *variables) text(name, def string) string {
	if s, ok := v.m[name]; ok {
		return s
	}
	return def
}

// boolean is exactly true or false, as Rust parses it.
func (v *variables) boolean(name string, def bool) bool {
	switch s, ok := v.m[name]; {
	case !ok:
		return def
	case s == "true":
		return true
	case s != "false":
		v.fail(name, "want true or false")
	}
	return false
}

func (v *variables) number(name string, def, lo, hi uint64) uint64 {
	s, ok := v.m[name]
	if !ok {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < lo || n > hi {
		v.fail(name, "want a number from %d to %d", lo, hi)
		return def
	}
	return n
}

// duration is of the form 30s, 5m or 1h30m; a number alone is seconds.
func (v *variables) duration(name string, def time.Duration) time.Duration {
	s, ok := v.m[name]
	if !ok {
		return def
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		v.fail(name, "want a duration such as 30s or 5m")
		return def
	}
	return d
}

// unsupported refuses a value that asks for what there is not.
func (v *variables) unsupported(name string, asked bool, remedy string) {
	if asked {
		v.fail(name, "this proxy does not do that; %s", remedy)
	}
}

func (v *variables) mode(e *Environment) {
	switch v.text("PROXY_MODE", "shared") {
	case "dedicated":
		e.Options.Mode = ModeDedicated
		parts := strings.Split(v.text("PROXY_WORKLOAD_INFO", ""), "/")
		if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
			v.fail("PROXY_WORKLOAD_INFO", "PROXY_MODE=dedicated needs NAMESPACE/NAME/SERVICEACCOUNT")
			return
		}
		e.Options.Workload = WorkloadInfo{Namespace: parts[0], Name: parts[1], ServiceAccount: parts[2]}
	case "shared":
		v.fail("PROXY_MODE", "serving a node's pods needs its agent, which this version does not speak to; set PROXY_MODE=dedicated")
	default:
		v.fail("PROXY_MODE", "want shared or dedicated")
	}
	v.unsupported("ENABLE_PROXY", !v.boolean("ENABLE_PROXY", true), "leave it out")
	v.unsupported("UNSTABLE_ENABLE_SOCKS5", v.boolean("UNSTABLE_ENABLE_SOCKS5", false), "leave it out")
	v.unsupported("TLS12_ENABLED", v.boolean("TLS12_ENABLED", false), "tunnels are TLS 1.3 only")
	v.unsupported("FAKE_CA", v.boolean("FAKE_CA", false), "give certificate files")
}

// ports reads PROXY_CONFIG.
func (v *variables) ports(e *Environment) {
	cfg := struct {
		ProxyAdminPort uint16 `yaml:"proxyAdminPort"`
		StatsPort      uint16 `yaml:"statsPort"`
	}{15000, 15020}
	if text := v.text("PROXY_CONFIG", ""); text != "" {
		if err := yaml.Unmarshal([]byte(text), &cfg); err != nil {
			v.fail("PROXY_CONFIG", "want a ProxyConfig in YAML: %v", err)
		}
	}
	e.AdminPort, e.StatsPort = cfg.ProxyAdminPort, cfg.StatsPort
}

func (v *variables) source(e *Environment) {
	e.LocalXDSPath, e.LocalXDS = v.text("LOCAL_XDS_PATH", ""), v.text("LOCAL_XDS", "")
	switch {
	case v.text("XDS_ADDRESS", "") != "":
		v.fail("XDS_ADDRESS", "learning the mesh from a control plane is not built yet; set XDS_ADDRESS= and LOCAL_XDS_PATH")
	case e.LocalXDSPath != "" && e.LocalXDS != "":
		v.fail("LOCAL_XDS", "set either LOCAL_XDS or LOCAL_XDS_PATH")
	case e.LocalXDSPath == "" && e.LocalXDS == "":
		v.fail("LOCAL_XDS_PATH", "there is nothing to learn the mesh from; name a file")
	}
	v.unsupported("XDS_ON_DEMAND", v.boolean("XDS_ON_DEMAND", false), "leave it out")
}

func (v *variables) sockets(e *Environment) {
	s := &e.Options.Sockets
	mark := uint64(0)
	if e.Options.Mode == ModeInPod {
		mark = 0x539
	}
	s.Mark = uint32(v.number("PACKET_MARK", mark, 0, 1<<32-1))
	s.ReusePort = v.boolean("INPOD_PORT_REUSE", true)
	s.IPv4Only = !v.boolean("IPV6_ENABLED", true)
	if _, set := v.m["ENABLE_ORIG_SRC"]; set {
		s.Spoof = capture.SpoofNever
		if v.boolean("ENABLE_ORIG_SRC", false) {
			s.Spoof = capture.SpoofRequired
		}
	}
	s.KeepAlive = capture.DefaultKeepAlive
	s.KeepAlive.Enable = v.boolean("KEEPALIVE_ENABLED", true)
	s.KeepAlive.Idle = v.duration("KEEPALIVE_TIME", s.KeepAlive.Idle)
	s.KeepAlive.Interval = v.duration("KEEPALIVE_INTERVAL", s.KeepAlive.Interval)
	s.KeepAlive.Count = int(v.number("KEEPALIVE_RETRIES", uint64(s.KeepAlive.Count), 1, 127))
	if v.boolean("USER_TIMEOUT_ENABLED", false) {
		s.UserTimeout = s.KeepAlive.Idle + time.Duration(s.KeepAlive.Count)*s.KeepAlive.Interval
	}
	v.boolean("LOCALHOST_APP_TUNNEL", true)
}

func (v *variables) limits(e *Environment) {
	e.Options.HideBaggage = !v.boolean("ENABLE_RESPONSE_BAGGAGE", true)
	e.Options.PoolStreams = int(v.number("POOL_MAX_STREAMS_PER_CONNECTION", 100, 1, 1<<16-1))
	e.Options.PoolIdle = v.duration("POOL_UNUSED_RELEASE_TIMEOUT", 5*time.Minute)
	for _, name := range []string{"HTTP2_STREAM_WINDOW_SIZE", "HTTP2_CONNECTION_WINDOW_SIZE"} {
		v.number(name, 0, 1, 1<<31-1)
	}
	v.number("HTTP2_FRAME_SIZE", 0, 1<<14, 1<<24-1)
	if s := v.text("ZTUNNEL_WORKER_THREADS", ""); s != "" {
		if n, err := strconv.ParseUint(strings.TrimSuffix(s, "%"), 10, 16); err != nil || (n == 0 && strings.HasSuffix(s, "%")) {
			v.fail("ZTUNNEL_WORKER_THREADS", "want a number, or a percentage of the processors")
		}
	}
	grace := v.number("TERMINATION_GRACE_PERIOD_SECONDS", 0, 0, 1<<31)
	def := 5 * time.Second
	switch {
	case grace > 10:
		def = time.Duration(grace-5) * time.Second
	case grace > 0:
		def = time.Duration(max(grace-1, 1)) * time.Second
	}
	e.Options.DrainTime = v.duration("CONNECTION_TERMINATION_DEADLINE", def)
}

func (v *variables) dns(e *Environment) {
	e.Options.DNS = strings.EqualFold(v.text("ISTIO_META_DNS_CAPTURE", "true"), "true")
	const name = "ISTIO_META_DNS_PROXY_ADDR"
	s, set := v.m[name]
	if !set {
		return
	}
	if port, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + port
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || !ap.Addr().IsLoopback() || ap.Port() != PortDNS {
		v.fail(name, "want localhost:%d, where the redirection rules send queries", PortDNS)
	}
}

func (v *variables) logs(e *Environment) {
	switch v.text("LOG_FORMAT", "plain") {
	case "json":
		e.JSONLog = true
	case "plain":
	default:
		v.fail("LOG_FORMAT", "want plain or json")
	}
	// Of RUST_LOG only the level without a target means something here.
	for part := range strings.SplitSeq(v.text("RUST_LOG", ""), ",") {
		switch part = strings.ToLower(strings.TrimSpace(part)); part {
		case "debug", "info", "warn", "error":
			e.LogLevel = part
		case "trace":
			e.LogLevel = "debug"
		case "off":
			e.LogLevel = "error"
		}
	}
}
