package object

import (
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// ruleTLS translates a tls block. What Istio reads from files of a sidecar comes
// from Secrets here; a block that cannot be followed lets nothing pass.
func (t *translator) ruleTLS(o *Object, path string, in *RuleTLS) *mesh.BackendTLS {
	if in == nil {
		return nil
	}
	switch in.Mode {
	case "SIMPLE", "MUTUAL":
	case "", "DISABLE":
		return nil
	case "ISTIO_MUTUAL": // between workloads of the mesh there is HBONE, whatever is said here
		return nil
	default:
		t.bad(o, path+".mode", "%q is not known; use DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL", clip(in.Mode))
		return &mesh.BackendTLS{Broken: "the mode of TLS is not known"}
	}
	out := &mesh.BackendTLS{Policy: o.Name, SNI: strings.ToLower(in.SNI), SANs: in.SubjectAltNames}
	if in.SNI != "" && !isSubdomain(out.SNI) {
		t.bad(o, path+".sni", "%q is not a host name; write a DNS name", clip(in.SNI))
	}
	if len(out.SANs) == 0 {
		out.Hostname = out.SNI
	}
	for field, file := range map[string]string{"clientCertificate": in.ClientCertificate, "privateKey": in.PrivateKey, "caCertificates": in.CACertificates} {
		if file != "" && (field != "caCertificates" || file != "system") {
			out.Broken = "its tls names files of a sidecar, which a waypoint does not have"
		}
	}
	if out.Broken != "" {
		t.unresolved(o, path, reasonInvalid, "files of a sidecar are not read: requests to this host answer 500; put the certificates into a Secret and name it in credentialName, or use a BackendTLSPolicy")
	}
	if in.CACRL != "" {
		t.note(o, "%s.caCrl is not honoured: revocation lists are not read", path)
	}
	if deref(in.InsecureSkipVerify, false) {
		t.note(o, "%s.insecureSkipVerify is not honoured: certificates are always verified", path)
	}
	t.ruleCredential(o, path, in, out)
	return out
}

func (t *translator) ruleCredential(o *Object, path string, in *RuleTLS, out *mesh.BackendTLS) {
	path += ".credentialName"
	name := strings.TrimPrefix(in.CredentialName, "kubernetes://")
	switch {
	case name == "" && in.Mode == "MUTUAL" && out.Broken == "":
		t.bad(o, path, "mode MUTUAL presents a certificate; name its Secret")
		out.Broken = "there is no client certificate"
	case name == "":
		out.System = true
		return
	case in.Mode == "MUTUAL":
		t.clientCertificate(o, path, name, out)
	}
	at := mesh.Name{Namespace: o.Name.Namespace, Name: name}
	if s, ok := lookUp[*secret](t, kindSecret, mesh.Name{Namespace: at.Namespace, Name: name + "-cacert"}); ok {
		out.Roots = s.ca
	} else if s, ok := lookUp[*secret](t, kindSecret, at); ok {
		out.Roots = s.ca
	} else if in.Mode == "SIMPLE" {
		t.unresolved(o, path, reasonNotFound, "Secret %s does not exist; correct the name or add it", clip(at.String()))
		out.Broken = "Secret " + clip(at.String()) + " does not exist"
	}
	if len(out.Roots) == 0 {
		out.System = true
	} else if err := checkRoots(out.Roots); err != nil {
		t.unresolved(o, path, reasonInvalidCA, "key ca.crt of Secret %s %s; put PEM certificates there", at, err)
		out.Broken = "Secret " + at.String() + " " + err.Error()
	}
}
