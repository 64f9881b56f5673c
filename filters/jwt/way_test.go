package jwt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// meshOf leads from hosts to servers.
type meshOf struct {
	at map[string]string

	mu    sync.Mutex
	dials []string
}

func (m *meshOf) ServiceOf(host string) (mesh.ServiceKey, bool) {
	_, ok := m.at[host]
	return mesh.ServiceKey{Namespace: "ns", Hostname: host}, ok
}

func (m *meshOf) DialService(ctx context.Context, key mesh.ServiceKey, port uint16, alpn string) (net.Conn, error) {
	m.mu.Lock()
	m.dials = append(m.dials, fmt.Sprintf("%s:%d %s", key.Hostname, port, alpn))
	m.mu.Unlock()
	at := m.at[key.Hostname]
	if at == "" {
		return nil, errors.New("it has no endpoint")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", at)
}

// TestWay: keys of a Service are fetched through the mesh, others are not, and nobody outside leads inside.
func TestWay(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, r.Host)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	m := &meshOf{at: map[string]string{"keys.ns": strings.TrimPrefix(plain.URL, "http://"), "tls.ns": strings.TrimPrefix(secure.URL, "https://"), "away.ns": ""}}
	c := newClient(m, nil)
	defer c.CloseIdleConnections()
	for _, tt := range []struct{ name, uri, want, dials string }{
		{"service", "http://keys.ns/k", "keys.ns", "keys.ns:80 http/1.1"},
		{"port", "http://keys.ns:8000/k", "keys.ns:8000", "keys.ns:8000 http/1.1"},
		{"outside", plain.URL, strings.TrimPrefix(plain.URL, "http://"), ""},
		{"no_endpoint", "http://away.ns/k", "error: http://away.ns/k: it has no endpoint", "away.ns:80 http/1.1"},
		{"https", "https://tls.ns/k", "certificate", "tls.ns:443 "}, // of no authority that the system knows
		{"inside", "http://keys.ns/?to=http://keys.ns:81/k", "keys.ns:81", "keys.ns:80 http/1.1,keys.ns:81 http/1.1"},
		{"to_outside", "http://keys.ns/?to=" + plain.URL, strings.TrimPrefix(plain.URL, "http://"), "keys.ns:80 http/1.1"},
		{"from_outside", plain.URL + "?to=http://keys.ns/k", "it sends us from outside the mesh to one of its services", ""},
		{"bad_port", "http://keys.ns:99999/k", "is not a port", ""},
	} {
		m.dials = nil
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		text, err := fetch(ctx, c, tt.uri)
		cancel()
		got := string(text)
		if err != nil {
			got = "error: " + err.Error()
		}
		if !strings.Contains(got, tt.want) || strings.HasPrefix(tt.want, "error") && err == nil {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if d := strings.Join(m.dials, ","); d != tt.dials {
			t.Errorf("%s: dialled %q, want %q", tt.name, d, tt.dials)
		}
	}
}
