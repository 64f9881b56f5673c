package object

import (
	"bytes"
	"net/url"
	"strings"

	"cairnproxy.dev/cairn/mesh"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// optionClientCertificate is the option of a BackendTLSPolicy that names a Secret of
// its namespace (kubernetes.io/tls) with the certificate to present.
const optionClientCertificate = groupPolicy + "/client-certificate"

// Reasons of BackendTLSPolicy.
const (
	reasonInvalidCA = string(gwv1.BackendTLSPolicyReasonInvalidCACertificateRef)
	reasonNoCA      = string(gwv1.BackendTLSPolicyReasonNoValidCACertificate)
)

// tlsBody translates a BackendTLSPolicy. One that is wrong is attached all the
// same, as one that lets nothing pass: the way to a backend for which TLS is asked is
// never in plain text.
func (t *translator) tlsBody(o *Object, v *gwv1.BackendTLSPolicy, b *policyBody) {
	const path = "spec.validation"
	in := &v.Spec.Validation
	out := &mesh.BackendTLS{Policy: o.Name, SNI: string(in.Hostname)}
	b.backend = &mesh.BackendPolicy{TLS: out}
	if len(v.Spec.TargetRefs) == 0 {
		t.bad(o, "spec.targetRefs", "the policy is attached to nothing; name a Service")
	}
	if !isSubdomain(string(in.Hostname)) {
		t.bad(o, path+".hostname", "%q is not a host name; write the DNS name that the backend's certificate is for", clip(string(in.Hostname)))
	}
	t.subjectAltNames(o, path+".subjectAltNames", in.SubjectAltNames, out)
	if len(out.SANs) == 0 {
		out.Hostname = string(in.Hostname)
	}
	for name := range v.Spec.Options {
		if name != optionClientCertificate {
			t.note(o, "option %q is not honoured", clip(string(name)))
		}
	}
	system := in.WellKnownCACertificates != nil && *in.WellKnownCACertificates != ""
	switch {
	case system && len(in.CACertificateRefs) > 0:
		t.bad(o, path+".wellKnownCACertificates", "caCertificateRefs and wellKnownCACertificates exclude each other; remove one")
	case system && *in.WellKnownCACertificates != gwv1.WellKnownCACertificatesSystem:
		t.bad(o, path+".wellKnownCACertificates", "%q is not known; use System", clip(string(*in.WellKnownCACertificates)))
	case system:
		out.System = true
	case len(in.CACertificateRefs) == 0:
		t.bad(o, path+".caCertificateRefs", "no authority is named; add a ConfigMap with a key ca.crt, or wellKnownCACertificates: System")
	}
	c := goodCondition(conditionResolved)
	b.resolved = &c
	good := system
	for i, ref := range in.CACertificateRefs {
		if system {
			break
		}
		first := len(t.trail)
		if roots := t.authorities(o, elem(path+".caCertificateRefs", i), ref); roots != nil {
			out.Roots, good = append(append(out.Roots, roots...), '\n'), true
		} else if out.Broken == "" {
			out.Broken = t.messageSince(first)
		}
	}
	b.noCA = !good && len(in.CACertificateRefs) > 0
	if name, ok := v.Spec.Options[optionClientCertificate]; ok {
		t.clientCertificate(o, "spec.options["+optionClientCertificate+"]", string(name), out)
	}
	if why := t.refused(); why != "" {
		out.Broken = why
	}
}

func (t *translator) subjectAltNames(o *Object, path string, in []gwv1.SubjectAltName, out *mesh.BackendTLS) {
	t.atMost(o, path, len(in), 5)
	for i, s := range in {
		at := elem(path, i)
		switch s.Type {
		case gwv1.HostnameSubjectAltNameType:
			if !isSubdomain(strings.TrimPrefix(string(s.Hostname), "*.")) {
				t.bad(o, at+".hostname", "%q is not a host name; write a DNS name, with at most a leading \"*.\"", clip(string(s.Hostname)))
			}
			out.SANs = append(out.SANs, string(s.Hostname))
		case gwv1.URISubjectAltNameType:
			if u, err := url.Parse(string(s.URI)); err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" {
				t.bad(o, at+".uri", "%q is not a URI; write one with its scheme, such as spiffe://cluster.local/ns/a/sa/b", clip(string(s.URI)))
			}
			out.SANs = append(out.SANs, string(s.URI))
		default:
			t.bad(o, at+".type", "%q is not known; use Hostname or URI", clip(string(s.Type)))
		}
	}
}

// authorities returns the certificates that a caCertificateRef names; nil when
// there are none, which has been told then.
func (t *translator) authorities(o *Object, path string, ref gwv1.LocalObjectReference) []byte {
	name := mesh.Name{Namespace: o.Name.Namespace, Name: string(ref.Name)}
	var text []byte
	found := false
	switch {
	case ref.Group == groupCore && ref.Kind == "ConfigMap":
		var m *configMap
		if m, found = lookUp[*configMap](t, kindConfigMap, name); found {
			text = []byte(m.ca)
		}
	case ref.Group == groupCore && ref.Kind == "Secret":
		var s *secret
		if s, found = lookUp[*secret](t, kindSecret, name); found {
			text = s.ca
		}
	default:
		t.unresolved(o, path+".kind", reasonInvalidKind, "certificates cannot be taken from %q (group %q); use a ConfigMap", clip(string(ref.Kind)), clip(string(ref.Group)))
		return nil
	}
	if !found {
		t.unresolved(o, path+".name", reasonInvalidCA, "%s %s does not exist; correct the name or add it", ref.Kind, name)
		return nil
	}
	if err := checkRoots(text); err != nil {
		t.unresolved(o, path+".name", reasonInvalidCA, "key ca.crt of %s %s %s; put PEM certificates there", ref.Kind, name, err)
		return nil
	}
	return bytes.TrimSpace(text)
}

// lookUp finds an object by its kind and name.
func lookUp[T any](t *translator, k *Kind, name mesh.Name) (v T, ok bool) {
	o := t.byKey[objectKey{k, name}]
	if o == nil {
		return v, false
	}
	v, ok = o.Value.(T)
	return v, ok
}

// clientCertificate fills in what a Secret of o's namespace holds to be presented.
func (t *translator) clientCertificate(o *Object, path, name string, out *mesh.BackendTLS) {
	first := len(t.trail)
	at := mesh.Name{Namespace: o.Name.Namespace, Name: name}
	s, ok := lookUp[*secret](t, kindSecret, at)
	if !ok {
		t.unresolved(o, path, reasonNotFound, "Secret %s does not exist; correct the name or add it", clip(at.String()))
	} else if err := checkPair(s.certificate, s.key); err != nil {
		t.unresolved(o, path, reasonNotFound, "Secret %s %s; make it one of type kubernetes.io/tls", at, err)
	} else {
		out.Certificate, out.Key = s.certificate, s.key
	}
	if out.Broken == "" {
		out.Broken = t.messageSince(first)
	}
}

// messageSince is the first message since that place of the trail; "" for none.
func (t *translator) messageSince(first int) string {
	if len(t.trail) > first {
		return t.trail[first].message
	}
	return ""
}
