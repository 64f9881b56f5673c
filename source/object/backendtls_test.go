package object_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source/object"
	"github.com/google/go-cmp/cmp"
)

// pair makes a certificate, which signs itself, and its key.
func pair(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ") + "\n"
}

func tlsPolicy(name string, day int, validation, spec string) string {
	return fmt.Sprintf("\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: %s, creationTimestamp: '2026-01-%02dT00:00:00Z'}\nspec: {targetRefs: [{group: '', kind: Service, name: two}], %svalidation: {hostname: two.example, %s}}\n", name, day, spec, validation)
}

const fromMap = "caCertificateRefs: [{group: '', kind: ConfigMap, name: c}]"

func TestBackendTLSPolicy(t *testing.T) {
	cert, _ := pair(t)
	caMap := "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  other: x\n  ca.crt: |\n" + indent(cert)
	name := mesh.Name{Namespace: "default", Name: "b"}
	fine := "Service default/two Accepted true Accepted; Service default/two ResolvedRefs true ResolvedRefs"
	tests := []struct {
		name, text string
		want       mesh.BackendTLS
		broken     string // what of Broken is looked at
		conditions string
	}{
		{"system", tlsPolicy("b", 1, "wellKnownCACertificates: System", ""), mesh.BackendTLS{SNI: "two.example", Hostname: "two.example", System: true}, "", fine},
		{"map", tlsPolicy("b", 1, fromMap, "") + caMap, mesh.BackendTLS{SNI: "two.example", Hostname: "two.example", Roots: []byte(cert)}, "", fine},
		{
			"names", tlsPolicy("b", 1, fromMap+", subjectAltNames: [{type: Hostname, hostname: '*.example'}, {type: URI, uri: 'spiffe://a/b'}]", "") + caMap,
			mesh.BackendTLS{SNI: "two.example", SANs: []string{"*.example", "spiffe://a/b"}, Roots: []byte(cert)},
			"", fine,
		},
		{
			"no-map", tlsPolicy("b", 1, fromMap, ""),
			mesh.BackendTLS{SNI: "two.example", Hostname: "two.example"},
			"ConfigMap default/c does not exist",
			"Service default/two Accepted false NoValidCACertificate; Service default/two ResolvedRefs false InvalidCACertificateRef",
		},
		{
			"bad-map", tlsPolicy("b", 1, fromMap, "") + "\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {ca.crt: junk}}\n",
			mesh.BackendTLS{SNI: "two.example", Hostname: "two.example"},
			"is not PEM text",
			"Service default/two Accepted false NoValidCACertificate; Service default/two ResolvedRefs false InvalidCACertificateRef",
		},
		{
			"kind", tlsPolicy("b", 1, strings.Replace(fromMap, "ConfigMap", "Pod", 1), ""),
			mesh.BackendTLS{SNI: "two.example", Hostname: "two.example"},
			"cannot be taken from",
			"Service default/two Accepted false NoValidCACertificate; Service default/two ResolvedRefs false InvalidKind",
		},
		{
			"half", tlsPolicy("b", 1, "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}, {group: '', kind: ConfigMap, name: c}]", "") + caMap,
			mesh.BackendTLS{SNI: "two.example", Hostname: "two.example", Roots: []byte(cert)},
			"ConfigMap default/gone does not exist",
			"Service default/two Accepted true Accepted; Service default/two ResolvedRefs false InvalidCACertificateRef",
		},
		{
			"invalid", tlsPolicy("b", 1, "wellKnownCACertificates: Mine", ""),
			mesh.BackendTLS{SNI: "two.example", Hostname: "two.example"},
			`"Mine" is not known`,
			"Service default/two Accepted false Invalid; Service default/two ResolvedRefs true ResolvedRefs",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res, _ := translate(t, "f.yaml", twoServed+tt.text, object.Options{})
			tls := port(t, res, "two", 80).Backend.TLS
			if tls == nil {
				t.Fatal("the way is in plain text")
			}
			got := *tls
			if got.Policy != name || (got.Broken == "") != (tt.broken == "") || !strings.Contains(got.Broken, tt.broken) {
				t.Errorf("policy %s, broken %q, want %q", got.Policy, got.Broken, tt.broken)
			}
			got.Policy, got.Broken = mesh.Name{}, ""
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if got := policyConditions(res, "BackendTLSPolicy", "b"); got != tt.conditions {
				t.Errorf("conditions: %s, want %s", got, tt.conditions)
			}
		})
	}
}

func TestOlderBackendTLSPolicyWins(t *testing.T) {
	res, _ := translate(t, "f.yaml", twoServed+tlsPolicy("new", 2, "wellKnownCACertificates: System", "")+
		strings.Replace(tlsPolicy("old", 1, "wellKnownCACertificates: System", ""), "two.example", "old.example", 1)+
		strings.Replace(tlsPolicy("port", 3, "wellKnownCACertificates: System", ""), "name: two}", "name: two, sectionName: grpc}", 1), object.Options{})
	if got := port(t, res, "two", 80).Backend.TLS.SNI; got != "old.example" {
		t.Errorf("port 80 has SNI %s, want that of the older policy", got)
	}
	if got := port(t, res, "two", 90).Backend.TLS.Policy.Name; got != "port" {
		t.Errorf("port 90 has policy %s, want that of the port", got)
	}
	if got := policyConditions(res, "BackendTLSPolicy", "new"); got != "Service default/two Accepted false Conflicted; Service default/two ResolvedRefs true ResolvedRefs" {
		t.Errorf("conditions of the newer: %s", got)
	}
}

func TestBackendTLSPolicyProblems(t *testing.T) {
	one := func(validation string) string {
		return tlsPolicy("b", 1, validation, "") + mark + "\n---\n" + twoServed
	}
	text := func(s string) string { // all on one line
		return strings.Replace(s, "}}\n"+mark, "}} "+mark+"\n", 1)
	}
	const obj, v = "BackendTLSPolicy default/b", "spec.validation."
	checkWrong(t, []wrong{
		{"hostname", text(strings.Replace(one("wellKnownCACertificates: System"), "two.example", "'*.example'", 1)), obj, v + "hostname", "is not a host name"},
		{"both", text(one("wellKnownCACertificates: System, " + fromMap)), obj, v + "wellKnownCACertificates", "exclude each other"},
		{"neither", text(one("")), obj, v + "caCertificateRefs", "no authority is named"},
		{"unknown", text(one("wellKnownCACertificates: Mine")), obj, v + "wellKnownCACertificates", "use System"},
		{"no-map", text(one(fromMap)), obj, v + "caCertificateRefs[0].name", "does not exist"},
		{"kind", text(one("caCertificateRefs: [{group: '', kind: Pod, name: c}]")), obj, v + "caCertificateRefs[0].kind", "use a ConfigMap"},
		{"san-type", text(one("wellKnownCACertificates: System, subjectAltNames: [{type: Email}]")), obj, v + "subjectAltNames[0].type", "use Hostname or URI"},
		{"san-host", text(one("wellKnownCACertificates: System, subjectAltNames: [{type: Hostname, hostname: a_b}]")), obj, v + "subjectAltNames[0].hostname", "is not a host name"},
		{"san-uri", text(one("wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: a}]")), obj, v + "subjectAltNames[0].uri", "is not a URI"},
		{"client", text(strings.Replace(one("wellKnownCACertificates: System"), "validation", "options: {policy.cairnproxy.dev/client-certificate: k}, validation", 1)), obj, "spec.options[policy.cairnproxy.dev/client-certificate]", "does not exist"},
		{"target", text(strings.Replace(one("wellKnownCACertificates: System"), "name: two", "name: three", 1)), obj, "spec.targetRefs[0].name", "does not exist"},
		{"target-kind", text(strings.Replace(one("wellKnownCACertificates: System"), "group: '', kind: Service, name: two", "group: gateway.networking.k8s.io, kind: Gateway, name: wp", 1)), obj, "spec.targetRefs[0].kind", "name a Service"},
		{"section", text(strings.Replace(one("wellKnownCACertificates: System"), "name: two", "name: two, sectionName: x", 1)), obj, "spec.targetRefs[0].sectionName", "no TCP port"},
	})
}
