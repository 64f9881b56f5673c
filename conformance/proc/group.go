package proc

import (
	"errors"
	"time"
)

// A Group is a program under test that is made of several processes, or of
// one. What it costs is what they cost together.
type Group []*Process

// Usage reads the costs of all so far.
func (g Group) Usage() (Usage, error) {
	u := Usage{At: time.Now()}
	for _, p := range g {
		one, err := p.Usage()
		if err != nil {
			return u, err
		}
		u.CPU += one.CPU
		u.processes = append(u.processes, one.processes...)
	}
	return u, nil
}

// RSS returns the resident memory of all in bytes.
func (g Group) RSS() (int64, error) {
	var sum int64
	for _, p := range g {
		n, err := p.RSS()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Err returns nil while all run, and afterwards why the others ended.
func (g Group) Err() error {
	var all []error
	for _, p := range g {
		all = append(all, p.Err())
	}
	return errors.Join(all...)
}

// Stop stops one after the other, in order.
func (g Group) Stop(grace time.Duration) error {
	var all []error
	for _, p := range g {
		all = append(all, p.Stop(grace))
	}
	return errors.Join(all...)
}
