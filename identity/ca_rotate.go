package identity

import (
	"fmt"
	"slices"
	"time"
)

// RootStatus is one root of a CA as an operator sees it.
type RootStatus struct {
	// Name is the common name, Serial the serial number in hexadecimal.
	Name, Serial string
	// SignsFrom is when the CA begins to sign with it, Retires when it is not
	// trusted any more (zero: no successor yet), NotAfter when it expires.
	SignsFrom, Retires, NotAfter time.Time
	// Signs is true for the one root that signs now.
	Signs bool
}

// Rotate replaces the root without refusing anyone, in two phases that follow
// from dates alone:
//
//  1. From now on every certificate that is issued trusts the new root too. The
//     old root goes on signing until every certificate that was issued before
//     is over: whoever is in the mesh then trusts the new root.
//  2. Then the new root signs. The old one is trusted until the last
//     certificate that it signed is over, and is then forgotten with its key.
//
// Each phase takes as long as the longest certificate lives, plus a margin for
// clocks: 48 hours for certificates of 24. It is an error while another
// rotation is under way. The first phase is durable when Rotate returns.
func (ca *CA) Rotate() error {
	return ca.update(func(s *caState) (*caState, error) {
		now := time.Now()
		s = s.tidy(now)
		if n := len(s.roots); n > 1 {
			return nil, fmt.Errorf("a rotation is under way: root %s signs from %s, root %s leaves on %s; wait for that",
				s.roots[n-1].cert.Subject.CommonName, stamp(s.roots[n-1].signsFrom), s.roots[0].cert.Subject.CommonName, stamp(s.roots[0].retires))
		}
		next, err := newCARoot(ca.trustDomain, now)
		if err != nil {
			return nil, err
		}
		phase := s.longest + min(backdate, s.longest/10)
		next.signsFrom = now.Add(phase)
		old := *s.roots[0]
		old.retires = next.signsFrom.Add(phase)
		out := *s
		out.roots = []*caRoot{&old, next}
		return &out, nil
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Tend does what has become due: it forgets roots that are not needed any more, and writes the file of trusted roots anew if that has changed. It
// is cheap when there is nothing to do; call it now and then.
func (ca *CA) Tend() error {
	if err := ca.follow(); err != nil {
		return err
	}
	ca.mu.RLock()
	s := ca.state
	ca.mu.RUnlock()
	if s.tidy(time.Now()) == s {
		return nil
	}
	return ca.update(func(s *caState) (*caState, error) { return s.tidy(time.Now()), nil })
}

// Roots lists the roots, oldest first.
func (ca *CA) Roots() ([]RootStatus, error) {
	if err := ca.follow(); err != nil {
		return nil, err
	}
	ca.mu.RLock()
	defer ca.mu.RUnlock()
	now := time.Now()
	signer := ca.state.signer(now)
	var out []RootStatus
	for _, r := range ca.state.roots {
		out = append(out, RootStatus{
			Name: r.cert.Subject.CommonName, Serial: r.cert.SerialNumber.Text(16),
			SignsFrom: r.signsFrom, Retires: r.retires, NotAfter: r.cert.NotAfter, Signs: r == signer,
		})
	}
	return slices.Clip(out), nil
}

// noteLife remembers the longest life of a leaf before such a leaf exists.
func (ca *CA) noteLife(ttl time.Duration) error {
	ca.mu.RLock()
	known := ttl <= ca.state.longest
	ca.mu.RUnlock()
	if known {
		return nil
	}
	return ca.update(func(s *caState) (*caState, error) {
		out := *s
		out.longest = max(s.longest, ttl)
		return &out, nil
	})
}
