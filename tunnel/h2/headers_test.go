package h2

import (
	"fmt"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

func TestRequestAndResponse(t *testing.T) {
	s := start(t, Options{})
	s.send(s.headers(1, false, ":method", "POST", "a", "b"), data(1, 5), s.headers(1, true, "sum", "x"))
	s.want("open 1 :method=POST a=b", "data 1 5", "headers 1 sum=x trailer end")
	s.turn(func(t *loop.Turn) {
		s.last.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "103"}}, false)
		s.last.WriteHeaders(t, status200, false)
		s.last.Write(t, []byte("hello"), false)
		s.last.WriteTrailers(t, []hpack.HeaderField{{Name: "t", Value: "u"}})
		s.last.Write(t, []byte("late"), true)
		s.last.WriteTrailers(t, status200)
	})
	s.wantSent("HEADERS 1 :status=103", "HEADERS 1 :status=200", "DATA 1 5", "HEADERS 1 t=u end")
	if n := s.c.Streams(); n != 0 {
		t.Errorf("%d streams are open, want none", n)
	}
}

func TestClientStream(t *testing.T) {
	s := start(t, Options{Client: true})
	st := s.opened(false)
	s.write(st, 3, true)
	s.wantSent("HEADERS 1 :method=CONNECT", "DATA 1 3 end")
	s.send(s.status(1, "103", false), s.status(1, "200", false), data(1, 2), s.headers(1, true, "t", "u"))
	s.want("headers 1 :status=103", "headers 1 :status=200", "data 1 2", "headers 1 t=u trailer end")
	if n := s.c.Streams(); n != 0 {
		t.Errorf("%d streams are open, want none", n)
	}
}

func TestStreamStates(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    Options
		do   func(s *script)
		code ErrCode // connection error of the last frame; 0: none
		last func(s *script) []byte
		want []string
		sent []string
	}{
		{
			name: "data-half-closed", do: func(s *script) { s.send(s.get(1)) }, last: func(*script) []byte { return data(1, 1) },
			want: []string{"open 1 :method=GET end", "reset 1 STREAM_CLOSED by us"}, sent: []string{"RST 1 STREAM_CLOSED"},
		},
		{
			name: "headers-half-closed", do: func(s *script) { s.send(s.get(1)) }, code: StreamClosed,
			last: func(s *script) []byte { return s.headers(1, true, "a", "b") },
		},
		{
			name: "data-closed", do: func(s *script) { s.send(s.get(1)); s.respond(true) }, code: StreamClosed,
			last: func(*script) []byte { return data(1, 1) },
		},
		{
			name: "headers-closed", do: func(s *script) { s.send(s.get(1)); s.respond(true) }, code: StreamClosed,
			last: func(s *script) []byte { return s.get(1) },
		},
		{
			name: "data-after-rst", do: func(s *script) { s.send(s.post(1), rst(1, Cancel)) }, code: StreamClosed,
			last: func(*script) []byte { return data(1, 1) },
		},
		{
			name: "id-skipped", do: func(s *script) { s.send(s.get(5)) }, code: ProtocolError,
			last: func(s *script) []byte { return s.get(3) },
		},
		{
			name: "data-crossing-our-rst", do: func(s *script) { s.send(s.post(1)); s.turn(func(t *loop.Turn) { s.last.Reset(t, Cancel) }) },
			last: func(s *script) []byte { return append(data(1, 9), s.headers(1, true, "a", "b")...) },
			want: []string{"open 1 :method=POST"}, sent: []string{"RST 1 CANCEL"},
		},
		{
			name: "trailers-without-end", do: func(s *script) { s.send(s.post(1)) },
			last: func(s *script) []byte { return s.headers(1, false, "a", "b") },
			want: []string{"open 1 :method=POST", "reset 1 PROTOCOL_ERROR by us"}, sent: []string{"RST 1 PROTOCOL_ERROR"},
		},
		{
			name: "window-0", do: func(s *script) { s.send(s.post(1)) }, last: func(*script) []byte { return window(1, 0) },
			want: []string{"open 1 :method=POST", "reset 1 PROTOCOL_ERROR by us"}, sent: []string{"RST 1 PROTOCOL_ERROR"},
		},
		{
			name: "window-overflow", do: func(s *script) { s.send(s.post(1)) }, last: func(*script) []byte { return window(1, 1<<31-1) },
			want: []string{"open 1 :method=POST", "reset 1 FLOW_CONTROL_ERROR by us"}, sent: []string{"RST 1 FLOW_CONTROL_ERROR"},
		},
		{
			name: "window-closed", do: func(s *script) { s.send(s.post(1), rst(1, Cancel)) }, last: func(*script) []byte { return window(1, 5) },
			want: []string{"open 1 :method=POST", "reset 1 CANCEL by peer"},
		},
		{
			name: "priority-length", do: func(s *script) { s.send(s.post(1)) }, last: func(*script) []byte { return raw(framePriority, 0, 1, 1, 2) },
			want: []string{"open 1 :method=POST", "reset 1 FRAME_SIZE_ERROR by us"}, sent: []string{"RST 1 FRAME_SIZE_ERROR"},
		},
		{
			name: "priority-self", do: func(s *script) { s.send(s.post(1)) }, last: func(*script) []byte { return raw(framePriority, 0, 1, 0, 0, 0, 1, 0) },
			want: []string{"open 1 :method=POST", "reset 1 PROTOCOL_ERROR by us"}, sent: []string{"RST 1 PROTOCOL_ERROR"},
		},
		{
			name: "refused", o: Options{MaxStreams: 1}, do: func(s *script) { s.send(s.post(1)) },
			last: func(s *script) []byte { return append(s.post(3), data(3, 10)...) },
			want: []string{"open 1 :method=POST"}, sent: []string{"RST 3 REFUSED_STREAM"},
		},
		{
			name: "rst-by-peer", do: func(s *script) { s.send(s.post(1)) }, last: func(*script) []byte { return rst(1, 0x99) },
			want: []string{"open 1 :method=POST", "reset 1 0x99 by peer"},
		},
		{
			name: "client-data-first", o: Options{Client: true}, do: func(s *script) { s.opened(false); s.sent() },
			last: func(*script) []byte { return data(1, 1) },
			want: []string{"reset 1 PROTOCOL_ERROR by us"}, sent: []string{"RST 1 PROTOCOL_ERROR"},
		},
		{
			name: "client-1xx-end", o: Options{Client: true}, do: func(s *script) { s.opened(false); s.sent() },
			last: func(s *script) []byte { return s.status(1, "100", true) },
			want: []string{"reset 1 PROTOCOL_ERROR by us"}, sent: []string{"RST 1 PROTOCOL_ERROR"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, tt.o)
			tt.do(s)
			if tt.code != NoError {
				s.sent()
				s.sendFatal(tt.code, tt.last(s))
				return
			}
			s.send(tt.last(s))
			s.want(tt.want...)
			s.wantSent(tt.sent...)
		})
	}
}

// Frames for a stream that we reset long ago may still come: many resets lie
// between when a whole flight of requests is refused.
func TestLateFramesAfterManyResets(t *testing.T) {
	s := start(t, Options{MaxStreams: 1000})
	for i := range uint32(400) {
		s.send(s.post(2*i + 1))
		s.turn(func(t *loop.Turn) { s.last.Reset(t, NoError) })
	}
	s.log, s.w.out = nil, nil
	s.send(data(1, 100), s.headers(1, true, "a", "b"), data(3, 0))
	s.want()
	s.wantSent()
}

func TestPaddingAndPriority(t *testing.T) {
	s := start(t, Options{})
	block := s.block(":method", "POST")
	p := append([]byte{3, 0, 0, 0, 7, 255}, block...) // padding, priority, block
	s.send(raw(frameHeaders, flagEndHeaders|flagPadded|flagPriority, 1, append(p, 0, 0, 0)...))
	s.send(raw(frameData, flagPadded, 1, append([]byte{4}, "abc\x00\x00\x00\x00"...)...))
	s.send(raw(frameData, flagPadded|flagEndStream, 1, 0))
	s.want("open 1 :method=POST", "data 1 3", "data 1 0 end")
}

func TestContinuation(t *testing.T) {
	s := start(t, Options{})
	b := s.block(":method", "GET", "name", "value")
	s.send(raw(frameHeaders, flagEndStream, 1, b[:2]...), raw(frameContinuation, 0, 1), raw(frameContinuation, flagEndHeaders, 1, b[2:]...))
	s.want("open 1 :method=GET name=value end")
	for name, f := range map[string][]byte{
		"data": data(1, 1), "other-stream": raw(frameContinuation, flagEndHeaders, 3), "ping": ping("12345678"),
		"headers": raw(frameHeaders, flagEndHeaders, 3), "unknown": raw(0x50, 0, 0), "settings": settings(),
	} {
		t.Run("interrupted-by-"+name, func(t *testing.T) {
			s := start(t, Options{})
			s.send(raw(frameHeaders, 0, 1))
			s.sendFatal(ProtocolError, f)
		})
	}
	// The memory of a block that came in pieces is not kept.
	if s.c.hblock.buf != nil {
		t.Errorf("%d bytes of a header block are kept", cap(s.c.hblock.buf))
	}
}

func TestHeaderListTooLarge(t *testing.T) {
	t.Run("many", func(t *testing.T) {
		s := start(t, Options{MaxHeaderList: 1000})
		kv := []string{":method", "GET"}
		for i := range 50 {
			kv = append(kv, fmt.Sprintf("name-%d", i), "value")
		}
		s.send(s.headers(1, true, kv...), s.get(3))
		s.want("open 1 too large end", "open 3 :method=GET end")
	})
	t.Run("one", func(t *testing.T) {
		s := start(t, Options{})
		b := s.block(":method", "GET", "name", strings.Repeat("\xff", 64<<10)) // 26 bits each in Huffman's code, so sent as they are
		var frames [][]byte
		typ, flags := byte(frameHeaders), byte(flagEndStream)
		for len(b) > maxFrameSize {
			frames = append(frames, raw(typ, flags, 1, b[:maxFrameSize]...))
			b, typ, flags = b[maxFrameSize:], frameContinuation, 0
		}
		frames = append(frames, raw(typ, flags|flagEndHeaders, 1, b...), s.get(3))
		s.send(frames...)
		s.want("open 1 too large end", "open 3 :method=GET end")
	})
	// A few bytes that stand for a large field each, over and over.
	t.Run("bomb", func(t *testing.T) {
		s := start(t, Options{})
		b := s.block("x", strings.Repeat("v", 3900))
		for range 12000 {
			b = append(b, 0xbe) // the newest entry of the table
		}
		s.send(raw(frameHeaders, flagEndHeaders|flagEndStream, 1, b...))
		s.want("open 1 too large end")
		if n := cap(s.c.head.Fields); n > 256 {
			t.Errorf("%d fields are kept", n)
		}
	})
}

// Strings of the last section are not held by a quiet connection.
func TestFieldsAreForgotten(t *testing.T) {
	s := start(t, Options{})
	s.send(s.headers(1, true, ":method", "GET", "a", strings.Repeat("b", 100)))
	for _, f := range s.c.head.Fields[:cap(s.c.head.Fields)] {
		if f.Value != "" {
			t.Errorf("field %q is kept", f.Name)
		}
	}
}

func TestLargeHeadersGoOutInPieces(t *testing.T) {
	s := start(t, Options{})
	s.send(s.get(1))
	s.turn(func(t *loop.Turn) {
		s.last.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "x", Value: strings.Repeat("\xff", 40000), Sensitive: true}}, true)
	})
	var sizes []int
	var block []byte
	for b := s.w.out; len(b) > 0; {
		f, rest, err := cutFrame(b)
		if err != nil {
			t.Fatal(err)
		}
		b = rest
		sizes = append(sizes, len(f.p))
		block = append(block, f.p...)
		first, last := len(sizes) == 1, len(b) == 0
		if (f.typ == frameHeaders) != first || (f.flags&flagEndHeaders != 0) != last || (f.typ == frameContinuation) == first {
			t.Errorf("frame %d: type %d flags %x", len(sizes), f.typ, f.flags)
		}
		if first && f.flags&flagEndStream == 0 {
			t.Error("END_STREAM is not on HEADERS")
		}
	}
	if fields, err := s.dec.DecodeFull(block); err != nil || len(fields) != 2 || len(fields[1].Value) != 40000 {
		t.Errorf("%d frames %v decode to %d fields, %v", len(sizes), sizes, len(fields), err)
	}
}

// A peer may shrink our compression table; what we send must follow.
func TestPeerShrinksHeaderTable(t *testing.T) {
	s := start(t, Options{})
	respond := func(id uint32) {
		s.send(s.get(id))
		s.turn(func(t *loop.Turn) {
			s.last.WriteHeaders(t, []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "server", Value: "me"}}, true)
		})
		s.log = nil
	}
	respond(1)
	s.wantSent("HEADERS 1 :status=200 server=me end")
	s.send(settings(settingHeaderTableSize, 0))
	s.dec.SetAllowedMaxDynamicTableSize(0)
	s.wantSent("SETTINGS ack")
	respond(3)
	s.wantSent("HEADERS 3 :status=200 server=me end")
	s.send(settings(settingHeaderTableSize, 1<<20))
	s.dec.SetAllowedMaxDynamicTableSize(1 << 20)
	respond(5)
	s.wantSent("SETTINGS ack", "HEADERS 5 :status=200 server=me end")
}

func TestStreamLimitOfThePeer(t *testing.T) {
	s := start(t, Options{Client: true})
	s.send(settings(settingMaxConcurrentStreams, 2))
	s.opened(false)
	if ok, open := s.c.CanOpen(100); !ok || open != 1 {
		t.Errorf("CanOpen = %v, %d", ok, open)
	}
	if ok, _ := s.c.CanOpen(1); ok {
		t.Error("the caller's own limit is ignored")
	}
	s.opened(false)
	s.turn(func(t *loop.Turn) {
		if s.c.Open(t, s, nil, false) != nil {
			s.Error("opened more streams than the peer allows")
		}
	})
}

func TestStopReading(t *testing.T) {
	s := start(t, Options{})
	s.send(s.post(1))
	s.respond(false)
	s.sent()
	s.turn(func(t *loop.Turn) {
		s.last.Write(t, make([]byte, 100<<10), true) // more than the window
		s.last.StopReading(t)
	})
	got := s.sent()
	if last := got[len(got)-1]; strings.HasPrefix(last, "RST") || strings.HasSuffix(last, "end") {
		t.Fatalf("sent %q last, before the response was complete", last)
	}
	s.send(window(0, 1<<20), window(1, 1<<20))
	got = s.sent()
	if n := len(got); n < 2 || got[n-1] != "RST 1 NO_ERROR" || !strings.HasSuffix(got[n-2], " end") {
		t.Errorf("sent %q, want the end and then RST NO_ERROR", got)
	}
	s.log = nil
	s.send(data(1, 100)) // on its way meanwhile
	s.want()
	// After our half has ended already, at once; after both, not at all.
	s.send(s.post(3))
	s.respond(true)
	s.turn(s.last.StopReading)
	s.wantSent("HEADERS 3 :status=200 end", "RST 3 NO_ERROR")
	s.send(s.get(5))
	s.turn(s.last.StopReading)
	s.respond(true)
	s.wantSent("HEADERS 5 :status=200 end")
}

func TestWrite2(t *testing.T) {
	s := start(t, Options{})
	s.send(s.get(1))
	s.turn(func(t *loop.Turn) {
		s.last.Write2(t, []byte("head"), []byte("body"), false)
		s.last.Write2(t, []byte("head"), nil, false)
		s.last.Write2(t, nil, nil, false)
		s.last.Write2(t, make([]byte, 10), make([]byte, 20000), false)
		s.last.Write2(t, []byte("a"), []byte("b"), true)
	})
	s.wantSent("DATA 1 8", "DATA 1 4", "DATA 1 10", "DATA 1 16375", "DATA 1 3625", "DATA 1 2 end")
	if n := s.c.Streams(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

func TestErrorTexts(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&StreamError{Code: Cancel, Remote: true}, "http2 stream reset by peer: CANCEL"},
		{&StreamError{Code: ErrCode(0x77), Reason: "x"}, "http2 stream reset by us: 0x77: x"},
		{&ConnError{Code: HTTP11Required, Reason: "x"}, "http2 connection: HTTP_1_1_REQUIRED: x"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
