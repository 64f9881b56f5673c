package extauthz

import (
	"net/url"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/filters"
)

// param is one parameter of a query, decoded.
type param struct{ key, value string }

// editQuery sets and removes parameters. All others stay as they are, byte by byte and in
// their order; those that are set come in place of the first of their name, or last.
func editQuery(x *filters.Exchange, set []param, remove []string) {
	var out []string
	done := make([]bool, len(set))
	rest := x.Req.Query
	for rest != "" {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		raw, _, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(raw)
		if err != nil {
			key = raw
		}
		if slices.Contains(remove, key) {
			continue
		}
		if i := indexOf(set, key); i >= 0 {
			if done[i] {
				continue
			}
			done[i], pair = true, set[i].String()
		}
		out = append(out, pair)
	}
	for i := range set {
		if !done[i] && indexOf(set, set[i].key) == i && !slices.Contains(remove, set[i].key) {
			out = append(out, set[i].String())
		}
	}
	q := strings.Join(out, "&")
	x.Req.Query, x.Req.HasQuery = q, q != ""
}

// String is the parameter as it stands in a query.
func (p *param) String() string { return url.QueryEscape(p.key) + "=" + url.QueryEscape(p.value) }

// indexOf is the last one of that key: each replaces those before it.
func indexOf(list []param, key string) int {
	for i, p := range slices.Backward(list) {
		if p.key == key {
			return i
		}
	}
	return -1
}
