package lb

import "math/bits"

// The constants of the mixing steps: odd, with about as many ones as zeros.
const (
	k0 = 0x9e3779b97f4a7c15
	k1 = 0xd6e8feb86659fd93
	k2 = 0xa0761d6478bd642f
)

// Hash is a 64-bit hash of s, for balancing and for nothing else. It is the
// same in every process, on every machine and in every version: what a key leads
// to must not depend on which instance of a waypoint a client meets, so
// hash/maphash, whose seed is random, will not do. It reads eight bytes at a time
// and mixes by 128-bit products, as wyhash does. Whoever knows it can find keys
// that collide; that gives them no more than they have by choosing their key.
func Hash(s string) uint64 {
	h := uint64(len(s)) ^ k0
	for len(s) > 8 {
		h = product(h^word(s), k1)
		s = s[8:]
	}
	return Mix(h, tail(s))
}

// Mix joins a hash and another word into a hash.
func Mix(h, x uint64) uint64 {
	return product(product(h^k1, x^k2)^h, k0)
}

func product(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// word is the first eight bytes of s.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// tail is up to eight bytes.
func tail(s string) (v uint64) {
	if len(s) == 8 {
		return word(s)
	}
	for i := len(s) - 1; i >= 0; i-- {
		v = v<<8 | uint64(s[i])
	}
	return v
}
