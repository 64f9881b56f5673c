package upstream

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/upstream/lb"
)

// hashKeys compute the key of a request from what the policy says: all sources
// that have a value are mixed in their order, up to and with the first terminal one.
type hashKeys struct{ list []mesh.HashKey }

func newHashKeys(list []mesh.HashKey) *hashKeys { return &hashKeys{list} }

// Asks reports whether the cluster goes by what Fill tells.
func (c *Cluster) Asks() bool { return c.asks != 0 }

// Fill tells h what the cluster's algorithm goes by: the request's hash key, the
// time, or the address that the client dialled. A cookie is returned that the
// client shall get, if the policy makes one and the request had none; nil otherwise. Without any
// source of the key in it, the request goes to a random endpoint.
func (c *Cluster) Fill(h *Hint, r *mesh.Request, now time.Time) *MadeCookie {
	if c.Timed() {
		h.SetNow(now)
	}
	if c.asks&asksAddr != 0 && h.Wanted() == nil {
		if e := c.more.at[netip.AddrPortFrom(r.Destination.Addr().Unmap(), r.Destination.Port())]; e != nil {
			h.Want(e)
		}
	}
	if c.asks&asksKey == 0 || h.Wish != nil && h.Wish.keyed {
		return nil
	}
	key, ok, made := c.more.keys.of(r)
	if ok {
		h.SetKey(key)
	}
	return made
}

// MadeCookie is a cookie that was made for a client, so that its next requests
// go where this one went.
type MadeCookie struct {
	Key   *mesh.HashKey
	Value [16]byte // hexadecimal
}

func (k *hashKeys) of(r *mesh.Request) (key uint64, ok bool, made *MadeCookie) {
	for i := range k.list {
		s := &k.list[i]
		h, found := hashOf(s, r)
		if !found && s.Kind == mesh.HashCookie && (s.TTL > 0 || s.Session) && made == nil {
			made = &MadeCookie{Key: s}
			var random [8]byte
			for j, v := 0, rand.Uint64(); j < 8; j, v = j+1, v>>8 {
				random[j] = byte(v)
			}
			hex.Encode(made.Value[:], random[:])
			h, found = lb.Hash(string(made.Value[:])), true
		}
		if !found {
			continue
		}
		if ok {
			h = lb.Mix(key, h)
		}
		key, ok = h, true
		if s.Terminal {
			break
		}
	}
	return key, ok, made
}

// hashOf is the hash of one source of a key; false when the request has no value there.
func hashOf(s *mesh.HashKey, r *mesh.Request) (uint64, bool) {
	switch s.Kind {
	case mesh.HashHeader:
		return hashHeader(r, s.Name)
	case mesh.HashCookie:
		if v, ok := r.Fields.Cookie(s.Name); ok && v != "" {
			return lb.Hash(v), true
		}
	case mesh.HashQuery:
		if v, ok := parameter(r.Query, s.Name); ok {
			return lb.Hash(v), true
		}
	case mesh.HashSource:
		if a := r.Peer.Addr.Addr(); a.IsValid() {
			b := a.Unmap().As16()
			return lb.Hash(string(b[:])), true
		}
	}
	return 0, false
}

// hashHeader is of all values of a header, in their order.
func hashHeader(r *mesh.Request, name string) (key uint64, ok bool) {
	for i := range r.Fields {
		if r.Fields[i].Name != name {
			continue
		}
		h := lb.Hash(r.Fields[i].Value)
		if ok {
			h = lb.Mix(key, h)
		}
		key, ok = h, true
	}
	if !ok && name == ":authority" {
		return lb.Hash(r.Host), true
	}
	return key, ok
}

// parameter returns the first query parameter of that name, decoded.
func parameter(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k == name || unescaped(k) == name {
			return unescaped(v), true
		}
	}
	return "", false
}

// unescaped is s decoded; s itself where that cannot be done.
func unescaped(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}
