package waypoint

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// Paths of Pages.
const (
	PathDecisions = "/decisions"
	PathExplain   = "/explain"
)

const (
	maxQuestion = 64 << 10
	// maxExplained bounds the explanations of one id, which a client may use again and again.
	maxExplained = 20
)

// Pages are the waypoint's own pages of the admin server.
func (p *Proxy) Pages() []telemetry.Page {
	return []telemetry.Page{
		{Path: PathDecisions, Help: "the last decisions, a JSON object a line, the newest first; ?last=N, ?refused", Handler: http.HandlerFunc(p.serveDecisions)},
		{Path: PathExplain, Help: "?id=REQUEST-ID explains a request of the past, POST one that is made up; see cairn explain", Handler: http.HandlerFunc(p.serveExplain)},
	}
}

func (p *Proxy) serveDecisions(w http.ResponseWriter, req *http.Request) {
	n := 100
	if s := req.FormValue("last"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil {
			http.Error(w, "last is a number, 0 for all", http.StatusBadRequest)
			return
		}
		n = v
	}
	var keep func(*decision.Record) bool
	if req.Form.Has("refused") {
		keep = func(r *decision.Record) bool { return explain.RefusedThen(r) || explain.RefusedBefore(r) }
	}
	w.Header().Set("Content-Type", "application/jsonl")
	_ = decision.Write(w, p.decisions.Last(n, keep)) // a reader that has gone is nobody's error
}

func (p *Proxy) serveExplain(w http.ResponseWriter, req *http.Request) {
	list := []*explain.Explanation{}
	switch req.Method {
	case http.MethodGet:
		id := req.FormValue("id")
		if id == "" {
			http.Error(w, "which request? use ?id=REQUEST-ID", http.StatusBadRequest)
			return
		}
		for i, r := range p.decisions.Find(id) {
			if i == maxExplained {
				break
			}
			q := explain.FromRecord(&r)
			list = append(list, explain.Of(&q, &r, p.Explain(&q, &r)))
		}
	case http.MethodPost:
		var q explain.Question
		if err := json.NewDecoder(io.LimitReader(req.Body, maxQuestion)).Decode(&q); err != nil {
			http.Error(w, "the question is not JSON: "+err.Error(), http.StatusBadRequest)
			return
		}
		list = append(list, explain.Of(&q, nil, p.Explain(&q, nil)))
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "use GET or POST", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	_ = e.Encode(list)
}
