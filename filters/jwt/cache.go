package jwt

import (
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"

	"cairnproxy.dev/cairn/mesh"
)

// verified is a token whose signature one of keys has made. It never changes.
type verified struct {
	digest          digest
	keys            *keys
	begins, expires int64 // seconds since 1970; 0 for none
	token           mesh.Token
	out             []mesh.Field // what the rule puts into the request
}

// digest stands for a token: the token itself is a secret, and is not kept.
type digest [sha256.Size]byte

const (
	// ways are the places of a table where one token may stand.
	ways = 4
	// tableSize is how many tokens a verifier knows, and maxKept how long one may be: 16 MiB of tokens at
	// the most, and a few times that of claims, if an issuer hands out many of that length.
	tableSize, maxKept = 4096, 4 << 10
)

// table is what a verifier has verified. Its methods may be called from any goroutine, and wait for none.
type table struct {
	slots [tableSize]atomic.Pointer[verified]
}

func (t *table) places(d *digest) []atomic.Pointer[verified] {
	at := binary.LittleEndian.Uint64(d[:]) % (tableSize / ways) * ways
	return t.slots[at : at+ways]
}

// get returns the token with that digest that one of ks has signed, or nil.
func (t *table) get(d *digest, ks *keys) *verified {
	if t == nil {
		return nil
	}
	places := t.places(d)
	for i := range places {
		if v := places[i].Load(); v != nil && v.digest == *d && v.keys == ks {
			return v
		}
	}
	return nil
}

// put keeps v in place of one that is of no use any more, or else of the one that expires first.
func (t *table) put(v *verified, now int64) {
	places := t.places(&v.digest)
	worst, until := 0, int64(-1)
	for i := range places {
		old := places[i].Load()
		if old == nil || old.digest == v.digest || old.keys != v.keys || old.expires != 0 && old.expires < now {
			places[i].Store(v)
			return
		}
		if old.expires != 0 && (until < 0 || old.expires < until) {
			worst, until = i, old.expires
		}
	}
	if until < 0 { // none of them ends
		worst = int(v.digest[8]) % ways
	}
	places[worst].Store(v)
}
