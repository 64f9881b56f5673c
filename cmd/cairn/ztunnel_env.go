package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/proxy/ztunnel"
	"cairnproxy.dev/cairn/proxy/ztunnel/capture"
)

// ztunnelEnv is what ztunnel's environment variables say.
type ztunnelEnv struct {
	options                  ztunnel.Options
	xdsPath, xdsText         string
	network, cluster, domain string
	admin, stats             string
	logLevel, logFormat      string
}

// readZtunnelEnv reads the variables that ztunnel reads, with its defaults. A
// bad value is an error that names the variable.
func readZtunnelEnv(lookup func(string) (string, bool)) (ztunnelEnv, error) {
	r := envReader{lookup: lookup}
	var e ztunnelEnv
	if mode := r.text("PROXY_MODE", "shared"); mode != "dedicated" {
		r.bad("PROXY_MODE", mode, "dedicated, the only mode of this command")
	}
	if addr := r.text("XDS_ADDRESS", "https://istiod.istio-system.svc:15012"); addr != "" {
		r.bad("XDS_ADDRESS", addr, `the empty string, and LOCAL_XDS_PATH for the description of the mesh`)
	}
	e.xdsPath, e.xdsText = r.text("LOCAL_XDS_PATH", ""), r.text("LOCAL_XDS", "")
	switch {
	case e.xdsPath != "" && e.xdsText != "":
		r.bad("LOCAL_XDS_PATH", e.xdsPath, "one of LOCAL_XDS_PATH and LOCAL_XDS")
	case e.xdsPath == "" && e.xdsText == "":
		r.bad("LOCAL_XDS_PATH", "", "a file that describes the mesh")
	}
	e.network = r.text("NETWORK", "")
	e.cluster = r.text("ISTIO_META_CLUSTER_ID", r.text("CLUSTER_ID", "Kubernetes"))
	e.domain = r.text("CLUSTER_DOMAIN", "cluster.local")
	e.logFormat = r.text("LOG_FORMAT", "")
	e.logLevel = rustLevel(r.text("RUST_LOG", ""))
	e.options = ztunnel.Options{
		Mode: ztunnel.ModeDedicated, Node: r.text("NODE_NAME", ""), Workload: r.workload("PROXY_WORKLOAD_INFO"),
		Sockets:     r.sockets(),
		DNS:         r.dnsCapture(),
		DrainTime:   r.drainTime(),
		PoolStreams: int(r.number("POOL_MAX_STREAMS_PER_CONNECTION", 100, math.MaxInt32)),
		PoolIdle:    r.duration("POOL_UNUSED_RELEASE_TIMEOUT", 5*time.Minute),
		HideBaggage: !r.boolean("ENABLE_RESPONSE_BAGGAGE", true),
	}
	if e.options.DNS {
		e.options.Nameservers = nameservers("/etc/resolv.conf")
	}
	return e, errors.Join(r.errs...)
}

// envReader reads variables and gathers what is wrong with them.
type envReader struct {
	lookup func(string) (string, bool)
	errs   []error
}

func (r *envReader) bad(name, value, want string) {
	r.errs = append(r.errs, fmt.Errorf("environment variable %s is %q; set it to %s", name, value, want))
}

// text returns a variable's value; one that is set to nothing is not unset.
func (r *envReader) text(name, def string) string {
	if v, ok := r.lookup(name); ok {
		return v
	}
	return def
}

func (r *envReader) boolean(name string, def bool) bool {
	switch v := r.text(name, strconv.FormatBool(def)); v {
	case "true":
		return true
	case "false":
		return false
	default:
		r.bad(name, v, "true or false")
		return def
	}
}

func (r *envReader) number(name string, def, limit uint64) uint64 {
	v, ok := r.lookup(name)
	if !ok {
		return def
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > limit {
		r.bad(name, v, fmt.Sprintf("a number from 0 to %d", limit))
		return def
	}
	return n
}

// duration reads "30s", "5m", "1h30m", or a number of seconds.
func (r *envReader) duration(name string, def time.Duration) time.Duration {
	v, ok := r.lookup(name)
	if !ok {
		return def
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		r.bad(name, v, "a duration like 30s")
		return def
	}
	return d
}

func (r *envReader) workload(name string) ztunnel.WorkloadInfo {
	v := r.text(name, "")
	p := strings.Split(v, "/")
	if len(p) != 3 || p[0] == "" || p[1] == "" || p[2] == "" {
		r.bad(name, v, "namespace/name/serviceaccount")
		return ztunnel.WorkloadInfo{}
	}
	return ztunnel.WorkloadInfo{Namespace: p[0], Name: p[1], ServiceAccount: p[2]}
}

func (r *envReader) sockets() capture.Sockets {
	s := capture.Sockets{
		Mark:     uint32(r.number("PACKET_MARK", 0, math.MaxUint32)),
		IPv4Only: !r.boolean("IPV6_ENABLED", true),
	}
	if _, ok := r.lookup("ENABLE_ORIG_SRC"); ok {
		s.Spoof = capture.SpoofNever
		if r.boolean("ENABLE_ORIG_SRC", true) {
			s.Spoof = capture.SpoofRequired
		}
	}
	keep := capture.DefaultKeepAlive
	keep.Enable = r.boolean("KEEPALIVE_ENABLED", true)
	keep.Idle = r.duration("KEEPALIVE_TIME", keep.Idle)
	keep.Interval = r.duration("KEEPALIVE_INTERVAL", keep.Interval)
	keep.Count = int(r.number("KEEPALIVE_RETRIES", uint64(keep.Count), math.MaxInt16))
	s.KeepAlive = keep
	if r.boolean("USER_TIMEOUT_ENABLED", false) {
		s.UserTimeout = keep.Idle + time.Duration(keep.Count)*keep.Interval
	}
	return s
}

// dnsCapture is on unless the variable says anything but "true".
func (r *envReader) dnsCapture() bool {
	v, ok := r.lookup("ISTIO_META_DNS_CAPTURE")
	return !ok || strings.EqualFold(v, "true")
}

// drainTime leaves some of the pod's grace period for the rest of the shutdown.
func (r *envReader) drainTime() time.Duration {
	if d := r.duration("CONNECTION_TERMINATION_DEADLINE", 0); d > 0 {
		return d
	}
	n, ok := r.lookup("TERMINATION_GRACE_PERIOD_SECONDS")
	if !ok {
		return 5 * time.Second
	}
	grace := r.duration("TERMINATION_GRACE_PERIOD_SECONDS", 0)
	if _, err := strconv.Atoi(n); err != nil {
		r.bad("TERMINATION_GRACE_PERIOD_SECONDS", n, "a number of seconds")
	}
	if grace > 10*time.Second {
		return grace - 5*time.Second
	}
	return max(grace-time.Second, time.Second)
}

// rustLevel takes the plain level of a filter like "info,access=debug".
func rustLevel(filter string) string {
	for _, part := range strings.Split(filter, ",") {
		switch l := strings.ToLower(strings.TrimSpace(part)); l {
		case "debug", "info", "warn", "error":
			return l
		case "trace":
			return "debug"
		case "off":
			return "error"
		}
	}
	return ""
}

// nameservers reads the name servers of a resolv.conf, for the names that the
// mesh does not know. A file that cannot be read names none.
func nameservers(path string) []netip.AddrPort {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out
}
