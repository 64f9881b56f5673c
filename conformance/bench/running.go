package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"cairnproxy.dev/cairn/conformance/proc"
)

// running is a contender that was started: one process, or several that do
// the work together and whose costs are summed.
type running struct {
	proc.Group
	addr    string    // where it accepts the load
	log     string    // file that gets a line for each request; empty: none
	admin   string    // address of a Go program's admin server, with /debug/pprof/; empty: none
	pair    *nodePair // of the group node: what stands around the proxies
	metrics string    // address of a Go program's metrics; empty: none
	undo    func()    // takes back what was set up for it, after it has ended; nil: nothing

	scrape   float64 // allocations that reading the metrics costs
	requests float64 // measured ones, for which the log must have lines
}

// end stops the processes and checks their log.
func (r *running) end() error {
	err := r.Err()
	if stopErr := r.Stop(20 * time.Second); stopErr != nil && err == nil {
		fmt.Fprintf(os.Stderr, "bench: stopping a proxy: %v\n", stopErr)
	}
	if r.undo != nil {
		r.undo()
	}
	if err == nil && r.log != "" {
		err = logged(r.log, r.requests)
	}
	return err
}

// logged checks that the access log has a line for each measured request:
// nobody is fast by leaving work out.
func logged(path string, requests float64) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the access log: %w", err)
	}
	defer f.Close()
	lines, buf := 0, make([]byte, 256<<10)
	for {
		n, err := f.Read(buf)
		lines += bytes.Count(buf[:n], []byte("\n"))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the access log: %w", err)
		}
	}
	if float64(lines) < requests {
		return fmt.Errorf("the access log has %d lines for %.0f requests", lines, requests)
	}
	return nil
}
