package tunnel

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// FuzzAuthority holds that what is accepted names one host and port, and is
// the same when written out and read again.
func FuzzAuthority(f *testing.F) {
	for _, s := range []string{
		"10.0.0.1:80", "[fd00::1]:15008", "web.ns.svc.cluster.local:8080", "[::ffff:10.1.2.3]:1", "A.B:65535", "",
		":80", "a:", "a:0", "a:65536", "[fe80::1%eth0]:80", "u@h:80", "a:80:80", "10.0.0.1:080", "*.example.com:443", "[::1]", "1.2.3:4",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAuthority(s)
		if err != nil {
			if a != (Authority{}) {
				t.Errorf("%q: an error and %+v", s, a)
			}
			return
		}
		if a.Port == 0 || a.Host == "" || strings.ContainsAny(a.Host, "@/[]%\r\n\x00 ") || a.Host != strings.ToLower(a.Host) {
			t.Errorf("%q: %+v", s, a)
		}
		if a.Addr.IsValid() && (a.Addr.Addr().Is4In6() || a.Addr.Addr().Zone() != "" || a.Addr.Port() != a.Port || a.Addr.Addr().String() != a.Host) {
			t.Errorf("%q: host %q, address %v", s, a.Host, a.Addr)
		}
		if ip, err := netip.ParseAddr(a.Host); err == nil && !a.Addr.IsValid() {
			t.Errorf("%q: %v is an address and not known as one", s, ip)
		}
		out := a.Host + ":" + strconv.Itoa(int(a.Port))
		if a.Addr.IsValid() {
			out = a.Addr.String()
		}
		if b, err := ParseAuthority(out); err != nil || a != b {
			t.Errorf("%q: %+v, written and read again %+v, %v", s, a, b, err)
		}
	})
}

// FuzzBaggage holds that reading never fails, that what it finds was there, and
// that what is written is read again.
func FuzzBaggage(f *testing.F) {
	for _, s := range []string{
		"k8s.cluster.name=c,k8s.namespace.name=ns,k8s.deployment.name=d,service.name=s,service.version=v1,cloud.region=r,cloud.availability_zone=z",
		"k8s.pod.name=a;p=q , k8s.job.name= b", "k8s.cronjob.name==", ",,,=,;", "service.name", "k8s.deployment.name=a=b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := ParseBaggage(s)
		for _, v := range []string{b.Cluster, b.Namespace, b.WorkloadType, b.WorkloadName, b.Service, b.Version, b.Region, b.Zone} {
			if !strings.Contains(s, v) || strings.ContainsAny(v, ",;") || v != strings.Trim(v, " \t") {
				t.Errorf("%q gave %q", s, v)
			}
		}
		switch b.WorkloadType {
		case "", "deployment", "pod", "job", "cronjob":
		default:
			t.Errorf("%q gave type %q", s, b.WorkloadType)
		}
		w := &mesh.Workload{
			ClusterID: b.Cluster, Namespace: b.Namespace, WorkloadType: b.WorkloadType, WorkloadName: b.WorkloadName,
			CanonicalName: b.Service, CanonicalRevision: b.Version, Region: b.Region, Zone: b.Zone,
		}
		text := string(AppendBaggage([]byte("x"), w))[1:]
		if b.WorkloadName == "" {
			b.WorkloadType = "" // it is not sent without a name
		}
		if got := ParseBaggage(text); len(text) <= maxBaggage && got != b {
			t.Errorf("%q: wrote %q, which reads %+v, want %+v", s, text, got, b)
		}
	})
}

// FuzzForwarded is FuzzBaggage for the forwarded header.
func FuzzForwarded(f *testing.F) {
	for _, s := range []string{
		`for="10.0.0.1:5"`, `for="[fd00::1]:99";host=web.ns`, `host="a";for=1.2.3.4:5, for=x`, `For="[::ffff:1.2.3.4]:1"; HOST=b`,
		`for=;host=`, `;;;=,`, `for="1.2.3.4"`, `for=unknown;by=_x`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		client, host := ParseForwarded(s)
		if !strings.Contains(s, host) || strings.ContainsAny(host, ",;") {
			t.Errorf("%q gave host %q", s, host)
		}
		if client.IsValid() && client.Addr().Is4In6() {
			t.Errorf("%q gave client %v", s, client)
		}
		if !client.IsValid() || strings.ContainsAny(host, "\" \t") {
			return
		}
		text := string(AppendForwarded(nil, client, host))
		if c, h := ParseForwarded(text); len(text) <= maxBaggage && (c != client || h != host) {
			t.Errorf("%q: wrote %q, which reads %v %q, want %v %q", s, text, c, h, client, host)
		}
	})
}

// FuzzTraceparent holds that what we make is valid, and nothing odd is.
func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, s string) {
		if ValidTraceparent(s) && strings.Trim(s, "0123456789abcdef-") != "" {
			t.Errorf("%q counts as valid", s)
		}
		if own := string(AppendTraceparent(nil)); !ValidTraceparent(own) {
			t.Errorf("%q does not count as valid", own)
		}
	})
}
