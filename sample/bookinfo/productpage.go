package bookinfo

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"
)

//go:embed page.html.tmpl
var pageTemplate string

// product is one of the shop's books.
type product struct {
	ID              int    `json:"id"`
	Title           string `json:"title"`
	DescriptionHTML string `json:"descriptionHtml"`
}

// theProduct is the only book there is.
var theProduct = product{
	ID:    0,
	Title: "The Comedy of Errors",
	DescriptionHTML: `<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">The Comedy of Errors</a> is one of William Shakespeare's ` +
		`first plays and his shortest. Two pairs of identical twins, parted as infants in a shipwreck, come to the same city on the same day: ` +
		`what follows is mistaken for madness, theft and infidelity, and is none of them.`,
}

// productpage is the service with the page.
type productpage struct {
	me               hop
	page             *template.Template
	details, reviews *backend
	ratings          *backend
}

func newProductpage(o Options, me hop) (http.Handler, error) {
	s := &productpage{me: me}
	client := newClient(o.Pod)
	for _, b := range []struct {
		to   **backend
		name string
	}{{&s.details, "details"}, {&s.reviews, "reviews"}, {&s.ratings, "ratings"}} {
		var err error
		if *b.to, err = newBackend(b.name, o.Getenv, client, o.Timeout); err != nil {
			return nil, err
		}
	}
	var err error
	if s.page, err = template.New("page").Parse(pageTemplate); err != nil {
		return nil, fmt.Errorf("reading the page's template: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.html)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "Product page is healthy")
	})
	mux.HandleFunc("GET /productpage", s.html)
	mux.HandleFunc("POST /login", login)
	mux.HandleFunc("GET /logout", logout)
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, []product{theProduct})
	})
	mux.HandleFunc("GET /api/v1/products/{id}", s.api(s.details, "/details/", "product details"))
	mux.HandleFunc("GET /api/v1/products/{id}/reviews", s.api(s.reviews, "/reviews/", "product reviews"))
	mux.HandleFunc("GET /api/v1/products/{id}/ratings", s.api(s.ratings, "/ratings/", "product ratings"))
	return mux, nil
}

// api hands the JSON of a backend on, or says with the status of the failed
// call that it is unavailable.
func (s *productpage) api(b *backend, path, what string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, ok := productID(w, r)
		if !ok {
			return
		}
		var body json.RawMessage
		a := b.get(r.Context(), s.outgoing(r), fmt.Sprintf("%s%d", path, id), &body)
		for _, h := range a.Hops {
			w.Header().Add("X-Served-By", h.header())
		}
		if !a.OK() {
			writeJSON(w, a.Status, errorBody{unavailable(what)})
			return
		}
		writeJSON(w, http.StatusOK, body)
	}
}

func unavailable(what string) string {
	return "Sorry, " + what + " are currently unavailable for this book."
}

// outgoing returns the headers of r as backends are to see them: the user who
// signed in, if one did, as end-user.
func (s *productpage) outgoing(r *http.Request) http.Header {
	user := sessionUser(r)
	if user == "" {
		return r.Header
	}
	h := r.Header.Clone()
	h.Set("End-User", user)
	return h
}

// view is what the page's template gets. All but Description is somebody
// else's text, and escaped.
type view struct {
	Title       string
	Description template.HTML
	User        string
	Details     *details // nil: DetailsFailed says why
	Reviews     []reviewView
	Failed      struct{ Details, Reviews *answer }
	Path        []node
	Took        time.Duration
}

type reviewView struct {
	Reviewer, Text string
	Rated          bool
	Red            bool
	Count          int    // stars, 0 to 5
	Stars          []bool // five of them, true where filled
	Error          string // why there are no stars
	Status         int
}

// node is one step of the picture of who answered.
type node struct {
	Service, Version, Pod string
	OK                    bool
	Status                int
	Took                  string
	Depth                 int // 0 is the page itself
}

func (s *productpage) html(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	h := s.outgoing(r)
	var d details
	var rv reviews
	var forDetails, forReviews *answer
	var wg sync.WaitGroup
	wg.Go(func() { forDetails = s.details.get(r.Context(), h, "/details/0", &d) })
	wg.Go(func() { forReviews = s.reviews.get(r.Context(), h, "/reviews/0", &rv) })
	wg.Wait()

	v := view{Title: theProduct.Title, Description: template.HTML(theProduct.DescriptionHTML), User: h.Get("End-User")}
	if forDetails.OK() {
		v.Details = &d
	} else {
		v.Failed.Details = forDetails
	}
	if forReviews.OK() {
		v.Reviews = reviewViews(rv.Reviews)
		if len(forReviews.Hops) == 0 { // a server of another make names only its pod
			forReviews.Hops = []hop{{Service: "reviews", Pod: rv.Podname}}
		}
	} else {
		v.Failed.Reviews = forReviews
	}
	v.Took = time.Since(start)
	v.Path = append(v.Path, node{Service: s.me.Service, Version: s.me.Version, Pod: s.me.Pod, OK: true, Took: millis(v.Took)})
	v.Path = append(v.Path, nodes(forDetails)...)
	v.Path = append(v.Path, nodes(forReviews)...)
	v.Path = append(v.Path, missing(v.Reviews, forReviews)...)
	s.render(w, &v)
}

func (s *productpage) render(w http.ResponseWriter, v *view) {
	var b bytes.Buffer
	if err := s.page.Execute(&b, v); err != nil {
		http.Error(w, "rendering the page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(b.Bytes())
}

func reviewViews(list []review) []reviewView {
	const most = 50
	out := make([]reviewView, 0, min(len(list), most))
	for _, r := range list[:min(len(list), most)] {
		v := reviewView{Reviewer: r.Reviewer, Text: r.Text}
		switch {
		case r.Rating == nil:
		case r.Rating.Error != "":
			v.Error, v.Status = r.Rating.Error, r.Rating.Status
		default:
			v.Rated, v.Red = true, r.Rating.Color == "red"
			v.Count = min(max(r.Rating.Stars, 0), 5)
			for i := range 5 {
				v.Stars = append(v.Stars, i < v.Count)
			}
		}
		out = append(out, v)
	}
	return out
}

// nodes returns the steps of one call: the service called, and whom it called.
func nodes(a *answer) []node {
	first := node{Service: a.Service, OK: a.OK(), Status: a.Status, Took: millis(a.Took), Depth: 1}
	out := []node{first}
	for i, h := range a.Hops {
		if i == 0 {
			out[0].Version, out[0].Pod = h.Version, h.Pod
			continue
		}
		out = append(out, node{Service: h.Service, Version: h.Version, Pod: h.Pod, OK: true, Depth: 2})
	}
	return out
}

// missing returns the step to ratings if it failed without naming a pod.
func missing(list []reviewView, a *answer) []node {
	if len(a.Hops) > 1 {
		return nil
	}
	for _, r := range list {
		if r.Error != "" {
			return []node{{Service: "ratings", Status: r.Status, Depth: 2}}
		}
	}
	return nil
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// sessionCookie holds the name of the user who signed in. There are no
// passwords to check, so there is nothing a signature would protect.
const sessionCookie = "session"

func login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	user := strings.TrimSpace(r.FormValue("username"))
	if !validUser(user) {
		http.Error(w, "a user name is 1 to 64 letters, digits or . _ @ -", http.StatusBadRequest)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name:     sessionCookie,
		Value:    base64.RawURLEncoding.EncodeToString([]byte(user)),
		Path:     "/",
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	})
	http.Redirect(w, r, "/productpage", http.StatusFound)
}

func logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.Redirect(w, r, "/productpage", http.StatusFound)
}

// sessionUser returns who signed in, or "".
func sessionUser(r *http.Request) string {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	b, err := base64.RawURLEncoding.DecodeString(c.Value)
	if user := string(b); err == nil && validUser(user) {
		return user
	}
	return ""
}

// validUser reports whether s may be a user name, which becomes a header.
func validUser(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._@-", c) >= 0:
		default:
			return false
		}
	}
	return true
}
