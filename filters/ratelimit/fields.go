package ratelimit

import (
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/mesh"
)

// Response tells the client what is left to it, in the fields of
// draft-ietf-httpapi-ratelimit-headers-03, and adds what the rate limit service asked for. An
// endpoint that speaks of limits of its own is left to.
func (s *step) Response(x *filters.Exchange) filters.Result {
	n := x.Noted()
	if n == nil {
		return filters.Continue
	}
	f := &x.Resp.Fields
	*f = append(*f, n.ResponseFields...) // first: the service may have been told to write these fields itself
	if s.fields == mesh.QuotaNever || s.fields == mesh.QuotaRefused && !n.Quota.Refused {
		return filters.Continue
	}
	if q := &n.Quota; q.Limit != "" && !f.Has("ratelimit-limit") {
		*f = append(*f,
			mesh.Field{Name: "ratelimit-limit", Value: q.Limit},
			mesh.Field{Name: "ratelimit-remaining", Value: decimal(x, q.Remaining)},
			mesh.Field{Name: "ratelimit-reset", Value: decimal(x, q.Reset)})
		if q.RetryAfter > 0 && !f.Has("retry-after") {
			f.Add("retry-after", decimal(x, q.RetryAfter))
		}
	}
	return filters.Continue
}

func decimal(x *filters.Exchange, n uint64) string {
	return x.Text(strconv.AppendUint(x.Append(), n, 10))
}

// maxFields and maxFieldBytes bound what a rate limit service may add to a message.
const (
	maxFields     = 32
	maxFieldBytes = 8 << 10
)

// acceptable is a field that the rate limit service may add, its name in lower case.
func acceptable(name, value string) (mesh.Field, bool) {
	name = strings.ToLower(name)
	switch name {
	case "", "host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "keep-alive", "proxy-connection":
		return mesh.Field{}, false // these are about the message, and ours
	}
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return mesh.Field{}, false // pseudo headers, too
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return mesh.Field{}, false
		}
	}
	return mesh.Field{Name: name, Value: strings.Trim(value, " \t")}, len(name)+len(value) <= maxFieldBytes
}
