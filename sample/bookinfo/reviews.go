package bookinfo

import (
	"fmt"
	"net/http"
	"strconv"
)

// reviews is what the reviews service answers. ID is a string there, as it is
// in Istio's.
type reviews struct {
	ID          string   `json:"id"`
	Podname     string   `json:"podname"`
	Clustername string   `json:"clustername"`
	Reviews     []review `json:"reviews"`
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"` // v1 has none
}

// rating is the stars of a review, or why there are none.
type rating struct {
	Stars  int    `json:"stars,omitempty"`
	Color  string `json:"color,omitempty"`
	Error  string `json:"error,omitempty"`
	Status int    `json:"status,omitempty"` // of the failed call
}

// reviewsService is one version of reviews.
type reviewsService struct {
	podname, clustername string
	ratings              *backend // nil: without stars
	color                string
}

func newReviews(o Options, me hop) (http.Handler, error) {
	s := &reviewsService{podname: o.Pod.Name(), clustername: o.Getenv("CLUSTER_NAME")}
	if s.clustername == "" {
		s.clustername = "null"
	}
	var stars bool
	switch me.Version {
	case "v1":
	case "v2":
		stars, s.color = true, "black"
	case "v3":
		stars, s.color = true, "red"
	default:
		return nil, fmt.Errorf("reviews has the versions v1, v2 and v3, not %q", me.Version)
	}
	if v := o.Getenv("ENABLE_RATINGS"); v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return nil, fmt.Errorf("ENABLE_RATINGS is %q, neither true nor false", v)
		}
		stars = on
	}
	if v := o.Getenv("STAR_COLOR"); v != "" {
		s.color = v
	} else if s.color == "" {
		s.color = "black"
	}
	if stars {
		b, err := newBackend("ratings", o.Getenv, newClient(o.Pod), ratingsTimeout)
		if err != nil {
			return nil, err
		}
		s.ratings = b
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", health("Reviews"))
	mux.HandleFunc("GET /reviews/{id}", s.get)
	return mux, nil
}

func (s *reviewsService) get(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	list := []review{
		{Reviewer: "Reviewer1", Text: "Two pairs of twins, one town, and not a single calm minute. I laughed on every page, and the ending is worth every mix-up."},
		{Reviewer: "Reviewer2", Text: "Great fun at a great pace. It does not go as deep as the later plays, but nobody comes to this one for depth."},
	}
	if s.ratings != nil {
		s.rate(w, r, id, list)
	}
	writeJSON(w, http.StatusOK, reviews{
		ID:          strconv.FormatUint(uint64(id), 10),
		Podname:     s.podname,
		Clustername: s.clustername,
		Reviews:     list,
	})
}

// rate adds the stars that ratings has for list, or why there are none.
func (s *reviewsService) rate(w http.ResponseWriter, r *http.Request, id uint32, list []review) {
	var got ratings
	a := s.ratings.get(r.Context(), r.Header, fmt.Sprintf("/ratings/%d", id), &got)
	for _, h := range a.Hops {
		w.Header().Add("X-Served-By", h.header())
	}
	for i := range list {
		if !a.OK() {
			list[i].Rating = &rating{Error: "Ratings service is currently unavailable", Status: a.Status}
			continue
		}
		if stars, ok := got.Ratings[list[i].Reviewer]; ok {
			list[i].Rating = &rating{Stars: stars, Color: s.color}
		}
	}
}
