package file

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
)

// Options says what to read and how.
type Options struct {
	// Paths are files and folders.
	Paths []string
	// Objects says what the manifests do not.
	Objects object.Options
	// Log gets a line when the file system cannot be watched; nil for none.
	Log *slog.Logger
	// Quiet is how long the files must be left alone before they are read
	// again, 0 means 100 ms; Patience is how long to wait for that at most,
	// 0 means 500 ms.
	Quiet, Patience time.Duration
	// Poll is the time between looks without a notification, 0 means 5 s.
	Poll time.Duration
}

// Source reads manifests. Make one with New.
type Source struct {
	opts    Options
	refresh chan struct{}

	mu       sync.Mutex // guards what follows
	by       *object.Translator
	reader   reader
	looked   []found
	decoded  []*object.File
	problems []source.Problem // of the files themselves
	loaded   bool
	last     Result // what the last look gave
	good     Result // the last one that was not refused
}

// New makes a Source. It reads nothing yet.
func New(opts Options) *Source {
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	set(&opts.Quiet, 100*time.Millisecond)
	set(&opts.Patience, 500*time.Millisecond)
	set(&opts.Poll, 5*time.Second)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{opts: opts, by: object.NewTranslator(opts.Objects), refresh: make(chan struct{}, 1)}
}

// Load reads the manifests and returns what they say. Files that have not
// changed since the last Load are not decoded again. The lists of the Result
// are the caller's; what they point to is not.
func (s *Source) Load() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	res, _, _ := s.load()
	return res.own()
}

// load looks at the paths and reads what is there. It reports whether anything
// has changed since the last time.
func (s *Source) load() (Result, scan, bool) {
	sc := look(s.opts.Paths)
	decoded, problems, changed := s.reader.read(sc.files)
	problems = append(sc.problems, problems...)
	changed = changed || !s.loaded || !slices.Equal(problems, s.problems)
	s.loaded, s.looked, s.decoded, s.problems = true, sc.files, decoded, problems
	if changed {
		s.translate()
	}
	return s.last, sc, changed
}

// translate makes a Result of what was read last.
func (s *Source) translate() Result {
	s.last = translate(s.decoded, slices.Clone(s.problems), s.by)
	if s.last.Refused() == nil {
		s.good = s.last
	}
	return s.last
}

// Good returns the last Result that was not refused: what is being served. It
// is empty if there never was one.
func (s *Source) Good() Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.good.own()
}

// Refresh makes Run translate the manifests again without reading them, because
// something that Options.Objects asks about has changed, such as which pods are
// ready. It does not wait.
func (s *Source) Refresh() {
	select {
	case s.refresh <- struct{}{}:
	default: // one is pending already
	}
}

// Run reads the manifests, publishes them to store, and goes on to do so
// whenever they change, until ctx ends; then it returns nil. Manifests with
// problems are not published, unless all of these are Served.
//
// onReload, if not nil, is called after each reading of something new, in Run's
// goroutine and after the publication: with the number of objects that are
// served since, or with 0 where they are refused, and with what is wrong. It is not called for Refresh.
func (s *Source) Run(ctx context.Context, store *source.Store, onReload func(accepted int, problems []source.Problem)) error {
	w := newWatch(s.opts.Log)
	defer w.close()
	// The folders are watched before they are read, so that nothing is missed.
	w.set(look(s.opts.Paths).watch)
	s.reload(store, w, onReload)

	poll := time.NewTicker(s.opts.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	var patience time.Time // when to read at the latest; zero while nothing has happened
	stir := func() {
		now := time.Now()
		if patience.IsZero() {
			patience = now.Add(s.opts.Patience)
		}
		quiet.Reset(min(s.opts.Quiet, max(0, patience.Sub(now))))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.events():
			if w.list.matters(e.Name) {
				stir()
			}
		case err := <-w.errors():
			s.opts.Log.Debug("watching manifests: notifications may be lost", "error", err)
			stir()
		case <-poll.C:
			if s.touched() {
				stir()
			}
		case <-quiet.C:
			patience = time.Time{}
			s.reload(store, w, onReload)
		case <-s.refresh:
			s.mu.Lock()
			if res := s.translate(); res.Refused() == nil && res.Files > 0 {
				s.publish(store)
			}
			s.mu.Unlock()
		}
	}
}

// publish makes the last good Result the store's. Its lists are the store's
// from then on, which puts into them what it knew already: so nothing is kept twice.
func (s *Source) publish(store *source.Store) { store.Publish(s.good.Parts) }

// touched reports whether a look at the paths differs from the last.
func (s *Source) touched() bool {
	sc := look(s.opts.Paths)
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.Equal(sc.files, s.looked) || len(sc.problems) > 0 != (len(s.problems) > 0)
}

func (s *Source) reload(store *source.Store, w *watch, onReload func(int, []source.Problem)) {
	s.mu.Lock()
	res, sc, changed := s.load()
	if changed && res.Refused() == nil {
		s.publish(store)
	}
	s.mu.Unlock()
	w.set(sc.watch)
	switch {
	case !changed || onReload == nil:
	case res.Refused() != nil:
		onReload(0, res.Problems)
	default:
		onReload(res.Objects, res.Problems)
	}
}
