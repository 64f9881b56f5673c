package bookinfo

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/html"
)

// page parses an answer as HTML and returns its text with single spaces.
func page(t *testing.T, w *httptest.ResponseRecorder) (*html.Node, string) {
	t.Helper()
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("answered %d %s: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	doc, err := html.Parse(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for n := range doc.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data != "style" {
			text.WriteString(n.Data + " ")
		}
	}
	return doc, strings.Join(strings.Fields(text.String()), " ")
}

// labels returns the aria-labels of images: the stars as a screen reader tells them.
func labels(doc *html.Node) (out []string) {
	for n := range doc.Descendants() {
		var role, label string
		for _, a := range n.Attr {
			switch a.Key {
			case "role":
				role = a.Val
			case "aria-label":
				label = a.Val
			}
		}
		if role == "img" {
			out = append(out, label)
		}
	}
	return out
}

func TestPage(t *testing.T) {
	for version, stars := range map[string]string{"v1": "", "v2": "5 of 5 black stars, 4 of 5 black stars", "v3": "5 of 5 red stars, 4 of 5 red stars"} {
		t.Run(version, func(t *testing.T) {
			s := full(t, version)
			w := get(s.build("productpage", "v1"), "/productpage")
			raw := w.Body.String()
			doc, text := page(t, w)
			for _, want := range []string{
				"Simple Bookstore App", "The Comedy of Errors", "William Shakespeare, 1595", "paperback", "123-1234567890", "Reviewer1", "Reviewer2",
				"productpage v1 productpage-v1-x", "details v1 details-v1-x", "reviews " + version + " reviews-" + version + "-x",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("the page does not show %q:\n%s", want, text)
				}
			}
			if got := strings.Join(labels(doc), ", "); got != stars {
				t.Errorf("stars %q, want %q", got, stars)
			}
			if strings.Contains(text, "ratings v1 ratings-v1-x") != (stars != "") {
				t.Errorf("ratings among those who answered, with stars %q:\n%s", stars, text)
			}
			if strings.Contains(text, "unavailable") || strings.Contains(text, "Error fetching") {
				t.Errorf("an error shows:\n%s", text)
			}
			// Guides count versions by the lines that name a pod of reviews.
			if got := strings.Count(raw, "reviews-"+version); got != 1 {
				t.Errorf("the reviews pod is named %d times, want once", got)
			}
		})
	}
}

// TestPageFailures shows what failed and how, and all the rest.
func TestPageFailures(t *testing.T) {
	const reviewsFailed, detailsFailed = "Error fetching product reviews!", "Error fetching product details!"
	refuse := answering(403, "RBAC: access denied")
	tests := []struct {
		name          string
		details       http.Handler // nil: the real one
		reviews       http.Handler
		ratings       http.Handler
		want, wantNot []string
	}{
		{
			name: "reviews", reviews: refuse,
			want:    []string{reviewsFailed, "Sorry, product reviews are currently unavailable for this book.", "HTTP 403 · Forbidden (RBAC: access denied)", "paperback"},
			wantNot: []string{detailsFailed, "Reviewer1"},
		},
		{
			name: "details", details: refuse,
			want:    []string{detailsFailed, "Sorry, product details are currently unavailable for this book.", "HTTP 403 · Forbidden", "Reviewer1"},
			wantNot: []string{reviewsFailed, "paperback"},
		},
		{
			name: "ratings", ratings: refuse,
			want:    []string{"Ratings service is currently unavailable HTTP 403", "Reviewer1", "paperback", "ratings no answer from a pod HTTP 403"},
			wantNot: []string{reviewsFailed, detailsFailed},
		},
		{
			name: "both", details: answering(503, ""), reviews: answering(500, "<html>proxy</html>"),
			want: []string{detailsFailed, "HTTP 503 · Service Unavailable", reviewsFailed, "HTTP 500 · Internal Server Error"}, wantNot: []string{"proxy<"},
		},
		{
			name: "not-json", reviews: answering(200, "<html>"),
			want: []string{reviewsFailed, "HTTP 502 · the answer is not the JSON it should be"}, wantNot: []string{detailsFailed},
		},
		{name: "unknown-status", reviews: answering(599, "odd"), want: []string{reviewsFailed, "HTTP 599 · (odd)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t)
			for _, b := range []struct {
				name, version string
				h             http.Handler
			}{{"ratings", "v1", tt.ratings}, {"details", "v1", tt.details}, {"reviews", "v2", tt.reviews}} {
				if b.h == nil {
					b.h = s.build(b.name, b.version)
				}
				s.serve(b.name, b.h)
			}
			_, text := page(t, get(s.build("productpage", "v1"), "/productpage"))
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("the page does not show %q:\n%s", want, text)
				}
			}
			for _, not := range tt.wantNot {
				if strings.Contains(text, not) {
					t.Errorf("the page shows %q:\n%s", not, text)
				}
			}
		})
	}
}

// TestPageNobodyThere shows the page when no backend can even be connected to.
func TestPageNobodyThere(t *testing.T) {
	s := newShop(t)
	srv := httptest.NewServer(nil)
	s.serve("reviews", http.NotFoundHandler())
	s.env["DETAILS_HOSTNAME"], s.env["DETAILS_SERVICE_PORT"], _ = strings.Cut(srv.Listener.Addr().String(), ":")
	srv.Close()
	_, text := page(t, get(s.build("productpage", "v1"), "/productpage"))
	for _, want := range []string{"HTTP 502 · connecting to " + srv.Listener.Addr().String(), "HTTP 404 · Not Found"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not show %q:\n%s", want, text)
		}
	}
}

// TestAPIFailure answers the status of the failed call, as JSON.
func TestAPIFailure(t *testing.T) {
	s := newShop(t)
	s.serve("ratings", answering(403, "RBAC: access denied"))
	w := get(s.build("productpage", "v1"), "/api/v1/products/0/ratings")
	if got, want := w.Body.String(), `{"error":"Sorry, product ratings are currently unavailable for this book."}`+"\n"; w.Code != 403 || got != want {
		t.Errorf("answered %d %q, want 403 %q", w.Code, got, want)
	}
}

// TestTimeout gives up on a backend that does not answer. The transport is
// ours: connections of a real one would not know of synctest's clock.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := transport(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		b := &backend{name: "reviews", base: "http://reviews:9080", client: &http.Client{Transport: silent}, timeout: DefaultTimeout}
		a := b.get(t.Context(), nil, "/reviews/0", new(any))
		if a.OK() || a.Status != http.StatusGatewayTimeout || a.Took != 3*time.Second || a.Reason != "no answer within 3s" {
			t.Errorf("answer %+v, want 504 after 3s", a)
		}
	})
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestForeignText lets every text that comes from elsewhere try to be markup.
func TestForeignText(t *testing.T) {
	const evil = `<script>alert(1)</script><img src=x onerror=alert(1)>"' onmouseover=alert(1) x="`
	const escaped = `\u003cscript\u003ealert(1)\u003c/script\u003e\u003cimg src=x onerror=alert(1)\u003e\"' onmouseover=alert(1) x=\"`
	named := func(body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Served-By", evil+";version="+evil+";pod="+evil)
			_, _ = w.Write([]byte(body))
		})
	}
	jsonOf := func(format string) string { return strings.ReplaceAll(format, "EVIL", escaped) }
	evilDetails := jsonOf(`{"author":"EVIL","year":1,"type":"EVIL","pages":1,"publisher":"EVIL","language":"EVIL","ISBN-10":"EVIL","ISBN-13":"EVIL"}`)
	tests := []struct {
		name             string
		details, reviews http.Handler
		user             string
	}{
		{"json", named(evilDetails), named(jsonOf(`{"reviews":[{"reviewer":"EVIL","text":"EVIL","rating":{"stars":9,"color":"EVIL"}},{"reviewer":"EVIL","text":"EVIL","rating":{"error":"EVIL","status":1}}]}`)), ""},
		{"podname", named(evilDetails), answering(200, jsonOf(`{"podname":"EVIL","reviews":[]}`)), ""},
		{"errors", answering(500, "x"+evil), answering(500, "x"+evil), ""},
		{"user", named(evilDetails), named(`{}`), evil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShop(t)
			s.serve("details", tt.details)
			s.serve("reviews", tt.reviews)
			w := get(s.build("productpage", "v1"), "/productpage", "End-User", tt.user)
			if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") {
				t.Errorf("Content-Security-Policy %q", csp)
			}
			doc, text := page(t, w)
			for n := range doc.Descendants() {
				if n.Data == "script" || n.Data == "img" {
					t.Errorf("the page has an element %s", n.Data)
				}
				for _, a := range n.Attr {
					if strings.HasPrefix(a.Key, "on") || a.Key == "src" {
						t.Errorf("element %s has attribute %s=%q", n.Data, a.Key, a.Val)
					}
				}
			}
			if !strings.Contains(text, "alert(1)") {
				t.Errorf("the foreign text was not shown at all:\n%s", text)
			}
		})
	}
}

// TestStarsBounded never draws more or fewer than five.
func TestStarsBounded(t *testing.T) {
	var list []review
	for _, n := range []int{-3, 0, 5, 1 << 40} {
		list = append(list, review{Rating: &rating{Stars: n}})
	}
	list = append(list, make([]review, 100)...)
	views := reviewViews(list)
	if len(views) != 50 {
		t.Errorf("%d reviews are shown, want at most 50", len(views))
	}
	for i, want := range []int{0, 0, 5, 5} {
		if v := views[i]; v.Count != want || len(v.Stars) != 5 {
			t.Errorf("review %d: %d of %d stars, want %d of 5", i, v.Count, len(v.Stars), want)
		}
	}
}

// TestLogin signs in, is known to the backends, and signs out.
func TestLogin(t *testing.T) {
	s := newShop(t)
	users := make(chan string, 1)
	s.serve("reviews", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { users <- r.Header.Get("End-User") }))
	h := s.build("productpage", "v1")
	login := func(name string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(url.Values{"username": {name}, "passwd": {"any"}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, name := range []string{"", "a b", "ü", "x\r\nEvil: 1", strings.Repeat("x", 65)} {
		if got := login(name).Code; got != http.StatusBadRequest {
			t.Errorf("login as %q answered %d, want 400", name, got)
		}
	}
	in := login("jason")
	cookies, err := http.ParseCookie(strings.Split(in.Header().Get("Set-Cookie"), ";")[0])
	if in.Code != http.StatusFound || in.Header().Get("Location") != "/productpage" || err != nil || len(cookies) != 1 {
		t.Fatalf("login answered %d, %v; %v", in.Code, in.Header(), err)
	}
	cookie := cookies[0].String()
	_, text := page(t, get(h, "/productpage", "Cookie", cookie, "End-User", "somebody-else"))
	if user := <-users; !strings.Contains(text, "Signed in as jason") || user != "jason" {
		t.Errorf("after login reviews saw the user %q, and the page is\n%s", user, text)
	}
	_, text = page(t, get(h, "/productpage", "Cookie", "session=****"))
	if user := <-users; !strings.Contains(text, "Sign in") || user != "" {
		t.Errorf("with a cookie that means nothing reviews saw the user %q, and the page is\n%s", user, text)
	}
	out := get(h, "/logout")
	if c, err := http.ParseSetCookie(out.Header().Get("Set-Cookie")); out.Code != http.StatusFound || err != nil || c.MaxAge >= 0 {
		t.Errorf("logout answered %d, %v; %v", out.Code, out.Header(), err)
	}
}

func TestExcerpt(t *testing.T) {
	long := strings.Repeat("é", 200)
	for in, want := range map[string]string{
		"":                    "",
		" RBAC: no\nline two": "(RBAC: no)",
		"<html>":              "",
		"\xff":                "",
		long:                  "(" + strings.Repeat("é", 120) + "…)",
	} {
		if got := excerpt([]byte(in)); got != want {
			t.Errorf("excerpt(%.10q) = %q, want %q", in, got, want)
		}
	}
}
