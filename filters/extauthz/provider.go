package extauthz

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/remote"
	"cairnproxy.dev/cairn/mesh"
)

// defaultTimeout is for providers that say none. Istio has 10 minutes there, for which no client waits, and Envoy
// 200 ms for gRPC, in which a connection may not have been made yet.
const defaultTimeout = 10 * time.Second

// provider is whom one mesh.ExtAuthz asks.
type provider struct {
	*mesh.ExtAuthz
	own     string // who we are, as a SPIFFE URI
	service *remote.Service
	stub    auth.AuthorizationClient // of gRPC
	timeout time.Duration
	epoch   time.Time
	*totals

	request           names // what of the request is sent
	allow, deny, down names // what of an answer by HTTP is heeded
}

// provider compiles m. One that cannot be asked is broken.
func (r *Registry) provider(m *mesh.ExtAuthz) *provider {
	p := &provider{
		ExtAuthz: m, own: r.own, timeout: m.Timeout, epoch: r.epoch, totals: r.totalOf(m),
		request: newNames(m.RequestHeaders), allow: newNames(m.UpstreamOnAllow), deny: newNames(m.DownstreamOnDeny), down: newNames(m.DownstreamOnAllow),
	}
	if p.timeout <= 0 {
		p.timeout = defaultTimeout
	}
	if m.Broken != "" {
		return p
	}
	find := r.services.HTTP
	if m.GRPC {
		find = r.services.GRPC
	}
	if s, err := find(m.Service, m.Port); err == nil {
		p.service = s
		if m.GRPC {
			p.stub = auth.NewAuthorizationClient(s.Conn())
		}
	}
	return p
}

// next is where a request goes on that may pass.
type next func(*filters.Exchange) filters.Result

// ask asks about the request, and goes on with then where it may pass.
func (p *provider) ask(x *filters.Exchange, then next) filters.Result {
	if p.service == nil {
		return p.unanswered(x, then)
	}
	if p.Body == 0 {
		return p.send(x, nil, true, then)
	}
	want := p.Body
	if !p.PartialBody {
		want++ // one more tells that there are too many
	}
	return x.Body(want, func(x *filters.Exchange, body []byte, whole bool) filters.Result {
		if len(body) > p.Body {
			if !p.PartialBody {
				p.denied.Inc()
				return x.Answer(http.StatusRequestEntityTooLarge, "", "request_payload_too_large", "Payload Too Large")
			}
			body, whole = body[:p.Body], false
		}
		return p.send(x, body, whole, then)
	})
}

// answer is what a provider says.
type answer struct {
	verdict verdict
	// status and body are of a denial, with reply as its fields; status may be of a provider that says that it
	// cannot tell, too, 0 for the configured one.
	status int
	body   string
	reply  []filters.FieldEdit
	// Of a request that may pass.
	request, response []filters.FieldEdit
	remove            []string
	setQuery          []param
	removeQuery       []string
}

type verdict uint8

const (
	unanswered verdict = iota
	allowed
	denied
)

// errInvalid is for an answer that cannot be heeded.
var errInvalid = errors.New("the answer cannot be heeded")

// send parks the exchange until there is an answer.
func (p *provider) send(x *filters.Exchange, body []byte, whole bool, then next) filters.Result {
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	var question func() (answer, error)
	if p.GRPC {
		q := p.check(x, body, whole)
		question = func() (answer, error) { return p.askGRPC(ctx, q) }
	} else {
		q, err := p.httpRequest(ctx, x, body, whole)
		if err != nil { // the client's doing: it is not to choose that nobody is asked
			cancel()
			return p.refuse(x, &answer{})
		}
		question = func() (answer, error) { return p.askHTTP(q) }
	}
	if err := p.service.Admit(x.Now.Sub(p.epoch)); err != nil {
		cancel()
		return p.unanswered(x, then)
	}
	resume := x.Await(cancel)
	go func() {
		defer cancel()
		a, err := question()
		asked := err
		if errors.Is(err, errInvalid) {
			asked = nil // it has answered
		}
		defer p.service.Done(ctx, asked)
		resume(func(x *filters.Exchange) filters.Result {
			switch {
			case errors.Is(err, errInvalid):
				p.invalid.Inc()
				return x.Answer(http.StatusInternalServerError, flag, "ext_authz_invalid", "")
			case err != nil:
				return p.unanswered(x, then)
			}
			return p.heed(x, &a, then)
		})
	}()
	return filters.Park
}

// flag is Envoy's for what external authorization refuses.
const flag = "UAEX"

// unanswered goes on without an answer, as the provider's configuration says.
func (p *provider) unanswered(x *filters.Exchange, then next) filters.Result {
	return p.undecided(x, &answer{}, then)
}

// undecided is unanswered for a provider that has said so itself.
func (p *provider) undecided(x *filters.Exchange, a *answer, then next) filters.Result {
	if p.FailOpen && p.Broken == "" {
		p.failed.Inc()
		return then(x)
	}
	return p.refuse(x, a)
}

// refuse refuses a request about which there is no answer.
func (p *provider) refuse(x *filters.Exchange, a *answer) filters.Result {
	p.failed.Inc()
	x.Answer(cmp.Or(a.status, p.StatusOnError, http.StatusForbidden), flag, "ext_authz_error", a.body)
	for i := range a.reply {
		a.reply[i].Apply(&x.Reply.Fields)
	}
	return filters.Replied
}

// heed does what the provider says.
func (p *provider) heed(x *filters.Exchange, a *answer, then next) filters.Result {
	switch a.verdict {
	case allowed:
		p.allowed.Inc()
		for i := range a.request {
			a.request[i].Apply(&x.Req.Fields)
		}
		for _, name := range a.remove {
			x.Req.Fields.Del(name)
		}
		if len(a.setQuery)+len(a.removeQuery) > 0 {
			editQuery(x, a.setQuery, a.removeQuery)
		}
		if len(a.response) > 0 {
			n := x.Notes()
			n.ResponseEdits = append(n.ResponseEdits, a.response...)
		}
		return then(x)
	case denied:
		p.denied.Inc()
		if a.status == http.StatusNoContent || a.status == http.StatusNotModified {
			a.body = "" // these have none
		}
		x.Answer(a.status, flag, "ext_authz_denied", a.body)
		for i := range a.reply {
			a.reply[i].Apply(&x.Reply.Fields)
		}
		return filters.Replied
	default:
		return p.undecided(x, a, then)
	}
}
