package mesh

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A client's key does not come out by any of the ways in which values are printed.
func TestBackendTLSHidesItsKey(t *testing.T) {
	b := &BackendTLS{Hostname: "a", Certificate: []byte("CERT"), Key: []byte("SECRET")}
	p := &BackendPolicy{TLS: b}
	j, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	secret := func(s string) bool {
		return strings.Contains(s, "SECRET") || strings.Contains(s, "U0VDUkVU") || strings.Contains(s, fmt.Sprint([]byte("SECRET")[:3])[:8])
	}
	for name, s := range map[string]string{
		"json": string(j), "%v": fmt.Sprintf("%v", b), "%+v": fmt.Sprintf("%+v", *b), "%#v": fmt.Sprintf("%#v", b), "%s": fmt.Sprintf("%s", *b), "policy": fmt.Sprintf("%+v", *p),
	} {
		if secret(s) {
			t.Errorf("%s tells the key: %s", name, s)
		}
	}
}
