package extauthz

import (
	"context"
	"fmt"
	"net/http"
	"unicode/utf8"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"cairnproxy.dev/cairn/filters"
)

// clean replaces, in place, what is not UTF-8.
func clean(b []byte) []byte {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			b[i] = '!'
		}
		i += n
	}
	return b
}

// askGRPC asks, and reads the answer. errInvalid is for one that cannot be heeded, any other error for none.
func (p *provider) askGRPC(ctx context.Context, q *auth.CheckRequest) (answer, error) {
	r, err := p.stub.Check(ctx, q)
	if err != nil {
		return answer{}, fmt.Errorf("asking %s: %w", p.Service, err)
	}
	return readAnswer(r)
}

// readAnswer reads the answer of a service as Envoy does: its status decides.
func readAnswer(r *auth.CheckResponse) (a answer, err error) {
	var e edits
	switch {
	case r.GetStatus().GetCode() == 0:
		a.verdict = allowed
		return a, a.readOK(r.GetOkResponse(), &e)
	case r.GetErrorResponse() != nil:
		d := r.GetErrorResponse()
		a.status, a.body = statusOf(d, 0), d.GetBody()
		return a, readOptions(&e, &a.reply, d.GetHeaders(), filters.Overwrite)
	}
	a.verdict = denied
	d := r.GetDeniedResponse()
	a.status, a.body = statusOf(d, http.StatusForbidden), d.GetBody()
	return a, readOptions(&e, &a.reply, d.GetHeaders(), filters.Overwrite)
}

// statusOf is the status of a reply; what is none of a final response is otherwise's.
func statusOf(d *auth.DeniedHttpResponse, otherwise int) int {
	if n := int(d.GetStatus().GetCode()); n >= 200 && n <= 599 {
		return n
	}
	return otherwise
}

// readOK reads what is to be changed in a request that may pass.
func (a *answer) readOK(ok *auth.OkHttpResponse, e *edits) error {
	if err := readOptions(e, &a.request, ok.GetHeaders(), filters.Overwrite); err != nil {
		return err
	}
	if err := readOptions(e, &a.response, ok.GetResponseHeadersToAdd(), filters.Append); err != nil {
		return err
	}
	if len(ok.GetHeadersToRemove())+len(ok.GetQueryParametersToSet())+len(ok.GetQueryParametersToRemove()) > maxFields {
		return errInvalid
	}
	for _, name := range ok.GetHeadersToRemove() {
		a.removes(name)
	}
	for _, q := range ok.GetQueryParametersToSet() {
		a.setQuery = append(a.setQuery, param{q.GetKey(), q.GetValue()})
	}
	a.removeQuery = ok.GetQueryParametersToRemove()
	return nil
}

// readOptions reads header options. What an option does not say is otherwise: for a request's headers the API
// promises that a field is replaced, so that what a client claims does not stay beside it.
func readOptions(e *edits, to *[]filters.FieldEdit, list []*core.HeaderValueOption, otherwise filters.FieldAction) error {
	for _, o := range list {
		how := otherwise
		old := o.GetAppend() //nolint:staticcheck // services go on using it
		switch {
		case old.GetValue():
			how = filters.Append
		case old != nil:
			how = filters.Overwrite
		default:
			switch o.GetAppendAction() {
			case core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD: // what it says where it says nothing
			case core.HeaderValueOption_ADD_IF_ABSENT:
				how = filters.AddIfAbsent
			case core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
				how = filters.Overwrite
			case core.HeaderValueOption_OVERWRITE_IF_EXISTS:
				how = filters.OverwriteIfExists
			default:
				return errInvalid
			}
		}
		h := o.GetHeader()
		value := h.GetValue()
		if value == "" {
			value = string(h.GetRawValue())
		}
		if err := e.add(to, h.GetKey(), value, how); err != nil {
			return err
		}
	}
	return nil
}
