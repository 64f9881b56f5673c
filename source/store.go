package source

import (
	"context"
	"sync"
	"sync/atomic"

	"cairnproxy.dev/cairn/mesh"
)

// Store holds the current Snapshot. Make one with NewStore.
type Store struct {
	current atomic.Pointer[mesh.Snapshot]

	mu      sync.Mutex // serialises Publish, guards readers
	readers map[chan *mesh.Snapshot]struct{}
}

// NewStore returns a Store whose current Snapshot is empty and has version 0.
func NewStore() *Store {
	s := &Store{readers: map[chan *mesh.Snapshot]struct{}{}}
	s.current.Store(mesh.NewSnapshot(0, mesh.Parts{}))
	return s
}

// Publish makes parts the current state of the mesh and returns its Snapshot,
// whose version is one more than the last. Objects of parts that equal those
// of the Snapshot before are replaced by them, so that a reader can tell by
// pointer what has changed. parts belong to the Store from here on.
//
// Publish may be called from any goroutine and waits for no reader.
func (s *Store) Publish(parts mesh.Parts) *mesh.Snapshot { return s.publish(parts, 0) }

// Follow is Publish for a Store that follows another, in another process: the
// Snapshot has the version that it has there, which must be above the last.
func (s *Store) Follow(parts mesh.Parts, version uint64) *mesh.Snapshot {
	return s.publish(parts, version)
}

// publish makes parts the current state, with the next version where none is given.
func (s *Store) publish(parts mesh.Parts, version uint64) *mesh.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	reuse(old, &parts)
	snap := old.Next(parts)
	if version > 0 {
		snap.Version = version
	}
	s.current.Store(snap)
	for ch := range s.readers {
		deliver(ch, snap)
	}
	return snap
}

// Current returns the current Snapshot, never nil. It does not block.
func (s *Store) Current() *mesh.Snapshot { return s.current.Load() }

// Updates returns a channel on which Snapshots arrive: the current one at once
// if anything has been published, then each newer one. A reader that is slower
// than the publisher gets only the latest. The channel is closed soon after
// ctx ends.
func (s *Store) Updates(ctx context.Context) <-chan *mesh.Snapshot {
	ch := make(chan *mesh.Snapshot, 1)
	s.mu.Lock()
	s.readers[ch] = struct{}{}
	if snap := s.current.Load(); snap.Version > 0 {
		ch <- snap
	}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		delete(s.readers, ch)
		close(ch)
		s.mu.Unlock()
	})
	return ch
}

// deliver puts snap into ch, whose buffer is 1, in place of what nobody has
// taken yet. Only the holder of Store.mu sends, so the second send finds room.
func deliver(ch chan *mesh.Snapshot, snap *mesh.Snapshot) {
	select {
	case ch <- snap:
		return
	default:
	}
	select {
	case <-ch:
	default:
	}
	ch <- snap
}
