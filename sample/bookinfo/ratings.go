package bookinfo

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

const (
	// maxProducts and maxReviewers bound what POST can make ratings remember.
	maxProducts  = 1000
	maxReviewers = 100
)

// ratings is what the ratings service answers: stars from 0 to 5 by reviewer.
type ratings struct {
	ID      uint32         `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

// ratingsStore keeps ratings that were posted, until the program ends.
type ratingsStore struct {
	mu     sync.Mutex
	posted map[uint32]map[string]int // maps in it are not changed any more
}

func newRatings() http.Handler {
	s := &ratingsStore{posted: make(map[uint32]map[string]int)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", health("Ratings"))
	mux.HandleFunc("GET /ratings/{id}", s.get)
	mux.HandleFunc("POST /ratings/{id}", s.post)
	return mux
}

func (s *ratingsStore) get(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	stars := s.posted[id]
	s.mu.Unlock()
	if stars == nil {
		stars = map[string]int{"Reviewer1": 5, "Reviewer2": 4}
	}
	writeJSON(w, http.StatusOK, ratings{id, stars})
}

func (s *ratingsStore) post(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		writeJSON(w, http.StatusBadRequest, errorBody{"reading the body: " + err.Error()})
		return
	}
	var stars map[string]int
	if err := json.Unmarshal(b, &stars); err != nil || stars == nil || len(stars) > maxReviewers {
		writeJSON(w, http.StatusBadRequest, errorBody{"please provide valid ratings JSON"})
		return
	}
	s.mu.Lock()
	_, known := s.posted[id]
	full := !known && len(s.posted) >= maxProducts
	if !full {
		s.posted[id] = stars
	}
	s.mu.Unlock()
	if full {
		writeJSON(w, http.StatusInsufficientStorage, errorBody{"ratings of too many products are kept"})
		return
	}
	writeJSON(w, http.StatusOK, ratings{id, stars})
}
