package tunnel

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// Port is where HBONE is spoken.
const Port = 15008

// Authority is the destination that a CONNECT names.
type Authority struct {
	// Host is the name, or the address as text without brackets.
	Host string
	Port uint16
	// Addr is valid when the host is an IP address; IPv4 in IPv6 is unwrapped.
	Addr netip.AddrPort
}

var errAuthority = errors.New("authority is neither IP:port nor host:port")

// ParseAuthority parses a CONNECT authority: "10.0.0.1:80", "[fd00::1]:80" or
// "host.name:80". Everything else, userinfo, zones and port 0 included, is an error.
func ParseAuthority(s string) (Authority, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		if ap.Addr().Zone() != "" || ap.Port() == 0 {
			return Authority{}, errAuthority
		}
		ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		return Authority{Host: ap.Addr().String(), Port: ap.Port(), Addr: ap}, nil
	}
	host, port, ok := strings.Cut(s, ":")
	if !ok || host == "" || len(host) > 253 {
		return Authority{}, errAuthority
	}
	for i := 0; i < len(host); i++ {
		if !hostByte(host[i]) {
			return Authority{}, errAuthority
		}
	}
	if port == "" || port[0] < '0' || port[0] > '9' {
		return Authority{}, errAuthority
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return Authority{}, errAuthority
	}
	return Authority{Host: strings.ToLower(host), Port: uint16(p)}, nil
}

func hostByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '*'
}

// Baggage is what a node proxy tells of the workload behind it. Empty fields
// were not told.
type Baggage struct {
	Cluster, Namespace         string
	WorkloadType, WorkloadName string
	Service, Version           string
	Region, Zone               string
}

// maxBaggage bounds what ParseBaggage looks at.
const maxBaggage = 8 << 10

// AppendBaggage appends the baggage header's value for w.
func AppendBaggage(b []byte, w *mesh.Workload) []byte {
	typ := w.WorkloadType
	switch typ {
	case "deployment", "pod", "job", "cronjob":
	default:
		typ = "deployment"
	}
	start := len(b)
	for _, kv := range [...][2]string{
		{"k8s.cluster.name", w.ClusterID},
		{"k8s.namespace.name", w.Namespace},
		{"k8s." + typ + ".name", w.WorkloadName},
		{"service.name", w.CanonicalName},
		{"service.version", w.CanonicalRevision},
		{"cloud.region", w.Region},
		{"cloud.availability_zone", w.Zone},
	} {
		if kv[1] == "" {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(append(append(b, kv[0]...), '='), kv[1]...)
	}
	return b
}

// ParseBaggage reads a baggage header. It takes what it knows and ignores the
// rest; it never fails.
func ParseBaggage(s string) Baggage {
	var b Baggage
	if len(s) > maxBaggage {
		return b
	}
	for s != "" {
		var item string
		item, s, _ = strings.Cut(s, ",")
		item, _, _ = strings.Cut(item, ";") // properties
		k, v, ok := strings.Cut(item, "=")
		if !ok {
			continue
		}
		b.set(strings.Trim(k, " \t"), strings.Trim(v, " \t"))
	}
	return b
}

func (b *Baggage) set(k, v string) {
	switch k {
	case "k8s.cluster.name":
		b.Cluster = v
	case "k8s.namespace.name":
		b.Namespace = v
	case "k8s.deployment.name", "k8s.pod.name", "k8s.job.name", "k8s.cronjob.name":
		b.WorkloadType = k[len("k8s.") : len(k)-len(".name")]
		b.WorkloadName = v
	case "service.name":
		b.Service = v
	case "service.version":
		b.Version = v
	case "cloud.region":
		b.Region = v
	case "cloud.availability_zone":
		b.Zone = v
	}
}

// AppendForwarded appends the value of a forwarded header (RFC 7239) that
// names the client and, if host is not empty, the service it asked for.
func AppendForwarded(b []byte, client netip.AddrPort, host string) []byte {
	b = append(b, `for="`...)
	b = client.AppendTo(b)
	b = append(b, '"')
	if host != "" {
		b = append(append(b, ";host="...), host...)
	}
	return b
}

// ParseForwarded reads the first element of a forwarded header. Parts that are
// missing or malformed are zero.
func ParseForwarded(s string) (client netip.AddrPort, host string) {
	if len(s) > maxBaggage {
		return
	}
	s, _, _ = strings.Cut(s, ",")
	for s != "" {
		var item string
		item, s, _ = strings.Cut(s, ";")
		k, v, _ := strings.Cut(strings.Trim(item, " \t"), "=")
		v = strings.Trim(v, `"`)
		switch strings.ToLower(k) {
		case "for":
			if ap, err := netip.ParseAddrPort(v); err == nil {
				client = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
			}
		case "host":
			host = v
		}
	}
	return client, host
}

// AppendTraceparent appends a new, unsampled W3C trace context.
func AppendTraceparent(b []byte) []byte {
	var id [24]byte
	for i := 0; i < len(id); i += 8 {
		v := rand.Uint64()
		for j := range 8 {
			id[i+j] = byte(v >> (8 * j))
		}
	}
	id[0] |= 1 // an id of all zeroes is invalid
	id[16] |= 1
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, id[:16])
	b = append(b, '-')
	b = hex.AppendEncode(b, id[16:])
	return append(b, "-00"...)
}

// ValidTraceparent reports whether s has the form of a version 00 trace context.
func ValidTraceparent(s string) bool {
	if len(s) != 55 || s[0] != '0' || s[1] != '0' || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i := 3; i < len(s); i++ {
		c := s[i]
		if i == 35 || i == 52 {
			continue
		}
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
