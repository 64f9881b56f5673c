package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cairnproxy.dev/cairn/source"
)

const (
	maxFiles = 20_000 // in all folders together
	maxDepth = 32     // of folders in folders
)

// found is one file to read. Two that are equal hold, as far as one can tell
// without reading, the same.
type found struct {
	path    string // as the user would write it
	size    int64
	mod     time.Time
	inode   uint64
	changed int64 // when its content, name or rights changed last; 0 where the system does not tell
}

// settled reports whether a file has been left alone for so long before now
// that a further write would show in its times, whose steps are coarse.
func (f found) settled(now time.Time) bool {
	const step = time.Second
	return now.Sub(f.mod) > step && now.Sub(time.Unix(0, f.changed)) > step
}

// scan is what a look at the paths gave.
type scan struct {
	files    []found
	watch    watchlist
	problems []source.Problem
}

// watchlist says what to watch: each folder, by its real path, with the names
// in it that matter; nil for all of them.
type watchlist map[string][]string

func (l watchlist) all(folder string) { l[folder] = nil }

func (l watchlist) name(path string) {
	folder, name := filepath.Dir(path), filepath.Base(path)
	if names, ok := l[folder]; !ok || names != nil {
		l[folder] = append(names, name)
	}
}

// matters reports whether a change of path is of interest.
func (l watchlist) matters(path string) bool {
	names, ok := l[filepath.Dir(path)]
	return ok && (names == nil || slices.Contains(names, filepath.Base(path)))
}

// look finds the files below the paths.
func look(paths []string) scan {
	w := walker{scan: scan{watch: watchlist{}}, seenFiles: map[string]bool{}, seenFolders: map[string]bool{}}
	for _, p := range paths {
		p = filepath.Clean(p)
		// It may be a link, or not be there yet.
		w.watch.name(filepath.Join(realPath(filepath.Dir(p)), filepath.Base(p)))
		files, problems := len(w.files), len(w.problems)
		w.again = false
		w.visit(p, true, 0)
		if len(w.files) == files && len(w.problems) == problems && !w.again && isFolder(p) {
			w.problem(p, "the folder holds no *.yaml, *.yml or *.json file; add manifests or name another folder")
		}
	}
	if w.tooMany {
		w.problem("", fmt.Sprintf("there are more than %d manifests; name a smaller folder", maxFiles))
	}
	slices.SortFunc(w.files, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return w.scan
}

type walker struct {
	scan
	seenFiles   map[string]bool // by real path: a file that is reached twice is read once
	seenFolders map[string]bool
	again       bool // something was met a second time
	tooMany     bool
}

func (w *walker) problem(path, message string) {
	w.problems = append(w.problems, source.Problem{File: path, Message: message})
}

func (w *walker) visit(path string, named bool, depth int) {
	if len(w.files) >= maxFiles {
		w.tooMany = true
		return
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && named:
		w.problem(path, "there is no such file or folder; correct the path or create it")
		return
	case errors.Is(err, fs.ErrNotExist):
		return // gone since the folder was read, or a link to nowhere
	case errors.Is(err, fs.ErrPermission):
		w.problem(path, "it may not be read; change its permissions")
		return
	case err != nil:
		w.problem(path, fmt.Sprintf("it cannot be read (%v); correct that or remove it", rootCause(err)))
		return
	}
	if info.IsDir() {
		w.folder(path, depth)
		return
	}
	if !info.Mode().IsRegular() {
		if named {
			w.problem(path, "it is neither a file nor a folder; name a file with manifests")
		}
		return
	}
	real, ok := w.first(w.seenFiles, path)
	if !ok {
		return
	}
	w.watch.name(real) // behind a link, the file changes elsewhere
	f := found{path: path, size: info.Size(), mod: info.ModTime()}
	f.inode, f.changed = identify(info)
	w.files = append(w.files, f)
}

// first reports whether the file or folder behind path is met for the first
// time, and what it is really called.
func (w *walker) first(seen map[string]bool, path string) (real string, ok bool) {
	real = realPath(path)
	if seen[real] {
		w.again = true
		return real, false
	}
	seen[real] = true
	return real, true
}

// realPath is the absolute path without links, as far as that can be told.
// What is watched goes by it, so that nothing is watched under two names.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return path
}

func (w *walker) folder(path string, depth int) {
	if depth > maxDepth {
		return
	}
	real, ok := w.first(w.seenFolders, path)
	if !ok {
		return
	}
	w.watch.all(real)
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		w.problem(path, fmt.Sprintf("the folder cannot be read (%v); change its permissions", rootCause(err)))
		return
	}
	for _, e := range entries {
		name := e.Name()
		if hidden(name) {
			continue
		}
		switch {
		case e.IsDir() || e.Type()&fs.ModeSymlink != 0 && !manifestName(name):
			if p := filepath.Join(path, name); e.IsDir() || isFolder(p) {
				w.visit(p, false, depth+1)
			}
		case manifestName(name):
			w.visit(filepath.Join(path, name), false, depth+1)
		}
	}
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// hidden reports names that are not looked at in folders: hidden files, and
// what editors leave while they write.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~")
}

func manifestName(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// rootCause drops the operation and path that a PathError repeats.
func rootCause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
