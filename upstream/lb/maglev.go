package lb

// Maglev's table size where nothing is said, and the largest, as Envoy has them.
const (
	DefaultTableSize = 65537
	MaxTableSize     = 5000011
)

// Maglev is a table that hosts fill in turn, each in an order of its own
// ("Maglev: A Fast and Reliable Software Network Load Balancer", 3.4): one look
// finds a key's host. Shares are exact to within an entry. When a host goes, a few keys of
// others move, too: less than one in a hundred with the default size.
type Maglev struct{ table []uint32 }

// NewMaglev makes a Maglev. keys are the hosts' own hashes. size is the number
// of entries; the next prime is taken, 0 means DefaultTableSize.
func NewMaglev(hosts []Host, keys []uint64, size uint64) *Maglev {
	s := spreadOf(hosts)
	if len(s.usable) == 0 {
		return &Maglev{}
	}
	if size == 0 {
		size = DefaultTableSize
	}
	size = nextPrime(min(max(size, 2), MaxTableSize))
	type turn struct {
		next, step uint64
		due        uint64 // in weights
	}
	turns := make([]turn, len(s.usable))
	var heaviest uint64
	for i, u := range s.usable {
		turns[i] = turn{next: Mix(keys[u], 0) % size, step: Mix(keys[u], 1)%(size-1) + 1}
		heaviest = max(heaviest, uint64(hosts[u].Weight))
	}
	m := &Maglev{make([]uint32, size)}
	taken := make([]bool, size)
	for filled := uint64(0); ; {
		for i, u := range s.usable {
			t := &turns[i]
			// In each round the heaviest takes one entry, others as often as their weight allows.
			if t.due += uint64(hosts[u].Weight); t.due < heaviest {
				continue
			}
			t.due -= heaviest
			for taken[t.next] {
				t.next += t.step
				if t.next >= size {
					t.next -= size
				}
			}
			m.table[t.next], taken[t.next] = uint32(u), true
			if filled++; filled == size {
				return m
			}
		}
	}
}

// Pick returns the host of the key.
func (m *Maglev) Pick(w Want) int {
	if len(m.table) == 0 {
		return -1
	}
	return int(m.table[w.Key%uint64(len(m.table))])
}

// nextPrime is n, or the first prime above it.
func nextPrime(n uint64) uint64 {
	for ; !IsPrime(n); n++ {
	}
	return n
}

// IsPrime reports whether n is a prime; Maglev's tables have a prime size.
func IsPrime(n uint64) bool {
	if n < 2 {
		return false
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}
