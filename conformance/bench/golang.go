package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What a contender that is a Go program tells of its heap.

// mallocsTotal is the metric that counts allocations.
const mallocsTotal = "go_memstats_mallocs_total"

// calibrate notes what it costs to ask for the metrics, in allocations: the
// difference of two answers has one such cost in it. The first answer of a
// process, which makes what later ones reuse, is not looked at.
func (r *running) calibrate(ctx context.Context) error {
	var counts [3]float64
	for i := range counts {
		var err error
		if counts[i], err = r.goMetric(ctx, mallocsTotal); err != nil {
			return err
		}
	}
	r.scrape = counts[2] - counts[1]
	return nil
}

// countsAllocations reports whether the case asks and the contender can tell.
func (t *trial) countsAllocations() bool { return t.allocations && t.run.metrics != "" }

// liveHeap collects garbage and returns the megabytes that remain.
func (r *running) liveHeap(ctx context.Context) (float64, error) {
	if err := r.collect(ctx); err != nil {
		return 0, err
	}
	n, err := r.goMetric(ctx, "go_memstats_heap_alloc_bytes")
	return n / 1e6, err
}

// collectAfter collects garbage once the time has passed.
func (r *running) collectAfter(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return r.collect(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// collect makes the program collect garbage, and waits until it has.
func (r *running) collect(ctx context.Context) error {
	return fetch(ctx, "http://"+r.admin+"/debug/pprof/heap?gc=1", func(io.Reader) error { return nil })
}

// goMetric reads one of the Go runtime's metrics, as client_golang names it.
func (r *running) goMetric(ctx context.Context, name string) (value float64, err error) {
	err = fetch(ctx, "http://"+r.metrics+"/metrics", func(body io.Reader) error {
		for s := bufio.NewScanner(body); s.Scan(); {
			if text, ok := strings.CutPrefix(s.Text(), name+" "); ok {
				value, err = strconv.ParseFloat(text, 64)
				return err
			}
		}
		return fmt.Errorf("no %s among the metrics", name)
	})
	return value, err
}

// fetch passes the body of a URL's answer to read.
func fetch(ctx context.Context, url string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", url, err)
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
