package jwt

// Metric counts requests with tokens, by result: "verified" where a signature was looked at,
// "cached" where it had been before, "refused".
const Metric = "cairn_jwt_total"

// FetchMetric counts fetches of keys, by where they are ("jwks") and result: "changed", "same", "failed".
const FetchMetric = "cairn_jwks_fetches_total"

// Help says what a metric counts.
func Help(metric string) string {
	if metric == Metric {
		return "Requests with tokens, by what became of the tokens."
	}
	return "Fetches of the keys of issuers, by where the keys are and what came of it."
}

// Counter is one series.
type Counter interface{ Inc() }

// Counters makes a series of a metric. jwks is where keys are, "" for Metric.
type Counters func(metric, jwks, result string) Counter

type uncounted struct{}

func (uncounted) Inc() {}

// totals are the series of Metric.
type totals struct{ verified, cached, refused Counter }

// fetchTotals are the series of FetchMetric for one place.
type fetchTotals struct{ changed, same, failed Counter }

// maxPlaces bounds the places of keys that came and went and are counted.
const maxPlaces = 1000

// counts are the series of Metric, which appear with the first rule.
func (r *Registry) counts() *totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.totals == nil {
		of := func(result string) Counter { return r.counter(Metric, "", result) }
		r.totals = &totals{of("verified"), of("cached"), of("refused")}
	}
	return r.totals
}

// fetchCounts are the series of FetchMetric for keys from there.
func (r *Registry) fetchCounts(from origin) *fetchTotals {
	place := from.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.counted[place]
	if t == nil {
		of := func(result string) Counter { return r.counter(FetchMetric, place, result) }
		if len(r.counted) >= maxPlaces {
			of = func(string) Counter { return uncounted{} }
		}
		t = &fetchTotals{of("changed"), of("same"), of("failed")}
		if len(r.counted) < maxPlaces {
			r.counted[place] = t
		}
	}
	return t
}

func (r *Registry) counter(metric, jwks, result string) Counter {
	if r.counters == nil {
		return uncounted{}
	}
	return r.counters(metric, jwks, result)
}
