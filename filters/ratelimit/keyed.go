package ratelimit

import (
	"hash/maphash"
	"sync"
	"time"
)

// keyed is a bucket for each value of a key. It holds a bounded number: where
// another is needed, one that has filled up again is forgotten, which makes no difference, or
// else one that was not used lately.
//
// Keys come from clients, so that they are kept as hashes of a fixed size, 128 bits with secret
// seeds: nobody can make two collide. Locks are per shard, and held for some ten nanoseconds.
type keyed struct {
	seed   [2]maphash.Seed
	shards []shard
}

type hash [2]uint64

type shard struct {
	mu    sync.Mutex
	index map[hash]int32
	slots []slot
	max   int
	hand  int // of the clock
	_     [64]byte
}

type slot struct {
	key  hash
	full int64
	used bool // since the hand was here
}

const (
	defaultMaxKeys = 10_000
	// maxShards, and how many keys a shard holds at least: few keys are in one
	// shard, where their number is exact.
	maxShards = 64
	shardKeys = 128
	// probes is how many slots are looked at for one that is full again.
	probes = 8
)

func newKeyed(maxKeys int) *keyed {
	if maxKeys <= 0 {
		maxKeys = defaultMaxKeys
	}
	n := 1
	for n < maxShards && maxKeys/(2*n) >= shardKeys {
		n *= 2
	}
	k := &keyed{seed: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, shards: make([]shard, n)}
	for i := range k.shards {
		k.shards[i].max = (maxKeys + n - 1) / n
		k.shards[i].index = map[hash]int32{}
	}
	return k
}

func (k *keyed) hash(key string) hash {
	return hash{maphash.String(k.seed[0], key), maphash.String(k.seed[1], key)}
}

func (k *keyed) shard(h hash) *shard { return &k.shards[h[0]%uint64(len(k.shards))] }

func (k *keyed) take(s *shape, now time.Duration, h hash, n uint64) taken {
	sh, at := k.shard(h), s.at(now)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	b := sh.slot(h, at)
	next, ok := s.next(b.full, at, n)
	if ok {
		b.full = next
	}
	return s.tell(next, at, n, ok)
}

func (k *keyed) giveBack(s *shape, h hash, n uint64) {
	sh := k.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if i, ok := sh.index[h]; ok {
		sh.slots[i].full -= int64(n) * s.step
	}
}

// slot finds or makes the bucket of h. The shard is locked.
func (sh *shard) slot(h hash, at int64) *slot {
	if i, ok := sh.index[h]; ok {
		sh.slots[i].used = true
		return &sh.slots[i]
	}
	if len(sh.slots) < sh.max {
		sh.index[h] = int32(len(sh.slots))
		sh.slots = append(sh.slots, slot{key: h, full: at, used: true})
		return &sh.slots[len(sh.slots)-1]
	}
	i := sh.victim(at)
	b := &sh.slots[i]
	delete(sh.index, b.key)
	sh.index[h] = int32(i)
	*b = slot{key: h, full: at, used: true}
	return b
}

// victim is the slot to use again.
func (sh *shard) victim(at int64) int {
	for p := range min(probes, len(sh.slots)) {
		if i := (sh.hand + p) % len(sh.slots); sh.slots[i].full <= at {
			sh.hand = i + 1
			return i
		}
	}
	for {
		i := sh.hand % len(sh.slots)
		sh.hand = i + 1
		if !sh.slots[i].used {
			return i
		}
		sh.slots[i].used = false
	}
}

// reshape gives all buckets another shape.
func (k *keyed) reshape(old, s *shape, now time.Duration) {
	for i := range k.shards {
		sh := &k.shards[i]
		sh.mu.Lock()
		for j := range sh.slots {
			sh.slots[j].full = s.reshape(old, sh.slots[j].full, now)
		}
		sh.mu.Unlock()
	}
}

// len is how many buckets there are.
func (k *keyed) len() int {
	n := 0
	for i := range k.shards {
		k.shards[i].mu.Lock()
		n += len(k.shards[i].slots)
		k.shards[i].mu.Unlock()
	}
	return n
}
