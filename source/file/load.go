package file

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
	"cairnproxy.dev/cairn/source/object"
)

const (
	maxFileSize  = 16 << 20
	maxTotalSize = 256 << 20
)

// Result is what a look at the manifests gave.
type Result struct {
	// Parts is the mesh as described; of no use when it is Refused.
	Parts mesh.Parts
	// Pods are the pods to run.
	Pods []object.Pod
	// Files and Objects count what was read and used.
	Files, Objects int
	// Notices are worth telling and no mistakes.
	Notices []object.Notice
	// Problems are everything that is wrong, ordered by place. With any that is not
	// Served the whole is refused.
	Problems []source.Problem
}

// Refused returns the problems for which the whole is refused; nil when it can be served.
func (r *Result) Refused() []source.Problem { return source.Refused(r.Problems) }

// own returns a copy whose lists may be changed.
func (r Result) own() Result {
	p := &r.Parts
	p.Workloads, p.Services, p.Waypoints = slices.Clone(p.Workloads), slices.Clone(p.Services), slices.Clone(p.Waypoints)
	p.Statuses = slices.Clone(p.Statuses)
	p.Access, p.RequestAuth = slices.Clone(p.Access), slices.Clone(p.RequestAuth)
	p.Attachments, p.Policies, p.PeerAuth = slices.Clone(p.Attachments), slices.Clone(p.Policies), slices.Clone(p.PeerAuth)
	r.Pods, r.Notices, r.Problems = slices.Clone(r.Pods), slices.Clone(r.Notices), slices.Clone(r.Problems)
	return r
}

// content is a file as it was read last.
type content struct {
	hash [sha256.Size]byte
	file *object.File
	// found is how the file looked before it was read, and settled whether it had
	// been left alone by then: if so, one that looks the same is the same.
	found   found
	settled bool
}

// reader reads files and keeps what it decoded for as long as they stay the same.
type reader struct {
	known map[string]content
}

// read decodes the files, several at a time. It reports whether anything
// differs from the last time.
func (r *reader) read(files []found) (decoded []*object.File, problems []source.Problem, changed bool) {
	next := make([]content, len(files))
	errs := make([]string, len(files))
	var total int64
	for i, f := range files {
		if total += f.size; total > maxTotalSize && f.size <= maxFileSize {
			errs[i] = fmt.Sprintf("all manifests together are larger than %d MiB; name fewer", maxTotalSize>>20)
			files = files[:i+1]
			break
		}
	}
	var wg sync.WaitGroup
	work := make(chan int)
	for range min(runtime.GOMAXPROCS(0), len(files)) {
		wg.Go(func() {
			for i := range work {
				next[i], errs[i] = r.readOne(files[i])
			}
		})
	}
	for i := range files {
		if errs[i] == "" {
			work <- i
		}
	}
	close(work)
	wg.Wait()

	known := make(map[string]content, len(files))
	for i, f := range files {
		if errs[i] != "" {
			problems = append(problems, source.Problem{File: f.path, Message: errs[i]})
			changed = true
			continue
		}
		if next[i].file == nil {
			continue // vanished while we looked
		}
		old, ok := r.known[f.path]
		changed = changed || !ok || old.hash != next[i].hash
		known[f.path] = next[i]
		decoded = append(decoded, next[i].file)
	}
	changed = changed || len(known) != len(r.known)
	r.known = known
	return decoded, problems, changed
}

// readOne reads and decodes a file, or takes what is known of it.
func (r *reader) readOne(at found) (c content, problem string) {
	old, known := r.known[at.path]
	if known && old.settled && old.found == at {
		return old, ""
	}
	c.found, c.settled = at, at.settled(time.Now())
	// Not to hang on a pipe that took the file's place.
	f, err := os.OpenFile(at.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return c, ""
	}
	if err != nil {
		return c, fmt.Sprintf("it cannot be opened (%v); change its permissions or remove it", rootCause(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return c, "it is not a file; put a file with manifests there"
	}
	data, err := readAll(f, at.size)
	if err != nil {
		return c, fmt.Sprintf("it cannot be read (%v); correct that or remove it", rootCause(err))
	}
	if len(data) > maxFileSize {
		return c, fmt.Sprintf("it is larger than %d MiB; split it", maxFileSize>>20)
	}
	c.hash = sha256.Sum256(data)
	if known && old.hash == c.hash {
		c.file = old.file
		return c, ""
	}
	c.file = object.Redecode(at.path, data, old.file)
	c.file.Forget(c.text)
	return c, ""
}

// readAll reads a file of about that size, and no more than may be read.
func readAll(f *os.File, size int64) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, min(max(size, 0), maxFileSize)+bytes.MinRead))
	_, err := b.ReadFrom(io.LimitReader(f, maxFileSize+1))
	return b.Bytes(), err
}

// text reads the file again; nil when it is not what it was.
func (c content) text() []byte {
	f, err := os.OpenFile(c.found.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	data, err := readAll(f, c.found.size)
	if err != nil || sha256.Sum256(data) != c.hash {
		return nil
	}
	return data
}

// translate makes a Result of decoded files.
func translate(files []*object.File, problems []source.Problem, by *object.Translator) Result {
	n := 0
	for _, f := range files {
		n += len(f.Objects)
	}
	objects := make([]*object.Object, 0, n)
	var ignored []object.Ignored
	for _, f := range files {
		objects = append(objects, f.Objects...)
		ignored = append(ignored, f.Ignored...)
		problems = append(problems, f.Problems...)
	}
	t := by.Translate(objects)
	res := Result{
		Parts: t.Parts, Pods: t.Pods, Files: len(files), Objects: len(objects),
		Notices:  append(object.Notices(ignored), t.Notices...),
		Problems: append(problems, t.Problems...),
	}
	slices.SortStableFunc(res.Problems, source.Problem.Compare)
	return res
}
