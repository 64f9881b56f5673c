package object

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"cairnproxy.dev/cairn/source/strictyaml"
	corev1 "k8s.io/api/core/v1"
)

// configMap is what is kept of a ConfigMap: the certificates of authorities, and
// the text of the MeshConfig of one that may hold it.
type configMap struct{ ca, mesh string }

// secret is what is kept of a Secret: a certificate with its key, and the
// certificates of authorities, PEM.
type secret struct{ certificate, key, ca []byte }

func newConfigMap(v *corev1.ConfigMap) *configMap {
	c := &configMap{ca: v.Data["ca.crt"]}
	if v.Name == meshConfigName {
		c.mesh = v.Data[meshConfigKey]
	}
	return c
}

// newSecret reads a kubernetes.io/tls secret, or an opaque one with Istio's names.
func newSecret(v *corev1.Secret) *secret {
	get := func(names ...string) []byte {
		for _, n := range names {
			if s, ok := v.StringData[n]; ok {
				return []byte(s)
			}
			if b, ok := v.Data[n]; ok {
				return b
			}
		}
		return nil
	}
	return &secret{certificate: get("tls.crt", "cert"), key: get("tls.key", "key"), ca: get("ca.crt", "cacert")}
}

// hide takes out of the errors of a Secret whatever they quote: a value that
// could not be read may be a key all the same.
func hide(errs []strictyaml.Error) {
	for i := range errs {
		if e := &errs[i]; !strings.HasPrefix(e.Message, "unknown field ") {
			e.Message = "the value cannot be read, and is not shown here; give base64 text in data, or plain text in stringData"
		}
	}
}

// checkRoots says what is wrong with certificates of authorities, PEM.
func checkRoots(text []byte) error {
	if len(text) == 0 {
		return errors.New("holds nothing")
	}
	found := false
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return errors.New("holds something else than certificates")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("holds a certificate that cannot be parsed")
		}
		found = true
	}
	if !found || strings.TrimSpace(string(text)) != "" {
		return errors.New("is not PEM text of certificates")
	}
	return nil
}

// checkPair says what is wrong with a certificate and its key, without a word of them.
func checkPair(certificate, key []byte) error {
	switch {
	case len(certificate) == 0:
		return errors.New("has no certificate (tls.crt)")
	case len(key) == 0:
		return errors.New("has no key (tls.key)")
	}
	if _, err := tls.X509KeyPair(certificate, key); err != nil {
		return errors.New("holds a certificate and a key that do not go together, or cannot be parsed")
	}
	return nil
}
