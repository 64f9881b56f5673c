package filters

import "time"

// Host is the proxy around an exchange.
type Host interface {
	// Await, After and Body are those of Exchange.
	Await(cancel func()) Resume
	After(d time.Duration, then func(*Exchange) Result)
	Body(n int, then BodyStep) Result
}

// BodyStep goes on with the beginning of the request's body; whole says that nothing follows it. body
// is the exchange's memory, and stays where it is: what is sent on begins with it.
type BodyStep func(x *Exchange, body []byte, whole bool) Result

// Resume ends the waiting of a parked exchange. It is called once, from any goroutine,
// but not by the step itself before it has returned, nor with a lock held that a step or
// a cancel function takes. then runs on the caller's goroutine, in a turn of its own, with the
// exchange as no one else's, and says how it goes on: it may fill Reply by Exchange.Answer, edit
// the request, or wait once more. nil means Continue. Where the exchange has ended meanwhile,
// then is not called.
type Resume func(then func(*Exchange) Result)

// Await is for a request step that has to wait for work elsewhere. The step begins that
// work, gives it the Resume that is returned here, and returns Park:
//
//	resume := x.Await(cancel)
//	go func() {
//		answer := ask()
//		resume(func(x *filters.Exchange) filters.Result { … })
//	}()
//	return filters.Park
//
// While it waits the client's bytes do too, within flow control. A deadline may pass,
// and the client may go away: that ends the exchange, and cancel, which may be nil, is called once, to
// end the work. cancel runs with the exchange locked: it must not block. x, and strings
// of the request, must not be used outside then: clone what the work needs.
//
// Response steps cannot wait.
func (x *Exchange) Await(cancel func()) Resume { return x.Host.Await(cancel) }

// Body is for a request step that has to see the request's body, as far as n bytes: it goes on with then as
// soon as as many have come, or all there are, perhaps at once, and parks the exchange until then. More than n may be
// there. A client that does not send them for a minute is answered 408. Requests that become
// something else than HTTP (an upgrade, CONNECT) have no body.
func (x *Exchange) Body(n int, then BodyStep) Result { return x.Host.Body(n, then) }

// After parks a request step for d: it returns Park, for the step to return.
// Then then runs as in Resume; nil means Continue. The pause is never shorter than d,
// and longer by at most some milliseconds, or a fiftieth of a second where d is
// longer than a tenth.
func (x *Exchange) After(d time.Duration, then func(*Exchange) Result) Result {
	x.Host.After(d, then)
	return Park
}
