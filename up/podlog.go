package up

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// podLog takes the output of a pod's program: it keeps the last of it, to be
// shown when the program dies, and passes whole lines on, each with the pod's
// name, where somebody wants to see them.
type podLog struct {
	prefix string
	to     io.Writer // nil: nobody wants to see them

	mu   sync.Mutex
	last []byte
	line []byte
}

// maxTail is how much output is kept, and how long a line is passed on whole.
const maxTail = 2 << 10

func newPodLog(pod string, to io.Writer) *podLog {
	return &podLog{prefix: "[" + pod + "] ", to: to}
}

// Write takes output; it never fails, so that a program is not stopped by the
// reader of its log.
func (l *podLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = append(l.last, b[max(0, len(b)-maxTail):]...)
	if over := len(l.last) - maxTail; over > 0 {
		l.last = append(l.last[:0], l.last[over:]...)
	}
	if l.to == nil {
		return len(b), nil
	}
	for rest := b; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			l.line = append(l.line, rest...)
			if len(l.line) >= maxTail {
				l.flush()
			}
			break
		}
		l.line = append(l.line, rest[:i]...)
		l.flush()
		rest = rest[i+1:]
	}
	return len(b), nil
}

func (l *podLog) flush() {
	_, _ = io.WriteString(l.to, l.prefix+string(l.line)+"\n")
	l.line = l.line[:0]
}

// tail returns the last lines of output, at most three.
func (l *podLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(l.last)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}
