package h2

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"cairnproxy.dev/cairn/tunnel/loop"
	"golang.org/x/net/http2/hpack"
)

func TestFirstFlight(t *testing.T) {
	s := &script{T: t, w: newWire(), now: time.Unix(1, 0)}
	s.turn(func(t *loop.Turn) { s.c = New(t, s.w, s, Options{MaxStreams: 7, ExtendedConnect: true}) })
	s.wantSent("SETTINGS 4=262144 6=61440 3=7 8=1", "WINDOW 0 16711681")
	s = &script{T: t, w: newWire(), now: time.Unix(1, 0)}
	s.turn(func(t *loop.Turn) { s.c = New(t, s.w, s, Options{Client: true, ConnWindow: 65535, Window: 1}) })
	s.w.out = s.w.out[len(preface):]
	s.wantSent("SETTINGS 4=65535 6=61440 2=0")
}

func TestPreface(t *testing.T) {
	t.Run("split", func(t *testing.T) {
		s := startRaw(t, Options{})
		for _, b := range []byte(preface) {
			s.send([]byte{b})
		}
		s.send(settings())
		s.wantSent("SETTINGS ack")
	})
	t.Run("wrong", func(t *testing.T) {
		s := startRaw(t, Options{})
		s.sendFatal(ProtocolError, []byte("GET / HTTP/1.1\r\n"))
	})
	t.Run("ping-first", func(t *testing.T) {
		s := startRaw(t, Options{})
		s.sendFatal(ProtocolError, []byte(preface), ping("12345678"))
	})
	t.Run("ack-first", func(t *testing.T) {
		s := startRaw(t, Options{Client: true})
		s.sendFatal(ProtocolError, settingsAck())
	})
}

func TestFatalFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		client bool
		code   ErrCode
		frame  []byte
	}{
		{"settings-on-stream", false, ProtocolError, raw(frameSettings, 0, 1)},
		{"settings-odd", false, FrameSizeError, raw(frameSettings, 0, 0, 1, 2, 3)},
		{"settings-ack-payload", false, FrameSizeError, raw(frameSettings, flagAck, 0, 0, 0, 0, 0, 0, 0)},
		{"settings-push-2", false, ProtocolError, settings(settingEnablePush, 2)},
		{"settings-push-from-server", true, ProtocolError, settings(settingEnablePush, 1)},
		{"settings-window", false, FlowControlError, settings(settingInitialWindowSize, 1<<31)},
		{"settings-frame-small", false, ProtocolError, settings(settingMaxFrameSize, 16383)},
		{"settings-frame-large", false, ProtocolError, settings(settingMaxFrameSize, 1<<24)},
		{"settings-connect", false, ProtocolError, settings(settingEnableConnect, 2)},
		{"ping-on-stream", false, ProtocolError, raw(framePing, 0, 1, make([]byte, 8)...)},
		{"ping-length", false, FrameSizeError, raw(framePing, 0, 0, make([]byte, 7)...)},
		{"goaway-on-stream", true, ProtocolError, raw(frameGoAway, 0, 1, make([]byte, 8)...)},
		{"goaway-short", true, FrameSizeError, raw(frameGoAway, 0, 0, make([]byte, 7)...)},
		{"data-stream-0", false, ProtocolError, data(0, 1)},
		{"data-idle", false, ProtocolError, data(5, 1)},
		{"data-idle-client", true, ProtocolError, data(5, 1)},
		{"headers-stream-0", false, ProtocolError, raw(frameHeaders, flagEndHeaders, 0)},
		{"headers-even", false, ProtocolError, raw(frameHeaders, flagEndHeaders, 2, 0x82)},
		{"headers-idle-client", true, ProtocolError, raw(frameHeaders, flagEndHeaders, 1, 0x88)},
		{"headers-pushed", true, ProtocolError, raw(frameHeaders, flagEndHeaders, 2, 0x88)},
		{"headers-priority-short", false, FrameSizeError, raw(frameHeaders, flagEndHeaders|flagPriority, 1, 0, 0, 0)},
		{"headers-self-dependent", false, ProtocolError, raw(frameHeaders, flagEndHeaders|flagPriority, 1, 0, 0, 0, 1, 0, 0x82)},
		{"headers-padding", false, ProtocolError, raw(frameHeaders, flagEndHeaders|flagPadded, 1, 5, 0x82)},
		{"data-padding", false, ProtocolError, raw(frameData, flagPadded, 1, 1)},
		{"data-padding-none", false, ProtocolError, raw(frameData, flagPadded, 1)},
		{"push-promise", true, ProtocolError, raw(framePushPromise, flagEndHeaders, 1, 0, 0, 0, 2)},
		{"rst-stream-0", false, ProtocolError, rst(0, Cancel)},
		{"rst-idle", false, ProtocolError, rst(1, Cancel)},
		{"rst-length", false, FrameSizeError, raw(frameRSTStream, 0, 1, 0, 0, 0)},
		{"window-0", false, ProtocolError, window(0, 0)},
		{"window-idle", false, ProtocolError, window(1, 1)},
		{"window-length", false, FrameSizeError, raw(frameWindowUpdate, 0, 0, 0, 0, 1)},
		{"window-overflow", false, FlowControlError, window(0, 1<<31-1)},
		{"priority-stream-0", false, ProtocolError, raw(framePriority, 0, 0, 0, 0, 0, 0, 0)},
		{"priority-length-idle", false, FrameSizeError, raw(framePriority, 0, 1, 0, 0, 0)},
		{"continuation-alone", false, ProtocolError, raw(frameContinuation, flagEndHeaders, 1)},
		{"hpack-index", false, CompressionError, raw(frameHeaders, flagEndHeaders, 1, 0xff, 0xff, 0xff, 0xff, 0x0f)},
		{"hpack-truncated", false, CompressionError, raw(frameHeaders, flagEndHeaders, 1, 0x40, 0x05, 'a')},
		{"hpack-table-size", false, CompressionError, raw(frameHeaders, flagEndHeaders, 1, 0x3f, 0xff, 0xff, 0x7f)},
		{"frame-too-large", false, FrameSizeError, raw(frameData, 0, 1, make([]byte, maxFrameSize+1)...)[:frameHeaderLen]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Options{Client: tt.client})
			s.sendFatal(tt.code, tt.frame)
			s.want()
		})
	}
}

func TestIgnoredFrames(t *testing.T) {
	s := start(t, Options{})
	s.send(raw(0x42, 0xff, 7, 1, 2, 3), raw(framePriority, 0, 9, 0, 0, 0, 3, 16), settings(0x99, 1), raw(frameSettings, flagAck, 0))
	s.wantSent("SETTINGS ack")
	s.want()
}

func TestPing(t *testing.T) {
	s := start(t, Options{})
	s.send(ping("abcdefgh"), pingAck("whatever"))
	s.wantSent(`PING ack "abcdefgh"`)
}

func TestKeepalive(t *testing.T) {
	s := start(t, Options{})
	tick := func(d time.Duration) (aborted bool) {
		s.now = s.now.Add(d)
		s.turn(func(t *loop.Turn) { aborted = s.c.Tick(t) })
		return aborted
	}
	tick(9 * time.Second)
	s.wantSent()
	tick(1 * time.Second)
	s.wantSent(`PING "cairn\x00\x00\x00"`)
	tick(19 * time.Second)
	s.wantSent()
	s.send(window(0, 1)) // anything counts as life
	if tick(2 * time.Second) {
		t.Fatal("aborted a connection that had spoken")
	}
	tick(9 * time.Second)
	s.wantSent(`PING "cairn\x00\x00\x00"`)
	if tick(20*time.Second) != true || !s.w.aborted {
		t.Error("a silent peer's connection was not aborted")
	}
}

func TestTickAfterClosed(t *testing.T) {
	s := start(t, Options{})
	s.turn(func(t *loop.Turn) { s.c.Closed(t, io.EOF) })
	s.now = s.now.Add(time.Hour)
	s.turn(func(t *loop.Turn) { s.c.Tick(t) })
	s.wantSent()
}

// TestSlowFrame holds that one frame may take only so long, and that a busy
// connection whose reads happen to end within frames is not taken for a slow one.
func TestSlowFrame(t *testing.T) {
	feed := func(s *script, b []byte) []byte {
		s.turn(func(t *loop.Turn) {
			n, err := s.c.Data(t, b)
			if err != nil {
				s.Fatal(err)
			}
			b = b[n:]
		})
		return b
	}
	tick := func(s *script) bool {
		var aborted bool
		s.turn(func(t *loop.Turn) { aborted = s.c.Tick(t) })
		return aborted
	}
	t.Run("trickled", func(t *testing.T) {
		s := start(t, Options{})
		f := ping("12345678")
		for n := 1; n < len(f); n++ {
			feed(s, f[:n])
			s.now = s.now.Add(2 * time.Second)
			if tick(s) {
				if n < 10 {
					t.Errorf("aborted after %d seconds", 2*n)
				}
				return
			}
		}
		t.Error("a frame that took 32 s was put up with")
	})
	t.Run("straddling", func(t *testing.T) {
		s := start(t, Options{})
		s.send(s.post(1))
		var rest []byte
		for range 60 {
			rest = feed(s, append(append([]byte{}, rest...), append(data(1, 100), data(1, 50)[:20]...)...))
			s.now = s.now.Add(time.Second)
			if tick(s) {
				t.Fatal("a busy connection was aborted")
			}
			rest = feed(s, append(append([]byte{}, rest...), append(make([]byte, 39), data(1, 9)[:3]...)...))
			rest = append(append([]byte{}, rest...), data(1, 9)[3:]...)
		}
	})
	t.Run("continuations", func(t *testing.T) {
		s := start(t, Options{})
		feed(s, raw(frameHeaders, 0, 1, s.block(":method", "GET")...))
		for i := range 14 {
			s.now = s.now.Add(3 * time.Second)
			if tick(s) {
				if i < 6 {
					t.Errorf("aborted after %d s", 3*i)
				}
				return
			}
			feed(s, raw(frameContinuation, 0, 1))
		}
		t.Error("a header block that took 40 s was put up with")
	})
}

func TestGoAwayToClient(t *testing.T) {
	s := start(t, Options{Client: true})
	a, b := s.opened(false), s.opened(false)
	s.sent()
	s.send(goAway(a.ID, NoError))
	s.want(fmt.Sprintf("reset %d REFUSED_STREAM by peer", b.ID))
	if ok, open := s.c.CanOpen(100); ok || open != 1 {
		t.Errorf("CanOpen = %v with %d open, want no with 1", ok, open)
	}
	if s.c.Usable() {
		t.Error("usable after GOAWAY")
	}
	s.turn(func(t *loop.Turn) {
		if s.c.Open(t, s, status200, false) != nil {
			s.Error("opened a stream after GOAWAY")
		}
	})
	s.send(s.status(a.ID, "200", false), dataEnd(a.ID, 3))
	s.want("headers 1 :status=200", "data 1 3 end")
	s.write(a, 0, true)
	s.wantSent("DATA 1 0 end")
	if !s.w.ended {
		t.Error("the output did not end with the last stream")
	}
}

func TestGoAwayFromClientIsHarmless(t *testing.T) {
	s := start(t, Options{})
	s.send(s.get(1), goAway(0, NoError))
	s.want("open 1 :method=GET end")
	s.respond(true)
	s.wantSent("HEADERS 1 :status=200 end")
}

func TestDrainServer(t *testing.T) {
	s := start(t, Options{})
	s.send(s.post(1))
	one := s.last
	s.turn(s.c.Drain)
	s.turn(s.c.Drain) // the second changes nothing
	s.wantSent("GOAWAY 2147483647 NO_ERROR", `PING "cairnbye"`)
	// What was on its way is served.
	s.send(s.post(3))
	three := s.last
	s.want("open 1 :method=POST", "open 3 :method=POST")
	s.send(pingAck("other..."), pingAck("cairnbye"))
	s.wantSent("GOAWAY 3 NO_ERROR")
	// What comes after the last GOAWAY is ignored, its body included.
	s.send(s.post(5), data(5, 100), s.headers(5, true, "x", "y"))
	s.want()
	s.wantSent()
	s.turn(func(t *loop.Turn) { one.Reset(t, Cancel) })
	s.wantSent("RST 1 CANCEL")
	if s.w.ended {
		t.Error("the output ended with a stream open")
	}
	// Even a stream that ends by the peer's fault is the last one.
	s.send(window(three.ID, 0))
	s.wantSent("RST 3 PROTOCOL_ERROR")
	if !s.w.ended {
		t.Error("the output did not end with the last stream")
	}
}

func TestDrainIdleServer(t *testing.T) {
	s := start(t, Options{})
	s.turn(s.c.Drain)
	if s.w.ended {
		t.Error("the output ended before the peer could know")
	}
	s.sent()
	s.send(pingAck("cairnbye"))
	s.wantSent("GOAWAY 0 NO_ERROR")
	if !s.w.ended {
		t.Error("the output did not end")
	}
}

func TestDrainClient(t *testing.T) {
	s := start(t, Options{Client: true})
	st := s.opened(true)
	s.sent()
	s.turn(s.c.Drain)
	s.wantSent("GOAWAY 0 NO_ERROR")
	s.send(s.status(1, "200", true))
	s.want("headers 1 :status=200 end")
	if l, r := st.Ended(); !l || !r || !s.w.ended {
		t.Error("stream or output did not end")
	}
}

func TestClosedResetsStreams(t *testing.T) {
	s := start(t, Options{})
	s.send(s.post(1))
	st := s.last
	s.want("open 1 :method=POST")
	s.turn(func(t *loop.Turn) { s.c.Closed(t, io.EOF); s.c.Closed(t, io.EOF) })
	s.want("reset 1: EOF", "closed: EOF")
	// A stream that is gone ignores everything.
	s.turn(func(t *loop.Turn) {
		st.WriteHeaders(t, status200, false)
		st.Write(t, []byte("x"), false)
		st.Write2(t, []byte("x"), []byte("y"), true)
		st.WriteTrailers(t, status200)
		st.Consumed(t, 1<<20)
		st.StopReading(t)
		st.Reset(t, Cancel)
		s.c.Drain(t)
		if st.Congested() {
			s.Error("congested when gone")
		}
	})
	s.wantSent()
}

func TestFloods(t *testing.T) {
	flood := func(o Options, one func(s *script, i int) []byte, n int) error {
		s := start(t, o)
		for i := range n {
			if err := s.try(one(s, i)); err != nil {
				return err
			}
			s.w.out = nil
		}
		return nil
	}
	for _, tt := range []struct {
		name string
		one  func(s *script, i int) []byte
		n    int // frames until it is enough; start has sent one SETTINGS
	}{
		{"rapid-reset", func(s *script, i int) []byte {
			id := uint32(2*i + 1)
			return append(s.get(id), rst(id, Cancel)...)
		}, maxResets + 1},
		{"rst-of-nothing", func(s *script, i int) []byte {
			if i == 0 {
				return append(s.post(1), rst(1, Cancel)...)
			}
			return rst(1, Cancel)
		}, maxOthers + 2},
		{"ping", func(*script, int) []byte { return ping("12345678") }, maxControls},
		{"settings", func(*script, int) []byte { return settings() }, maxControls},
		{"settings-entries", func(*script, int) []byte {
			kv := make([]uint32, 2*1000)
			for i := range kv {
				kv[i] = settingInitialWindowSize
			}
			return settings(kv...)
		}, maxOthers/1000 + 1},
		{"settings-ack", func(*script, int) []byte { return settingsAck() }, maxOthers + 1},
		{"empty-data", func(s *script, i int) []byte {
			if i == 0 {
				return s.post(1)
			}
			return data(1, 0)
		}, maxOthers + 2},
		{"padding-only", func(s *script, i int) []byte {
			if i == 0 {
				return s.post(1)
			}
			return raw(frameData, flagPadded, 1, 0)
		}, maxOthers + 2},
		{"priority", func(*script, int) []byte { return raw(framePriority, 0, 1, 0, 0, 0, 0, 0) }, maxOthers + 1},
		{"unknown", func(*script, int) []byte { return raw(0x77, 0, 0) }, maxOthers + 1},
		{"refused", func(s *script, i int) []byte { return s.post(uint32(2*i + 1)) }, maxResets + 101},
		{"provoked-resets", func(s *script, i int) []byte {
			id := uint32(2*i + 1)
			return append(s.post(id), window(id, 0)...)
		}, maxResets + 1},
		{"continuation", func(s *script, i int) []byte {
			if i == 0 {
				return raw(frameHeaders, 0, 1)
			}
			return raw(frameContinuation, 0, 1)
		}, maxContinuations + 2},
		{"continuation-bytes", func(s *script, i int) []byte {
			if i == 0 {
				return raw(frameHeaders, 0, 1, make([]byte, maxFrameSize)...)
			}
			return raw(frameContinuation, 0, 1, make([]byte, maxFrameSize)...)
		}, maxBlockLen/maxFrameSize + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := flood(Options{}, tt.one, tt.n)
			var ce *ConnError
			if !errors.As(err, &ce) || ce.Code != EnhanceYourCalm {
				t.Errorf("%d frames: %v, want ENHANCE_YOUR_CALM", tt.n, err)
			}
			if err := flood(Options{}, tt.one, tt.n-1); err != nil {
				t.Errorf("%d frames: %v, want none yet", tt.n-1, err)
			}
		})
	}
	t.Run("slowly", func(t *testing.T) {
		s := start(t, Options{})
		for range 3 * maxControls {
			s.now = s.now.Add(2 * time.Millisecond)
			s.send(ping("12345678"))
		}
	})
}

// A peer that asks and does not read must not fill our memory.
func TestAnswersThatNobodyReads(t *testing.T) {
	s := start(t, Options{})
	s.w.stuck = true
	big := []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "x", Value: string(make([]byte, 1000)), Sensitive: true}}
	for i := range 100000 {
		if err := s.try(s.get(uint32(2*i + 1))); err != nil {
			var ce *ConnError
			if !errors.As(err, &ce) || ce.Code != EnhanceYourCalm {
				t.Errorf("got %v, want ENHANCE_YOUR_CALM", err)
			}
			break
		}
		s.turn(func(t *loop.Turn) { s.last.WriteHeaders(t, big, true) })
	}
	if n := s.w.q.Size(); n < 1<<20 || n > maxOutput+64<<10 {
		t.Errorf("%d bytes queued for a peer that does not read, want at most %d", n, maxOutput)
	}
}
