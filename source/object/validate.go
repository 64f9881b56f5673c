package object

import (
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Labels and annotations that mean something to the mesh.
const (
	labelMode        = "istio.io/dataplane-mode"
	labelWaypoint    = "istio.io/use-waypoint"
	labelWaypointNS  = "istio.io/use-waypoint-namespace"
	labelWaypointFor = "istio.io/waypoint-for"
	labelBinding     = "policy.cairnproxy.dev/waypoint-binding"
	labelGatewayName = "gateway.networking.k8s.io/gateway-name"
	labelTunnel      = "networking.istio.io/tunnel"
	annotationForSA  = "istio.io/for-service-account"
	annotationDryRun = "istio.io/dry-run"
	annotationDist   = "networking.istio.io/traffic-distribution"
)

// checkMeta finds names and labels that Kubernetes would refuse. Names become
// part of identities, hostnames and log lines: nothing else may get into them.
func (o *Object) checkMeta() {
	m := o.meta()
	valid := isSubdomain
	if o.Kind.Kind == "Service" || o.Kind.Kind == "Namespace" {
		valid = isLabel
	}
	bad := func(path, format string, args ...any) {
		o.flaw().faults = append(o.flaw().faults, fault{path, fmt.Sprintf(format, args...)})
	}
	switch name, ns := m.GetName(), m.GetNamespace(); {
	case name == "":
		bad("metadata.name", "the object has no name; give it one")
	case !valid(name):
		bad("metadata.name", "%q is not a valid name; use lower-case letters, digits and '-'", clip(name))
	case ns != "" && !isLabel(ns):
		bad("metadata.namespace", "%q is not a valid namespace; use lower-case letters, digits and '-'", clip(ns))
	}
	if o.flaws != nil {
		o.flaws.nameless = len(o.flaws.faults) > 0
	}
	labelFaults("metadata.labels", m.GetLabels(), bad)
}

// checkLabels refuses labels that Kubernetes would refuse.
func (t *translator) checkLabels(o *Object, path string, labels map[string]string) {
	labelFaults(path, labels, func(path, format string, args ...any) { t.bad(o, path, format, args...) })
}

func labelFaults(path string, labels map[string]string, bad func(path, format string, args ...any)) {
	for k, v := range labels {
		labelFault(path, k, v, bad)
	}
}

func labelFault(path, k, v string, bad func(path, format string, args ...any)) {
	if !isLabelKey(k) {
		bad(path, "%q is not a valid label; use letters, digits, '-', '_', '.' and at most one '/'", clip(k))
	} else if !isLabelValue(v) {
		bad(path+"["+k+"]", "%q is not a valid label value; use up to 63 letters, digits, '-', '_' and '.'", clip(v))
	}
}

func (t *translator) checkGrant(o *Object, g *gwv1.ReferenceGrant) {
	if len(g.Spec.From) == 0 {
		t.bad(o, "spec.from", "the grant is for nobody; list who may refer here")
	}
	if len(g.Spec.To) == 0 {
		t.bad(o, "spec.to", "the grant allows nothing; list what may be referred to")
	}
}

// isLabel reports whether s is a DNS label (RFC 1123) in lower case.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// isSubdomain reports whether s is a DNS name in lower case.
func isSubdomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for {
		head, rest, more := strings.Cut(s, ".")
		if !isLabel(head) {
			return false
		}
		if !more {
			return true
		}
		s = rest
	}
}

func isLabelKey(s string) bool {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		return isSubdomain(prefix) && name != "" && isLabelValue(name)
	}
	return s != "" && isLabelValue(s)
}

func isLabelValue(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func alnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// isToken reports whether s is a field name of RFC 9110.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alnum(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// isFieldValue reports whether s may be sent as the value of a field.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " \t") == s
}

// clip shortens what a message quotes.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

const portRemedy = "use a number from 1 to 65535"

// port checks a port number and returns it, 0 if it is none.
func (t *translator) port(o *Object, path string, n int64) uint16 {
	if n < 1 || n > 65535 {
		t.bad(o, path, "%d is not a port; %s", n, portRemedy)
		return 0
	}
	return uint16(n)
}

// addr parses an IP address; zones and IPv4-mapped forms are refused.
func (t *translator) addr(o *Object, path, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		t.bad(o, path, "%q is not an IP address; write it like 10.0.0.1 or 2001:db8::1", clip(s))
		return netip.Addr{}, false
	}
	return a, true
}

// prefix parses an address block; an address alone is a block of one.
func (t *translator) prefix(o *Object, path, s string) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			return netip.PrefixFrom(a, a.BitLen()), true
		}
	} else if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return p.Masked(), true
	}
	t.bad(o, path, "%q is not an address block; write it like 10.0.0.0/8", clip(s))
	return netip.Prefix{}, false
}

var durationForm = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// duration parses a Gateway API duration (GEP-2257).
func (t *translator) duration(o *Object, path string, d *gwv1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil || !durationForm.MatchString(string(*d)) {
		t.bad(o, path, "%q is not a duration; write it like 10s, 500ms or 1m30s", clip(string(*d)))
		return 0
	}
	return v
}

// maxRegex is the longest expression that is compiled, Gateway API's limit for a header's value,
// and maxProgram how many instructions it may become: what the router takes.
const (
	maxRegex   = 4096
	maxProgram = 4096
)

// regex checks an RE2 expression, and reports whether it is one.
func (t *translator) regex(o *Object, path, expr string) bool {
	if len(expr) > maxRegex {
		t.bad(o, path, "the expression is %d bytes long; keep it to %d", len(expr), maxRegex)
		return false
	}
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		t.bad(o, path, "%s is not a regular expression (%s); use RE2 syntax", strconv.Quote(clip(expr)), strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		return false
	}
	if prog, err := syntax.Compile(parsed.Simplify()); err != nil || len(prog.Inst) > maxProgram {
		t.bad(o, path, "%s would take too long to compare; use fewer or smaller repetitions", strconv.Quote(clip(expr)))
		return false
	}
	return true
}

// tcp reports whether a Kubernetes protocol field means TCP; a bad one is a problem.
func (t *translator) tcp(o *Object, path string, p corev1.Protocol) bool {
	switch p {
	case "", corev1.ProtocolTCP:
		return true
	case corev1.ProtocolUDP, corev1.ProtocolSCTP:
		return false
	}
	t.bad(o, path, "%q is not a protocol; use TCP, UDP or SCTP", clip(string(p)))
	return false
}
