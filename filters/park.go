package filters

import "time"

// Host is the proxy around an exchange.
type Host interface {
	// Await and After are those of Exchange.
	Await(cancel func()) Resume
	After(d time.Duration, then func(*Exchange) Result)
}

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

// After parks a request step for d: it returns Park, for the step to return.
// Then then runs as in Resume; nil means Continue. The pause is never shorter than d,
// and longer by at most some milliseconds, or a fiftieth of a second where d is
// longer than a tenth.
func (x *Exchange) After(d time.Duration, then func(*Exchange) Result) Result {
	x.Host.After(d, then)
	return Park
}
