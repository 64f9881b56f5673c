package filters

import "cairnproxy.dev/cairn/mesh"

// Notes are what filters say of a request for others to heed later: for the response, for
// the access log. An Exchange has them from the first that is made.
type Notes struct {
	// Delayed says that a fault has delayed the request: the response flag DI.
	Delayed bool
	// Quota is what is left of the limit that is nearest.
	Quota Quota
	// ResponseFields are added to the response, ours or the endpoint's.
	ResponseFields mesh.Fields
	// ResponseEdits are what external authorization changes in the response, ours or the endpoint's.
	ResponseEdits []FieldEdit
	// WouldDeny is the policy in dry run that would have refused the request, and WouldAllow one that
	// would have let pass what was refused. Audited is a policy that asks for a record of it.
	WouldDeny, WouldAllow, Audited mesh.Name
	// WouldLimit names the limit in dry run that would have refused the request.
	WouldLimit string
	// SecretQuery says that there is, or was, a token in the request's query: logs must leave it out.
	SecretQuery bool

	made bool
}

// Quota is what the RateLimit fields of a response say (draft-ietf-httpapi-ratelimit-headers-03).
type Quota struct {
	// Limit is the value of RateLimit-Limit; "" for no quota.
	Limit string
	// Remaining units, and seconds until there are all of them again.
	Remaining, Reset uint64
	// RetryAfter is of a refusal: seconds until it is worth to ask again; 0 says nothing.
	RetryAfter uint64
	// Refused says that this is the limit that refused the request.
	Refused bool
}

// Notes returns the exchange's notes to write to.
func (x *Exchange) Notes() *Notes {
	if x.notes == nil {
		x.notes = new(Notes)
	}
	x.notes.made = true
	return x.notes
}

// Noted returns the notes, or nil where there are none.
func (x *Exchange) Noted() *Notes {
	if x.notes == nil || !x.notes.made {
		return nil
	}
	return x.notes
}

// ForgetNotes drops the notes, and keeps their memory.
func (x *Exchange) ForgetNotes() {
	if n := x.Noted(); n != nil {
		clear(n.ResponseFields)
		*n = Notes{ResponseFields: n.ResponseFields[:0]}
	}
}
