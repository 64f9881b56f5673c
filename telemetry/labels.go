package telemetry

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"cairnproxy.dev/cairn/mesh"
)

// The values of labels that consumers of Istio's metrics look for.
const (
	ReporterSource      = "source"
	ReporterDestination = "destination"
	ReporterWaypoint    = "waypoint"

	SecurityMutualTLS = "mutual_tls"
	SecurityNone      = "none"

	// Unknown stands for every label that is not known.
	Unknown = "unknown"
	// NoFlags is the response_flags of success.
	NoFlags = "-"
)

// maxLabel bounds a label's value in bytes. The longest honest one is a SPIFFE
// URI: three names of at most 253 bytes are rare, 256 in all is common practice.
const maxLabel = 256

// WorkloadLabels is what metrics say of the source or the destination of
// traffic. Empty fields are exposed as "unknown".
type WorkloadLabels struct {
	Name              string // source_workload: the Deployment's name
	CanonicalService  string
	CanonicalRevision string
	Namespace         string // source_workload_namespace
	Principal         string // the SPIFFE URI, with its scheme
	App               string
	Version           string
	Cluster           string
	Region            string // TCP only
	Zone              string // TCP only
}

// WorkloadLabelsOf returns what the mesh knows of a workload, as ztunnel and
// istiod's waypoints say it: app and version are the canonical name and revision.
// Principal stays empty: it is what the peer proved, not what the mesh expects.
// A nil workload gives no labels.
func WorkloadLabelsOf(w *mesh.Workload) WorkloadLabels {
	if w == nil {
		return WorkloadLabels{}
	}
	name := w.WorkloadName
	if name == "" {
		name = w.Name
	}
	return WorkloadLabels{
		Name:              name,
		CanonicalService:  w.CanonicalName,
		CanonicalRevision: w.CanonicalRevision,
		Namespace:         w.Namespace,
		App:               w.CanonicalName,
		Version:           w.CanonicalRevision,
		Cluster:           w.ClusterID,
		Region:            w.Region,
		Zone:              w.Zone,
	}
}

// ServiceLabels is what metrics say of the destination service.
type ServiceLabels struct {
	Host      string // destination_service
	Name      string // destination_service_name
	Namespace string // destination_service_namespace
}

// ServiceLabelsOf returns the labels of a service; none for nil.
func ServiceLabelsOf(s *mesh.Service) ServiceLabels {
	if s == nil {
		return ServiceLabels{}
	}
	return ServiceLabels{Host: s.Key.Hostname, Name: s.Name, Namespace: s.Key.Namespace}
}

// HTTPLabels is the label set of istio_requests_total and its histograms.
type HTTPLabels struct {
	Reporter      string // ReporterWaypoint
	Source        WorkloadLabels
	Destination   WorkloadLabels
	Service       ServiceLabels
	Protocol      string // request_protocol: "http" or "grpc"
	ResponseCode  int    // 0 when no response was sent
	GRPCStatus    string // grpc_response_status: decimal; stays empty for plain HTTP
	ResponseFlags string // Envoy's short flags, joined by commas
	Security      string // connection_security_policy
}

// TCPLabels is the label set of the istio_tcp_* metrics.
type TCPLabels struct {
	Reporter      string
	Source        WorkloadLabels
	Destination   WorkloadLabels
	Service       ServiceLabels
	ResponseFlags string // "-" while the connection is open and after success
	Security      string
}

func (w WorkloadLabels) normal() WorkloadLabels {
	for _, p := range w.fields() {
		*p = orUnknown(*p)
	}
	return w
}

func (w *WorkloadLabels) fields() [10]*string {
	return [...]*string{&w.Name, &w.CanonicalService, &w.CanonicalRevision, &w.Namespace, &w.Principal, &w.App, &w.Version, &w.Cluster, &w.Region, &w.Zone}
}

func (s ServiceLabels) normal() ServiceLabels {
	return ServiceLabels{orUnknown(s.Host), orUnknown(s.Name), orUnknown(s.Namespace)}
}

func (l HTTPLabels) normal() HTTPLabels {
	l.Reporter = orUnknown(l.Reporter)
	// HTTP metrics have no region and zone: they must not tell sets apart.
	l.Source.Region, l.Source.Zone = "", ""
	l.Destination.Region, l.Destination.Zone = "", ""
	l.Source, l.Destination, l.Service = l.Source.normal(), l.Destination.normal(), l.Service.normal()
	l.Protocol, l.Security = orUnknown(l.Protocol), orUnknown(l.Security)
	l.GRPCStatus, l.ResponseFlags = clean(l.GRPCStatus), orDash(l.ResponseFlags)
	if l.ResponseCode < 0 || l.ResponseCode > 999 {
		l.ResponseCode = 0
	}
	return l
}

// overflow keeps what has few values and tells whether the mesh is well.
func (l HTTPLabels) overflow() HTTPLabels {
	return HTTPLabels{Reporter: l.Reporter, ResponseCode: l.ResponseCode}.normal()
}

func (l HTTPLabels) clone() HTTPLabels {
	for _, p := range []*string{&l.Reporter, &l.Service.Host, &l.Service.Name, &l.Service.Namespace, &l.Protocol, &l.GRPCStatus, &l.ResponseFlags, &l.Security} {
		*p = strings.Clone(*p)
	}
	l.Source, l.Destination = l.Source.clone(), l.Destination.clone()
	return l
}

func (w WorkloadLabels) clone() WorkloadLabels {
	for _, p := range w.fields() {
		*p = strings.Clone(*p)
	}
	return w
}

func (l TCPLabels) normal() TCPLabels {
	l.Reporter, l.Security = orUnknown(l.Reporter), orUnknown(l.Security)
	l.Source, l.Destination, l.Service = l.Source.normal(), l.Destination.normal(), l.Service.normal()
	l.ResponseFlags = orDash(l.ResponseFlags)
	return l
}

func (l TCPLabels) overflow() TCPLabels { return TCPLabels{Reporter: l.Reporter}.normal() }

func (l TCPLabels) clone() TCPLabels {
	for _, p := range []*string{&l.Reporter, &l.Service.Host, &l.Service.Name, &l.Service.Namespace, &l.ResponseFlags, &l.Security} {
		*p = strings.Clone(*p)
	}
	l.Source, l.Destination = l.Source.clone(), l.Destination.clone()
	return l
}

// list is the exposed labels, sorted by name.
func (l *HTTPLabels) list() [25]Label {
	src, dst := &l.Source, &l.Destination
	return [...]Label{
		{"connection_security_policy", l.Security},
		{"destination_app", dst.App},
		{"destination_canonical_revision", dst.CanonicalRevision},
		{"destination_canonical_service", dst.CanonicalService},
		{"destination_cluster", dst.Cluster},
		{"destination_principal", dst.Principal},
		{"destination_service", l.Service.Host},
		{"destination_service_name", l.Service.Name},
		{"destination_service_namespace", l.Service.Namespace},
		{"destination_version", dst.Version},
		{"destination_workload", dst.Name},
		{"destination_workload_namespace", dst.Namespace},
		{"grpc_response_status", l.GRPCStatus},
		{"reporter", l.Reporter},
		{"request_protocol", l.Protocol},
		{"response_code", strconv.Itoa(l.ResponseCode)},
		{"response_flags", l.ResponseFlags},
		{"source_app", src.App},
		{"source_canonical_revision", src.CanonicalRevision},
		{"source_canonical_service", src.CanonicalService},
		{"source_cluster", src.Cluster},
		{"source_principal", src.Principal},
		{"source_version", src.Version},
		{"source_workload", src.Name},
		{"source_workload_namespace", src.Namespace},
	}
}

// list is the exposed labels, sorted by name.
func (l *TCPLabels) list() [27]Label {
	src, dst := &l.Source, &l.Destination
	return [...]Label{
		{"connection_security_policy", l.Security},
		{"destination_app", dst.App},
		{"destination_canonical_revision", dst.CanonicalRevision},
		{"destination_canonical_service", dst.CanonicalService},
		{"destination_cluster", dst.Cluster},
		{"destination_principal", dst.Principal},
		{"destination_region", dst.Region},
		{"destination_service", l.Service.Host},
		{"destination_service_name", l.Service.Name},
		{"destination_service_namespace", l.Service.Namespace},
		{"destination_version", dst.Version},
		{"destination_workload", dst.Name},
		{"destination_workload_namespace", dst.Namespace},
		{"destination_zone", dst.Zone},
		{"reporter", l.Reporter},
		{"request_protocol", "tcp"},
		{"response_flags", l.ResponseFlags},
		{"source_app", src.App},
		{"source_canonical_revision", src.CanonicalRevision},
		{"source_canonical_service", src.CanonicalService},
		{"source_cluster", src.Cluster},
		{"source_principal", src.Principal},
		{"source_region", src.Region},
		{"source_version", src.Version},
		{"source_workload", src.Name},
		{"source_workload_namespace", src.Namespace},
		{"source_zone", src.Zone},
	}
}

func orUnknown(v string) string {
	if v == "" {
		return Unknown
	}
	return clean(v)
}

func orDash(v string) string {
	if v == "" {
		return NoFlags
	}
	return clean(v)
}

// clean makes v fit to be a label's value: valid UTF-8 (one bad value would
// spoil the whole scrape) and not long. It returns v itself if that is so.
func clean(v string) string {
	if len(v) > maxLabel {
		v = v[:maxLabel]
		for range utf8.UTFMax - 1 { // not in the middle of a rune
			if r, n := utf8.DecodeLastRuneInString(v); r == utf8.RuneError && n == 1 {
				v = v[:len(v)-1]
			}
		}
	}
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "?") // never longer than before
	}
	return v
}
