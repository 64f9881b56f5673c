package file

import (
	"errors"
	"io/fs"
	"log/slog"

	"github.com/fsnotify/fsnotify"
)

// watch is the file system's notifications; without them it never fires.
type watch struct {
	log    *slog.Logger
	fs     *fsnotify.Watcher
	list   watchlist
	warned bool
}

func newWatch(log *slog.Logger) *watch {
	w := &watch{log: log}
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		w.warn(err)
		return w
	}
	w.fs = fs
	return w
}

func (w *watch) warn(err error) {
	if !w.warned {
		w.warned = true
		w.log.Warn("watching manifests: some changes will only be noticed by polling", "error", err)
	}
}

// set makes list what is watched.
func (w *watch) set(list watchlist) {
	if w.fs == nil {
		return
	}
	for f := range w.list {
		if _, ok := list[f]; !ok {
			_ = w.fs.Remove(f) // it may be gone
		}
	}
	for f := range list {
		// A folder that another has replaced under its name has lost its watch, and
		// to add one twice does no harm.
		if err := w.fs.Add(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.warn(err)
		}
	}
	w.list = list
}

// events delivers a value for each notification.
func (w *watch) events() <-chan fsnotify.Event {
	if w.fs == nil {
		return nil
	}
	return w.fs.Events
}

// errors delivers a value when notifications may have been lost.
func (w *watch) errors() <-chan error {
	if w.fs == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *watch) close() {
	if w.fs != nil {
		_ = w.fs.Close()
	}
}
