package waypoint

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/tunnel/loop"
	"cairnproxy.dev/cairn/upstream"
	"cairnproxy.dev/cairn/upstream/lb"
)

// sessionRule keeps clients of a rule with the endpoint that they got first
// (GEP-1619). What binds them is a token in a cookie or a header, and nothing here: any
// instance of the waypoint reads the tokens of all others.
type sessionRule struct {
	*mesh.Session
	name     string
	backends []uint32 // names of the rule's backends in tokens
	// paths are what the rule's matches say of the path, for the cookie's Path;
	// nil sets none, as the specification wants it for policies of a service.
	paths []string
}

// newSessionRule compiles what a policy says of sessions; nil for nothing. r is nil
// where the service itself is meant.
func newSessionRule(requests *mesh.RequestPolicy, port *mesh.RequestPolicy, r *mesh.Route, ru *rule) *sessionRule {
	if requests == nil || requests.Session == nil {
		return nil
	}
	s := &sessionRule{Session: requests.Session, name: requests.Session.Name}
	if s.name == "" {
		s.name = fmt.Sprintf("cairn-session-%08x", uint32(lb.Hash(ru.name)))
	}
	if s.Header {
		s.name = strings.ToLower(s.name)
	}
	if r != nil && (port == nil || port.Session != requests.Session) {
		s.paths = cookiePaths(r)
	}
	for _, b := range ru.backends {
		id := uint32(0)
		if b.cluster != nil {
			b.cluster.c.Sessions()
			k := b.cluster.key
			id = uint32(lb.Hash(fmt.Sprintf("%s\x00%d\x00%s", k.service, k.port, k.variant)))
		}
		for slices.Contains(s.backends, id) { // the same service again
			id++
		}
		s.backends = append(s.backends, id)
	}
	return s
}

// cookiePaths are the paths that the rule matches: of a prefix or an exact match all of it, of
// a regular expression whole elements before anything special.
func cookiePaths(r *mesh.Route) []string {
	var out []string
	for _, m := range r.Matches {
		p := "/"
		if m.Path != nil {
			p = m.Path.Value
			if m.Path.Kind == mesh.MatchRegex {
				p = "/"
				if re, err := regexp.Compile(m.Path.Value); err == nil {
					prefix, whole := re.LiteralPrefix()
					if p = prefix; !whole {
						p = prefix[:max(0, strings.LastIndexByte(prefix, '/'))]
					}
				}
			}
		}
		p, _, _ = strings.Cut(p, ";") // which would begin another attribute
		if p = strings.TrimRight(p, "/"); p == "" {
			p = "/"
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return []string{"/"}
	}
	// The longest that fits a request is the one that it matched.
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// cookiePath is the cookie's Path for a request for path, "" for none.
func (s *sessionRule) cookiePath(path string) string {
	for _, p := range s.paths {
		if rest, ok := strings.CutPrefix(path, p); ok && (p == "/" || rest == "" || rest[0] == '/' || rest[0] == '?') {
			return p
		}
	}
	if s.paths == nil {
		return ""
	}
	return "/"
}

// token is what a session's cookie or header says. Times are seconds of the Unix clock.
type token struct {
	backend       uint32
	endpoint      upstream.SessionID
	created, used uint32
}

const (
	tokenVersion = 1
	tokenBytes   = 1 + 4 + 12 + 4 + 4 + 5
	tokenLen     = tokenBytes / 3 * 4
)

// append writes the token for a session of that name.
func (k *token) append(b []byte, name string) []byte {
	var raw [tokenBytes]byte
	raw[0] = tokenVersion
	binary.BigEndian.PutUint32(raw[1:], k.backend)
	copy(raw[5:], k.endpoint[:])
	binary.BigEndian.PutUint32(raw[17:], k.created)
	binary.BigEndian.PutUint32(raw[21:], k.used)
	sum := tokenSum(&raw, name)
	copy(raw[25:], sum[:])
	return base64.RawURLEncoding.AppendEncode(b, raw[:])
}

// parse reads a token; false for what is none, or belongs to another session.
func (k *token) parse(s, name string) bool {
	if len(s) != tokenLen {
		return false
	}
	var text [tokenLen]byte
	var raw [tokenBytes]byte
	copy(text[:], s)
	if _, err := base64.RawURLEncoding.Decode(raw[:], text[:]); err != nil || raw[0] != tokenVersion || tokenSum(&raw, name) != [5]byte(raw[25:]) {
		return false
	}
	k.backend = binary.BigEndian.Uint32(raw[1:])
	copy(k.endpoint[:], raw[5:])
	k.created, k.used = binary.BigEndian.Uint32(raw[17:]), binary.BigEndian.Uint32(raw[21:])
	return true
}

// tokenSum tells tokens from other text. It is no proof of origin: a token can only
// ever lead to an endpoint of its own rule's backends.
func tokenSum(raw *[tokenBytes]byte, name string) (sum [5]byte) {
	var h [8]byte
	binary.BigEndian.PutUint64(h[:], lb.Mix(lb.Hash(string(raw[:25])), lb.Hash(name)))
	copy(sum[:], h[:])
	return sum
}

// clockSkew is how far in the future another instance's clock may be.
const clockSkew = 60

// valid reports whether the session is not over at now.
func (s *sessionRule) valid(k *token, now uint32) bool {
	since := func(at uint32) int64 { return int64(now) - int64(at) }
	switch {
	case since(k.created) < -clockSkew || since(k.used) < -clockSkew:
		return false
	case s.AbsoluteTimeout > 0 && since(k.created) >= seconds(s.AbsoluteTimeout):
		return false
	}
	return s.IdleTimeout <= 0 || since(k.used) < seconds(s.IdleTimeout)
}

// seconds is d in seconds, one for less.
func seconds(d time.Duration) int64 { return max(1, int64(d/time.Second)) }

// sticky is what an exchange knows of sessions and of cookies that were made for
// its hash key. Most exchanges have none; one that does keeps it for the next.
type sticky struct {
	wish  upstream.Wish
	token token
	bound bool // the client has a session
	made  *upstream.MadeCookie
}

// stickiness returns x's sticky.
func (x *exchange) stickiness() *sticky {
	if x.stick == nil {
		x.stick = &sticky{}
	}
	return x.stick
}

// want makes e wanted.
func (x *exchange) want(e *upstream.Endpoint) {
	x.hint.Wish = &x.stickiness().wish
	x.hint.Want(e)
}

// session finds the client's session, and makes its endpoint wanted. It returns
// the session's backend, whatever its weight is now; -1 where there is no session, or where
// its backend has nothing left.
func (x *exchange) session(t *loop.Turn) int {
	s, st := x.rule.session, x.stickiness()
	var v string
	if s.Header {
		v, _ = x.req.Fields.Get(s.name)
	} else {
		v, _ = x.req.Fields.Cookie(s.name)
	}
	if v == "" || !st.token.parse(v, s.name) || !s.valid(&st.token, uint32(t.Now.Unix())) {
		return -1
	}
	i := slices.Index(s.backends, st.token.backend)
	if i >= 0 && x.rule.backends[i].broken == "" {
		cl := x.rule.backends[i].cluster.c
		e := cl.Find(st.token.endpoint)
		if e == nil || !e.Healthy() {
			if !cl.Usable() {
				return -1
			}
			return i
		}
		x.want(e)
		st.bound = true
		return i
	}
	// The backend is another since; its endpoint may be there all the same.
	for i, b := range x.rule.backends {
		if b.broken != "" {
			continue
		}
		if e := b.cluster.c.Find(st.token.endpoint); e != nil && e.Healthy() {
			x.want(e)
			return i
		}
	}
	return -1
}

// keep tells the client, in the response's head, what makes it come back to the endpoint that answered.
func (x *exchange) keep(t *loop.Turn) {
	if m := x.stick; m != nil && m.made != nil {
		k := m.made.Key
		b := append(append(append(x.fx.Append(), k.Name...), '='), m.made.Value[:]...)
		x.setCookie(appendAttributes(b, k.Path, k.TTL))
	}
	s := x.rule.session
	if s == nil || x.ep == nil {
		return
	}
	st, now := x.stickiness(), uint32(t.Now.Unix())
	fresh := !st.bound || x.hint.Wanted() != x.ep
	if fresh {
		st.token.created = now
	} else if !s.Header && !s.stale(&st.token, now) {
		return
	}
	st.token.used = now
	st.token.endpoint = x.backend.cluster.c.SessionID(x.ep)
	st.token.backend = s.backends[max(0, slices.Index(x.rule.backends, x.backend))]
	if s.Header {
		x.resp.Fields.Set(s.name, x.fx.Text(st.token.append(x.fx.Append(), s.name)))
		return
	}
	b := append(append(x.fx.Append(), s.name...), '=')
	b = st.token.append(b, s.name)
	var life time.Duration
	if s.Permanent && s.AbsoluteTimeout > 0 {
		life = s.AbsoluteTimeout - time.Duration(int64(now)-int64(st.token.created))*time.Second
	}
	x.setCookie(appendAttributes(b, s.cookiePath(viewString(x.path)), life))
}

// stale reports whether the time of the last use, which the client's token has, is so old
// that another token should tell of now. It is kept to an eighth of the idle timeout.
func (s *sessionRule) stale(k *token, now uint32) bool {
	return s.IdleTimeout > 0 && int64(now)-int64(k.used) >= max(1, seconds(s.IdleTimeout)/8)
}

// appendAttributes ends a cookie. Scripts need not see it, and other sites' pages do not get
// to use it; it may go over plain HTTP, as most of a mesh's requests do.
func appendAttributes(b []byte, path string, life time.Duration) []byte {
	if path != "" {
		b = append(append(b, "; Path="...), path...)
	}
	if life > 0 {
		b = strconv.AppendInt(append(b, "; Max-Age="...), seconds(life), 10)
	}
	return append(b, "; HttpOnly; SameSite=Strict"...)
}

func (x *exchange) setCookie(b []byte) { x.resp.Fields.Add("set-cookie", x.fx.Text(b)) }
