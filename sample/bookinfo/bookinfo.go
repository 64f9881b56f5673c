package bookinfo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/sample/pod"
)

const (
	// DefaultTimeout is how long productpage waits for a backend.
	DefaultTimeout = 3 * time.Second
	// ratingsTimeout is how long reviews waits for ratings: less than
	// productpage waits for reviews, so that slow ratings cost the stars and not
	// the reviews.
	ratingsTimeout = 2500 * time.Millisecond
	// maxBody bounds what is read of a backend's answer.
	maxBody = 1 << 20
)

// Services are the names that New knows.
var Services = []string{"productpage", "details", "reviews", "ratings"}

// Options are what a service needs.
type Options struct {
	// Pod is where the service runs; its version chooses between v1, v2 and v3
	// of reviews, and empty means v1. Required.
	Pod *pod.Pod
	// Getenv reads the environment variables that the package comment names, and
	// for reviews ENABLE_RATINGS, STAR_COLOR and CLUSTER_NAME; nil means that
	// none is set.
	Getenv func(string) string
	// Timeout bounds productpage's calls; 0 means DefaultTimeout.
	Timeout time.Duration
}

// New returns the handler of one service, named as in Services.
func New(service string, o Options) (http.Handler, error) {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	me := hop{Service: service, Version: o.Pod.Version(), Pod: o.Pod.Name()}
	if me.Version == "" {
		me.Version = "v1"
	}
	var h http.Handler
	var err error
	switch service {
	case "productpage":
		h, err = newProductpage(o, me)
	case "details":
		h = newDetails()
	case "reviews":
		h, err = newReviews(o, me)
	case "ratings":
		h = newRatings()
	default:
		err = fmt.Errorf("bookinfo has no service %q; it has %s", service, strings.Join(Services, ", "))
	}
	if err != nil {
		return nil, err
	}
	return served(me, h), nil
}

// served names me in the X-Served-By of every answer.
func served(me hop, h http.Handler) http.Handler {
	value := me.header()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", value)
		h.ServeHTTP(w, r)
	})
}

// hop is one pod that had a part in an answer.
type hop struct {
	Service, Version, Pod string
}

// maxHops is how many hops of a header are read.
const maxHops = 8

// header returns h as an element of X-Served-By: "reviews;version=v2;pod=reviews-v2-7f".
func (h hop) header() string {
	clean := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r <= ' ' || r > '~' || r == ';' || r == ',' {
				return '_'
			}
			return r
		}, s)
	}
	return clean(h.Service) + ";version=" + clean(h.Version) + ";pod=" + clean(h.Pod)
}

// parseHops reads X-Served-By, whose author may be anybody.
func parseHops(values []string) []hop {
	var hops []hop
	for _, v := range values {
		for e := range strings.SplitSeq(v, ",") {
			if len(hops) == maxHops {
				return hops
			}
			fields := strings.Split(strings.TrimSpace(e), ";")
			h := hop{Service: fields[0]}
			for _, f := range fields[1:] {
				switch k, v, _ := strings.Cut(f, "="); k {
				case "version":
					h.Version = v
				case "pod":
					h.Pod = v
				}
			}
			if h.Service != "" {
				hops = append(hops, h)
			}
		}
	}
	return hops
}

// propagated are the headers that belong to the user's request and not to one
// hop of it: those of the tracing systems that Istio's bookinfo knows, who the
// user is, and the canary mark of our example.
var propagated = []string{
	"X-Request-Id", "X-Ot-Span-Context", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
	"Traceparent", "Tracestate", "Baggage", "X-Cloud-Trace-Context", "Grpc-Trace-Bin", "X-Datadog-Trace-Id", "X-Datadog-Parent-Id",
	"X-Datadog-Sampling-Priority", "Sw8", "User-Agent", "Cookie", "Authorization", "Jwt", "End-User", "X-Canary",
}

// propagate copies to dst what belongs to the whole request.
func propagate(dst, src http.Header) {
	for _, name := range propagated {
		if v := src.Values(name); len(v) > 0 {
			dst[name] = slices.Clone(v)
		}
	}
}

// writeJSON answers v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

type errorBody struct {
	Error string `json:"error"`
}

// health answers a /health.
func health(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": service + " is healthy"})
	}
}

// productID returns the ID of the path, or answers 400.
func productID(w http.ResponseWriter, r *http.Request) (uint32, bool) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 32)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, errorBody{"please provide numeric product ID"})
		return 0, false
	}
	return uint32(id), true
}
