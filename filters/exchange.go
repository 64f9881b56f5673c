package filters

import (
	"time"
	"unsafe"

	"cairnproxy.dev/cairn/mesh"
)

// Exchange is what filters see of one request and its response.
type Exchange struct {
	Req *mesh.Request
	// Resp is nil until the response's head is there.
	Resp *mesh.Response
	// Service is the service that the request is for; nil for a workload's own address.
	Service *mesh.Service
	// MatchedPrefix is how many bytes of Req.Path the rule's path prefix
	// matched, without its trailing slash; 0 for the prefix "/" and other kinds of match.
	MatchedPrefix int
	// Origin is that of a page of another origin which may read the response; filters/cors
	// says so before others change the request.
	Origin string
	// Reply is the answer of the step that said Replied.
	Reply Reply
	// Now is the time of the turn in which a step runs.
	Now time.Time
	// Host is the proxy around the exchange; steps use Await and After.
	Host Host

	memory []byte
	fields [4]mesh.Field
	notes  *Notes
}

// Reply is an answer by the proxy itself.
type Reply struct {
	Status int
	// Flag is Envoy's response flag, "" for none.
	Flag string
	// Details is Envoy's response_code_details: one word, why.
	Details string
	// Fields are further header fields, beside those that describe the body.
	Fields mesh.Fields
	// Body is text/plain.
	Body string
	// GRPCStatus is the status that a gRPC call gets, as its number in decimal ("8" is
	// RESOURCE_EXHAUSTED), with Body as its message; "" derives it from Status
	// and Flag. Requests that are not gRPC do not see it.
	GRPCStatus string
}

// Result is what a step says.
type Result uint8

const (
	// Continue goes on with the next step.
	Continue Result = iota
	// Replied answers with Exchange.Reply: no further step sees the request.
	Replied
	// Park waits for what Exchange.Await returned to be called, or for Exchange.After.
	Park
)

// String returns the name.
func (r Result) String() string {
	switch r {
	case Continue:
		return "continue"
	case Replied:
		return "replied"
	case Park:
		return "park"
	}
	return "unknown"
}

// Reset makes x ready for another exchange. Strings made by Concat for the
// last one must not be used any more.
func (x *Exchange) Reset() {
	x.Req, x.Resp, x.MatchedPrefix, x.Origin, x.Host = nil, nil, 0, "", nil
	x.Reply, x.memory, x.Service = Reply{}, x.memory[:0], nil
	x.ForgetNotes()
}

// Answer fills Reply and returns Replied. The reply has room for a few fields.
func (x *Exchange) Answer(status int, flag, details, body string) Result {
	x.Reply = Reply{Status: status, Flag: flag, Details: details, Body: body, Fields: x.fields[:0]}
	return Replied
}

// Append returns memory of the exchange to append to: what was made of it is
// turned into a string by Text. Nothing else may use the exchange's memory in between.
func (x *Exchange) Append() []byte { return x.memory }

// Text takes what has been appended to the result of Append, and returns it as
// a string that lives until the exchange ends.
func (x *Exchange) Text(b []byte) string {
	start := len(x.memory)
	x.memory = b
	if len(b) == start {
		return ""
	}
	// b[start:] is never written again: the next Append begins behind it, and
	// a grown slice leaves the old memory alone.
	return unsafe.String(&b[start], len(b)-start)
}

// Concat joins three strings without allocating, but for growth of the
// exchange's memory.
func (x *Exchange) Concat(a, b, c string) string {
	m := x.Append()
	m = append(m, a...)
	m = append(m, b...)
	return x.Text(append(m, c...))
}
