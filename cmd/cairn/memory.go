package main

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

const (
	// manyChanges is the number of services and workloads from which a change
	// leaves enough behind to be worth a collection.
	manyChanges = 1000
	// settleTime is how long a proxy gets to make a snapshot its own, startTime
	// to begin.
	settleTime = 2 * time.Second
	startTime  = 500 * time.Millisecond
)

// giveBackMemory returns to the system what the reading of a large
// configuration left behind: a proxy at rest allocates nothing for requests, so
// that the collector would not come by for a long time. With code it also lets go
// of the pages of the program that the start alone needed: a node proxy is on
// every node, and most of them are quiet.
func giveBackMemory(ctx context.Context, log *slog.Logger, store *source.Store, code bool) error {
	last := mesh.NewSnapshot(0, mesh.Parts{})
	changed := 0
	timer := time.NewTimer(settleTime)
	timer.Stop()
	started := time.NewTimer(startTime)
	defer started.Stop()
	if !code {
		started.Stop()
	}
	updates := store.Updates(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case snap, ok := <-updates:
			if !ok {
				return nil
			}
			changed += len(snap.ChangedServices(last)) + len(snap.ChangedWorkloads(last))
			if last = snap; changed >= manyChanges {
				timer.Reset(settleTime)
			}
		case <-started.C:
			if err := dropStartPages(); err != nil {
				log.Debug("memory of the start is kept", "error", err)
			}
		case <-timer.C:
			changed = 0
			debug.FreeOSMemory()
		}
	}
}
