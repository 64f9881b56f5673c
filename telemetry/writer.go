package telemetry

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// WriterOptions adjusts a Writer. The zero value is right for production.
type WriterOptions struct {
	// JSON chooses JSON lines instead of text.
	JSON bool
	// FlushInterval is how long a line waits at most. Zero means 100 ms.
	FlushInterval time.Duration
	// BlockSize is how many bytes are written without waiting. Zero means 64 KiB.
	BlockSize int
	// MaxBuffered bounds the bytes that wait for the sink; lines beyond are
	// dropped and counted. Zero means 4 MiB.
	MaxBuffered int
	// Log receives a warning when the sink begins to fail or lines to be
	// dropped, and not again until it has recovered. Nil discards.
	Log *slog.Logger
}

// Writer is a buffered access log. Callers never wait for the sink: a line is
// copied into a buffer under a lock that is held for the copy alone, and Run
// writes the buffer in blocks. Until Run is called, lines only gather.
type Writer struct {
	sink io.Writer
	opts WriterOptions
	log  *slog.Logger
	pool sync.Pool     // *[]byte, for formatting
	wake chan struct{} // the first line came, or a block is full

	mu     sync.Mutex
	buf    []byte
	closed bool

	sinkMu sync.Mutex // held while writing; taken before mu
	spare  []byte
	ailing bool

	lines, dropped, failed atomic.Uint64
}

// NewWriter returns a Writer to sink, which it does not close.
func NewWriter(sink io.Writer, opts WriterOptions) *Writer {
	if opts.FlushInterval <= 0 {
		opts.FlushInterval = 100 * time.Millisecond
	}
	if opts.BlockSize <= 0 {
		opts.BlockSize = 64 << 10
	}
	if opts.MaxBuffered <= 0 {
		opts.MaxBuffered = 4 << 20
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Writer{
		sink: sink,
		opts: opts,
		log:  log,
		pool: sync.Pool{New: func() any { return new(make([]byte, 0, 1024)) }},
		wake: make(chan struct{}, 1),
	}
}

// HTTP logs one request.
func (w *Writer) HTTP(r *Record) {
	b := w.pool.Get().(*[]byte)
	if w.opts.JSON {
		*b = AppendRecordJSON((*b)[:0], r)
	} else {
		*b = AppendRecord((*b)[:0], r)
	}
	w.Line(*b)
	w.put(b)
}

// Conn logs one connection.
func (w *Writer) Conn(r *ConnRecord) {
	b := w.pool.Get().(*[]byte)
	if w.opts.JSON {
		*b = AppendConnJSON((*b)[:0], r)
	} else {
		*b = AppendConn((*b)[:0], r)
	}
	w.Line(*b)
	w.put(b)
}

func (w *Writer) put(b *[]byte) {
	if cap(*b) <= 16<<10 { // one huge line must not stay
		w.pool.Put(b)
	}
}

// Line logs a line, or several, that the caller formatted, with the newline.
// The bytes are copied. Lines that find no room, or come after Close, are
// counted as dropped.
func (w *Writer) Line(line []byte) {
	w.mu.Lock()
	before := len(w.buf)
	if w.closed || before+len(line) > w.opts.MaxBuffered {
		w.mu.Unlock()
		w.dropped.Add(1)
		return
	}
	w.buf = append(w.buf, line...)
	after := len(w.buf)
	w.mu.Unlock()
	w.lines.Add(1)
	if before == 0 || before < w.opts.BlockSize && after >= w.opts.BlockSize {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Run writes blocks to the sink until ctx ends, then what is left, and returns
// nil. It sleeps while nothing is logged.
func (w *Writer) Run(ctx context.Context) error {
	timer := time.NewTimer(w.opts.FlushInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			w.flush()
			return nil
		case <-w.wake:
		}
		timer.Reset(w.opts.FlushInterval)
		for full := false; !full; {
			if w.buffered() >= w.opts.BlockSize {
				break
			}
			select {
			case <-ctx.Done():
				w.flush()
				return nil
			case <-w.wake:
				full = w.buffered() >= w.opts.BlockSize
			case <-timer.C:
				full = true
			}
		}
		w.flush()
	}
}

func (w *Writer) buffered() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.buf)
}

// flush writes all that is buffered now. Lines that come meanwhile go into
// the other buffer.
func (w *Writer) flush() {
	w.sinkMu.Lock()
	defer w.sinkMu.Unlock()
	w.mu.Lock()
	block := w.buf
	w.buf = w.spare[:0]
	w.mu.Unlock()
	w.spare = block
	if cap(block) > 4*w.opts.BlockSize {
		w.spare = nil // a burst is over: give the memory back
	}
	if len(block) == 0 {
		return
	}
	dropped := w.dropped.Load()
	_, err := w.sink.Write(block)
	switch {
	case err != nil:
		w.failed.Add(1)
		if !w.ailing {
			w.log.Warn("writing the access log; its lines are lost until it works again", "error", err)
		}
		w.ailing = true
	case w.dropped.Load() > dropped:
		if !w.ailing {
			w.log.Warn("dropping access log lines: what reads them is too slow", "dropped", w.dropped.Load())
		}
		w.ailing = true
	default:
		w.ailing = false
	}
}

// Close refuses further lines and writes what is left. It waits for a write
// that is under way, so a sink that blocks for ever must be closed first.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.flush()
	return nil
}

// WriterStats counts what became of lines.
type WriterStats struct {
	Lines   uint64 // accepted
	Dropped uint64 // no room, or after Close
	Failed  uint64 // blocks that the sink refused
}

// Stats returns the counts of now.
func (w *Writer) Stats() WriterStats {
	return WriterStats{Lines: w.lines.Load(), Dropped: w.dropped.Load(), Failed: w.failed.Load()}
}

// Expose adds the counts to m.
func (w *Writer) Expose(m *Metrics) {
	m.CounterFunc("cairn_access_log_lines_total", "Access log lines accepted.", func() float64 { return float64(w.lines.Load()) })
	m.CounterFunc("cairn_access_log_dropped_total", "Access log lines dropped because the sink did not keep up.", func() float64 { return float64(w.dropped.Load()) })
	m.CounterFunc("cairn_access_log_write_errors_total", "Blocks of access log lines that the sink refused.", func() float64 { return float64(w.failed.Load()) })
}
