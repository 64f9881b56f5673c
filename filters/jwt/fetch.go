package jwt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"cairnproxy.dev/cairn/mesh"
)

const (
	// maxText bounds what is fetched.
	maxText = 1 << 20
	// maxRedirects bounds how often a server may send us elsewhere.
	maxRedirects = 3
)

// origin is where keys come from. One field is not empty.
type origin struct {
	inline string // the keys
	uri    string // file, http or https
	issuer string // whose OpenID configuration says where
}

func originOf(rule *mesh.JWTRule) origin {
	switch {
	case rule.JWKS != "":
		return origin{inline: rule.JWKS}
	case rule.JWKSURI != "":
		return origin{uri: rule.JWKSURI}
	}
	return origin{issuer: rule.Issuer}
}

const fileScheme = "file://"

func (o origin) isFile() bool { return strings.HasPrefix(o.uri, fileScheme) }

// String is the place, without secrets that might be in a URL.
func (o origin) String() string {
	switch {
	case o.inline != "":
		return "inline"
	case o.uri != "":
		return safeURL(o.uri)
	}
	return "OpenID configuration of " + safeURL(o.issuer)
}

// safeURL is a URL without a password and without its query.
func safeURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

// get returns the text of the keys.
func (o origin) get(ctx context.Context, client *http.Client) ([]byte, error) {
	switch {
	case o.isFile():
		return readFile(strings.TrimPrefix(o.uri, fileScheme))
	case o.uri != "":
		return fetch(ctx, client, o.uri)
	}
	// OpenID Connect Discovery 1.0, section 4.
	text, err := fetch(ctx, client, strings.TrimSuffix(o.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	var about struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &about); err != nil || about.JWKSURI == "" {
		return nil, errors.New("the OpenID configuration has no jwks_uri")
	}
	if strings.TrimSuffix(about.Issuer, "/") != strings.TrimSuffix(o.issuer, "/") {
		return nil, errors.New("the OpenID configuration is another issuer's")
	}
	if strings.HasPrefix(o.issuer, "https:") && !strings.HasPrefix(about.JWKSURI, "https:") {
		return nil, errors.New("the OpenID configuration leads from https to a jwks_uri that is not")
	}
	return fetch(ctx, client, about.JWKSURI)
}

// fetch gets a URL. Its errors do not tell what the server said.
func fetch(ctx context.Context, client *http.Client, uri string) ([]byte, error) {
	if !strings.HasPrefix(uri, "http://") && !strings.HasPrefix(uri, "https://") {
		return nil, fmt.Errorf("%s is neither http nor https", safeURL(uri))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("%s is not a URL", safeURL(uri))
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	req.Header.Set("User-Agent", "cairn")
	resp, err := client.Do(req)
	if err != nil {
		if u := (&url.Error{}); errors.As(err, &u) { // it quotes the URL as it is
			err = u.Err
		}
		return nil, fmt.Errorf("%s: %w", safeURL(uri), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", safeURL(uri), resp.StatusCode)
	}
	text, err := readAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", safeURL(uri), err)
	}
	return text, nil
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err == nil && len(text) > maxText {
		return nil, fmt.Errorf("it is longer than %d MiB", maxText>>20)
	}
	return text, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // not to hang on a pipe
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	return readAll(f)
}

// newClient returns a client for keys. A proxy that the environment names is not for the mesh.
func newClient(m Mesh, outside http.RoundTripper) *http.Client {
	if outside == nil {
		outside = &http.Transport{ // each fetch has a timeout of its own
			ForceAttemptHTTP2: true, TLSHandshakeTimeout: defaultTimeout, MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost: 2, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
		}
	}
	return &http.Client{Transport: &way{m, outside}, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("it sends us elsewhere too often")
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("it sends us from https to http")
		}
		return nil
	}}
}
