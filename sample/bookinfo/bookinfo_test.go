package bookinfo

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cairnproxy.dev/cairn/sample/pod"
)

// shop is a book shop whose services find each other by a hosts file, as in a
// mesh on loopback.
type shop struct {
	t     *testing.T
	hosts string
	env   map[string]string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{t: t, hosts: filepath.Join(t.TempDir(), "hosts"), env: map[string]string{}}
	if err := os.WriteFile(s.hosts, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// build returns the handler of one service.
func (s *shop) build(service, version string) http.Handler {
	s.t.Helper()
	p, err := pod.New(pod.Options{Name: service + "-" + version + "-x", Namespace: "shop", Version: version, HostsFile: s.hosts})
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := New(service, Options{Pod: p, Getenv: func(k string) string { return s.env[k] }})
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// serve makes h the service that others reach under name.
func (s *shop) serve(name string, h http.Handler) {
	s.t.Helper()
	srv := httptest.NewServer(h)
	s.t.Cleanup(srv.Close)
	host, port, _ := strings.Cut(srv.Listener.Addr().String(), ":")
	old, err := os.ReadFile(s.hosts)
	if err != nil {
		s.t.Fatal(err)
	}
	line := fmt.Sprintf("%s %s.shop.svc.cluster.local\n", host, name)
	if err := os.WriteFile(s.hosts, append(old, line...), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.env[strings.ToUpper(name)+"_SERVICE_PORT"] = port
}

// answering is a backend that answers the same to everything.
func answering(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

// full is a shop with everything, reviews in one version.
func full(t *testing.T, reviewsVersion string) *shop {
	t.Helper()
	s := newShop(t)
	s.serve("ratings", s.build("ratings", "v1"))
	s.serve("details", s.build("details", "v1"))
	s.serve("reviews", s.build("reviews", reviewsVersion))
	return s
}

func get(h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const detailsJSON = `{"id":0,"author":"William Shakespeare","year":1595,"type":"paperback","pages":200,"publisher":"PublisherA","language":"English","ISBN-10":"1234567890","ISBN-13":"123-1234567890"}` + "\n"

// TestAPI asks every service for what it answers by itself.
func TestAPI(t *testing.T) {
	s := full(t, "v1")
	tests := []struct {
		name, service, method, path string
		status                      int
		body                        string // whole; "" for any
	}{
		{"details", "details", "GET", "/details/0", 200, detailsJSON},
		{"details-other", "details", "GET", "/details/7", 200, strings.Replace(detailsJSON, `"id":0`, `"id":7`, 1)},
		{"details-word", "details", "GET", "/details/x", 400, `{"error":"please provide numeric product ID"}` + "\n"},
		{"details-health", "details", "GET", "/health", 200, `{"status":"Details is healthy"}` + "\n"},
		{"details-delete", "details", "DELETE", "/details/0", 405, ""},
		{"ratings", "ratings", "GET", "/ratings/0", 200, `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}` + "\n"},
		{"ratings-word", "ratings", "GET", "/ratings/-1", 400, `{"error":"please provide numeric product ID"}` + "\n"},
		{"ratings-health", "ratings", "GET", "/health", 200, `{"status":"Ratings is healthy"}` + "\n"},
		{"ratings-delete", "ratings", "DELETE", "/ratings/0", 405, ""},
		{"reviews-word", "reviews", "GET", "/reviews/x", 400, `{"error":"please provide numeric product ID"}` + "\n"},
		{"reviews-health", "reviews", "GET", "/health", 200, `{"status":"Reviews is healthy"}` + "\n"},
		{"page-health", "productpage", "GET", "/health", 200, "Product page is healthy"},
		{"page-details", "productpage", "GET", "/api/v1/products/0", 200, detailsJSON},
		{"page-ratings", "productpage", "GET", "/api/v1/products/0/ratings", 200, `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}` + "\n"},
		{"page-reviews", "productpage", "GET", "/api/v1/products/0/reviews", 200, ""},
		{"page-word", "productpage", "GET", "/api/v1/products/x", 400, `{"error":"please provide numeric product ID"}` + "\n"},
		{"page-delete", "productpage", "DELETE", "/productpage", 405, ""},
		{"page-index", "productpage", "GET", "/", 200, ""},
		{"page-missing", "productpage", "GET", "/nothing", 404, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			s.build(tt.service, "v1").ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
			if w.Code != tt.status || (tt.body != "" && w.Body.String() != tt.body) {
				t.Errorf("answered %d %q, want %d %q", w.Code, w.Body, tt.status, tt.body)
			}
			if got, want := w.Header()["X-Served-By"], tt.service+";version=v1;pod="+tt.service+"-v1-x"; len(got) == 0 || got[0] != want {
				t.Errorf("X-Served-By %q, want %q first", got, want)
			}
		})
	}
}

func TestProducts(t *testing.T) {
	var got []product
	w := get(newShop(t).build("productpage", "v1"), "/api/v1/products")
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]product{theProduct}, got); diff != "" {
		t.Errorf("products (-want +got):\n%s", diff)
	}
}

// TestReviews compares the versions of reviews: without stars, black, red; and
// what the environment makes of them.
func TestReviews(t *testing.T) {
	tests := []struct {
		name, version string
		env           map[string]string
		want          []*rating
	}{
		{"v1", "v1", nil, []*rating{nil, nil}},
		{"v2", "v2", nil, []*rating{{Stars: 5, Color: "black"}, {Stars: 4, Color: "black"}}},
		{"v3", "v3", nil, []*rating{{Stars: 5, Color: "red"}, {Stars: 4, Color: "red"}}},
		{"enabled", "v1", map[string]string{"ENABLE_RATINGS": "true"}, []*rating{{Stars: 5, Color: "black"}, {Stars: 4, Color: "black"}}},
		{"disabled", "v3", map[string]string{"ENABLE_RATINGS": "false"}, []*rating{nil, nil}},
		{"colour", "v3", map[string]string{"STAR_COLOR": "blue"}, []*rating{{Stars: 5, Color: "blue"}, {Stars: 4, Color: "blue"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t)
			s.serve("ratings", s.build("ratings", "v1"))
			maps.Copy(s.env, tt.env)
			var got reviews
			w := get(s.build("reviews", tt.version), "/reviews/0")
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if got.ID != "0" || got.Podname != "reviews-"+tt.version+"-x" || got.Clustername != "null" || len(got.Reviews) != 2 {
				t.Fatalf("answered %s", w.Body)
			}
			if diff := cmp.Diff(tt.want, []*rating{got.Reviews[0].Rating, got.Reviews[1].Rating}); diff != "" {
				t.Errorf("ratings (-want +got):\n%s", diff)
			}
			if hops, called := w.Header()["X-Served-By"], tt.want[0] != nil; (len(hops) == 2) != called {
				t.Errorf("X-Served-By %q, ratings called: %v", hops, called)
			}
		})
	}
}

// TestReviewsWithoutRatings answers the reviews and says what is missing.
func TestReviewsWithoutRatings(t *testing.T) {
	for name, backend := range map[string]http.Handler{
		"refused":   answering(403, "RBAC: access denied"),
		"nonsense":  answering(200, "{"),
		"too-large": answering(200, `{"id":0}`+strings.Repeat(" ", maxBody)),
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t)
			s.serve("ratings", backend)
			want := &rating{Error: "Ratings service is currently unavailable", Status: 502}
			if name == "refused" {
				want.Status = 403
			}
			var got reviews
			w := get(s.build("reviews", "v3"), "/reviews/0")
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
				t.Fatalf("answered %d %q: %v", w.Code, w.Body, err)
			}
			if diff := cmp.Diff(want, got.Reviews[0].Rating); diff != "" {
				t.Errorf("rating (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRatingsPost(t *testing.T) {
	h := newRatings()
	post := func(path, body string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		return w.Code
	}
	many := make(map[string]int)
	for i := range maxReviewers + 1 {
		many[fmt.Sprint(i)] = i
	}
	tooMany, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, body string
		want       int
	}{
		{"/ratings/1", `{"A":1}`, 200},
		{"/ratings/1", `{"A":"x"}`, 400},
		{"/ratings/1", `null`, 400},
		{"/ratings/1", string(tooMany), 400},
		{"/ratings/1", strings.Repeat(" ", 65<<10), 400},
		{"/ratings/x", `{"A":1}`, 400},
	} {
		if got := post(tt.path, tt.body); got != tt.want {
			t.Errorf("POST %s with %.20q answered %d, want %d", tt.path, tt.body, got, tt.want)
		}
	}
	if got, want := get(h, "/ratings/1").Body.String(), `{"id":1,"ratings":{"A":1}}`+"\n"; got != want {
		t.Errorf("ratings are %q, want %q", got, want)
	}
	for i := range maxProducts - 1 {
		if got := post(fmt.Sprintf("/ratings/%d", i+2), `{}`); got != 200 {
			t.Fatalf("product %d: %d", i, got)
		}
	}
	if got := post("/ratings/1000000", `{}`); got != http.StatusInsufficientStorage {
		t.Errorf("one product too many answered %d, want 507", got)
	}
	if got := post("/ratings/1", `{}`); got != 200 {
		t.Errorf("a known product answered %d, want 200", got)
	}
}

// TestPropagation follows headers from the page through reviews to ratings.
func TestPropagation(t *testing.T) {
	s := newShop(t)
	seen := map[string]chan http.Header{"reviews": make(chan http.Header, 1), "ratings": make(chan http.Header, 1)}
	see := func(name string, h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen[name] <- r.Header.Clone()
			h.ServeHTTP(w, r)
		})
	}
	s.serve("ratings", see("ratings", s.build("ratings", "v1")))
	s.serve("reviews", see("reviews", s.build("reviews", "v2")))
	send := map[string]string{
		"X-Request-Id": "r", "Traceparent": "t", "Tracestate": "s", "B3": "b", "X-B3-Traceid": "1", "X-B3-Spanid": "2", "X-B3-Parentspanid": "3",
		"X-B3-Sampled": "1", "X-B3-Flags": "0", "Cookie": "a=b", "User-Agent": "test", "End-User": "jason", "X-Canary": "true", "Authorization": "Bearer x",
	}
	var header []string
	for k, v := range send {
		header = append(header, k, v)
	}
	header = append(header, "X-Private", "stays", "Connection", "close", "Content-Type", "text/plain")
	get(s.build("productpage", "v1"), "/api/v1/products/0/reviews", header...)
	for service, headers := range seen {
		h := <-headers
		for k, want := range send {
			if got := h.Get(k); got != want {
				t.Errorf("%s saw %s %q, want %q", service, k, got, want)
			}
		}
		for _, k := range []string{"X-Private", "Content-Type"} {
			if got := h.Get(k); got != "" {
				t.Errorf("%s saw %s %q, want none", service, k, got)
			}
		}
	}
}

// TestConnectionPerCall makes each call a new draw for a balancer of connections.
func TestConnectionPerCall(t *testing.T) {
	s := newShop(t)
	from := make(chan string, 2)
	s.serve("ratings", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { from <- r.RemoteAddr }))
	h := s.build("productpage", "v1")
	for range 2 {
		get(h, "/api/v1/products/0/ratings")
	}
	if one, two := <-from, <-from; one == two {
		t.Errorf("two calls came over one connection, from %s", one)
	}
}

func TestNewErrors(t *testing.T) {
	tests := []struct {
		name, service, version string
		env                    map[string]string
		want                   string
	}{
		{"service", "mongodb", "v1", nil, "no service"},
		{"version", "reviews", "v4", nil, "v1, v2 and v3"},
		{"port", "productpage", "v1", map[string]string{"DETAILS_SERVICE_PORT": "tcp://10.0.0.1:9080"}, "DETAILS_SERVICE_PORT"},
		{"enable", "reviews", "v1", map[string]string{"ENABLE_RATINGS": "maybe"}, "ENABLE_RATINGS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := pod.New(pod.Options{Version: tt.version})
			if err != nil {
				t.Fatal(err)
			}
			_, err = New(tt.service, Options{Pod: p, Getenv: func(k string) string { return tt.env[k] }})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New returned %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestBackendAddress(t *testing.T) {
	tests := []struct {
		env  map[string]string
		want string
	}{
		{nil, "http://details:9080"},
		{map[string]string{"SERVICES_DOMAIN": "shop.svc"}, "http://details.shop.svc:9080"},
		{map[string]string{"DETAILS_HOSTNAME": "d", "DETAILS_SERVICE_PORT": "80"}, "http://d:80"},
		{map[string]string{"DETAILS_HOSTNAME": "::1"}, "http://[::1]:9080"},
	}
	for _, tt := range tests {
		b, err := newBackend("details", func(k string) string { return tt.env[k] }, nil, 0)
		if err != nil || b.base != tt.want {
			t.Errorf("with %v details is %+v, %v; want %s", tt.env, b, err, tt.want)
		}
	}
}

func FuzzParseHops(f *testing.F) {
	f.Add("reviews;version=v2;pod=reviews-v2-x, ratings;version=v1;pod=y")
	f.Add(";,;=;pod")
	f.Fuzz(func(t *testing.T, s string) {
		hops := parseHops([]string{s, s})
		if len(hops) > maxHops {
			t.Errorf("%d hops", len(hops))
		}
		for _, h := range hops {
			again := parseHops([]string{h.header()})
			if len(again) != 1 || again[0].header() != h.header() {
				t.Errorf("hop %+v is written %q, and read as %+v", h, h.header(), again)
			}
		}
	})
}
