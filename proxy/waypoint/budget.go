package waypoint

import "time"

// payment is what a try holds of its cluster's retry budget, to be given back when it ends.
type payment uint8

const (
	paidNothing payment = iota
	paidFirst           // it is counted as a request, of which retries may be a share
	paidBudget          // a retry or hedge, by the retry budget
	paidBreaker         // likewise, by the circuit breaker's bound on retries
	paidFree            // likewise, where nothing bounds retries
)

// beginRequest counts the first try of a request where the cluster has a retry budget.
func (cl *cluster) beginRequest(now time.Time) payment {
	if cl.policy == nil || cl.policy.Budget == nil {
		return paidNothing
	}
	cl.c.State().Budget.Begin(cl.policy.Budget, now)
	return paidFirst
}

// takeRetry asks whether a retry or a hedge may go to the cluster: by its retry
// budget, or where it has none by its circuit breaker, as Envoy has it.
func (cl *cluster) takeRetry(now time.Time) (payment, bool) {
	switch p := cl.policy; {
	case p == nil:
	case p.Budget != nil:
		return paidBudget, cl.c.State().Budget.Retry(p.Budget, now)
	case p.Breaker != nil && p.Breaker.MaxRetries > 0:
		s := cl.c.State()
		if !s.Retries.Acquire(p.Breaker.MaxRetries) {
			s.Overflows.Retries.Add(1)
			return paidNothing, false
		}
		return paidBreaker, true
	}
	return paidFree, true
}

// giveBack ends what beginRequest or takeRetry began.
func (cl *cluster) giveBack(p payment) {
	switch p {
	case paidNothing, paidFree:
	case paidFirst:
		cl.c.State().Budget.End()
	case paidBudget:
		cl.c.State().Budget.EndRetry()
	case paidBreaker:
		cl.c.State().Retries.Release()
	}
}
