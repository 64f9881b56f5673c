package h1

import (
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
)

var randomStreams = flag.Int("streams", 20000, "how many streams TestRandomStreams makes")

// TestRandomStreams builds streams of requests from the pieces that attacks are
// made of, damages some by a byte, and asserts that net/http reads alike
// whatever we accept. It reaches combinations that byte-wise fuzzing does not.
func TestRandomStreams(t *testing.T) {
	r := rand.New(rand.NewPCG(1, uint64(*randomStreams)))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	var framing []string
	for _, e := range codingTricks {
		framing = append(framing, e.lines)
	}
	for _, e := range lengthTricks {
		framing = append(framing, e.lines)
	}
	// rare returns usual, or now and then one of the others.
	rare := func(usual string, others ...string) string {
		if r.IntN(40) == 0 {
			return pick(others...)
		}
		return usual
	}
	request := func(b *strings.Builder) {
		b.WriteString(pick("", "", "\r\n", "\r\n\r\n") + rare("", "\n"))
		b.WriteString(rare(pick("GET", "POST", "OPTIONS", "HEAD", "PUT", "X"), "get", "CONNECT", "") + rare(" ", "  ", "\t"))
		b.WriteString(rare(pick("/", "/a/../b?c", "http://b/x", "/%2e%2e/%41", "//b", "https://B:1?q", "/a\\b", "HTTP://[::1]/"), "*", "\\a", "a:80", "/a?#", "/%00"))
		b.WriteString(rare(" ", "  ") + rare(pick("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"), "HTTP/1.2", "HTTP/1.1 "))
		lines := []string{rare(pick("Host: a", "HOST:B:80", "host: [::1]:80"), "Host: ", "X: y", "Host: a,b", "Host: a\r\nHost: a")}
		for range r.IntN(3) {
			lines = append(lines, rare(pick("X: y", "x:", "X_Y:\tz", "X: \xff", "A: \"b", "TE: trailers", "Connection: x", "Connection: close", "Connection:,keep-alive,"),
				" x: y", "X : y", ":", "X: y\r\n z", "Connection: Upgrade\r\nUpgrade: websocket", "Expect: 100-continue", "Connection: host"))
		}
		body := ""
		switch r.IntN(4) {
		case 0:
			lines = append(lines, rare(pick("Content-Length: 5", "content-length:\t005 "), framing...))
			body = rare("abcde", "0\r\n\r\n", "abcd", "")
		case 1:
			lines = append(lines, rare(pick("Transfer-Encoding: chunked", "transfer-encoding:Chunked "), framing...))
			body = rare(pick("0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n", "1\r\na\r\n00\r\nHost: b\r\n\r\n"),
				"1\na\n0\n\n", "5 \r\nhello\r\n0\r\n\r\n", "0\r\nGET / HTTP/1.1\r\n\r\n", "1;\r\na\r\n0\r\n \r\n\r\n", "abcde")
		case 2:
			lines = append(lines, rare("X: y", framing...))
		}
		lines = append(lines, rare("Y: z", framing...))
		r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		for _, l := range lines {
			b.WriteString(rare("\r\n", "\r\n", "\n", "\r") + l)
		}
		b.WriteString(rare("\r\n\r\n", "\n\n", "\r\n\n") + body)
	}
	accepted, refused := 0, 0
	for range *randomStreams {
		var b strings.Builder
		for range 1 + r.IntN(3) {
			request(&b)
		}
		raw := []byte(b.String())
		if r.IntN(8) == 0 {
			raw[r.IntN(len(raw))] = pick("\r", "\n", "\x00", " ", "\t", ":", "\x0b", ",", ";", "\x80", "0", "a")[0]
		}
		msgs, rest, err := readStream(raw)
		if err != nil {
			refused++
		}
		accepted += len(msgs)
		sameAsNetHTTP(t, raw, msgs, len(rest))
	}
	if accepted < *randomStreams/2 || refused < *randomStreams/4 {
		t.Errorf("%d requests accepted and %d streams refused: the generator is broken", accepted, refused)
	}
	t.Logf("%d requests accepted, %d streams refused", accepted, refused)
}
