package lb

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// hashing are the algorithms that go by the key.
var hashing = []struct {
	name string
	make func([]Host, []uint64) Picker
	// fair is how far, as a part of it, a host's share may be from its weight's with 10 hosts.
	fair float64
	// stray is how large a part of the other hosts' keys may move when one goes.
	stray float64
}{
	{"ring_hash", func(h []Host, k []uint64) Picker { return NewRingHash(h, k, 8192, 0) }, 0.15, 0},
	{"maglev", func(h []Host, k []uint64) Picker { return NewMaglev(h, k, 0) }, 0.001, 0.01},
	{"rendezvous", func(h []Host, k []uint64) Picker { return NewRendezvous(h, k) }, 0.06, 0},
}

// spreadKeys are keys that go evenly over all of a hash's range, so that a share is of the table
// itself and not of a sample.
func spreadKeys(n int) []uint64 {
	keys := make([]uint64, n)
	for i := range keys {
		keys[i] = uint64(i)*(math.MaxUint64/uint64(n)) + uint64(i%65537)
	}
	return keys
}

func TestHashShares(t *testing.T) {
	keys := spreadKeys(1 << 17)
	for _, a := range hashing {
		for _, tt := range []struct {
			name    string
			weights []uint32
		}{
			{"equal", same(10, 1)},
			{"ninety_ten", []uint32{90, 10}},
			{"zeros", []uint32{0, 1, 0, 1}},
			{"steps", []uint32{1, 2, 3, 4, 5, 6}},
			{"many", same(40, 3)},
		} {
			t.Run(a.name+"/"+tt.name, func(t *testing.T) {
				p := a.make(hosts(tt.weights...), keysOf(len(tt.weights)))
				counts := make([]int, len(tt.weights))
				for _, k := range keys {
					counts[p.Pick(Want{Key: k})]++
				}
				var total, least float64
				least = math.MaxFloat64
				for _, w := range tt.weights {
					total += float64(w)
					if w > 0 {
						least = min(least, float64(w))
					}
				}
				for i, w := range tt.weights {
					want := float64(len(keys)) * float64(w) / total
					// What is uneven falls with the root of a host's share.
					fair := a.fair * math.Sqrt(total/float64(max(w, 1))/10)
					if d := math.Abs(float64(counts[i]) - want); d > max(want*fair, want*0.001)+3 {
						t.Errorf("host %d of weight %d has %d keys, want %.0f within %.1f %%", i, w, counts[i], want, fair*100)
					}
				}
			})
		}
	}
}

// TestMinimalDisruption: when a host goes, its keys move and no others, but for
// Maglev's few; when it comes back, all is as it was.
func TestMinimalDisruption(t *testing.T) {
	keys := spreadKeys(1 << 16)
	for _, a := range hashing {
		for _, n := range []int{2, 10, 60} {
			for _, weights := range [][]uint32{same(n, 1), steps(n)} {
				t.Run(fmt.Sprintf("%s/%d_%d", a.name, n, weights[n-1]), func(t *testing.T) {
					all, few := hosts(weights...), hosts(weights...)
					gone := n / 2
					few[gone].Weight = 0
					before, after, again := a.make(all, keysOf(n)), a.make(few, keysOf(n)), a.make(all, keysOf(n))
					strays, its := 0, 0
					for _, k := range keys {
						w := Want{Key: k}
						was, is := before.Pick(w), after.Pick(w)
						switch {
						case is == gone:
							t.Fatal("a key still leads to the host that has gone")
						case was == gone:
							its++
						case was != is:
							strays++
						}
						if again.Pick(w) != was {
							t.Fatal("a key leads elsewhere once the host is back")
						}
					}
					stray := float64(strays) / float64(len(keys)-its)
					if t.Logf("%d keys were its own, %.2f %% of others moved", its, stray*100); stray > a.stray {
						t.Errorf("%.2f %% of the other hosts' keys moved, want at most %.2f %%", stray*100, a.stray*100)
					}
				})
			}
		}
	}
}

func steps(n int) []uint32 {
	w := make([]uint32, n)
	for i := range w {
		w[i] = uint32(i%5 + 1)
	}
	return w
}

// TestRendezvousSpreads: the keys of a host that goes are shared by all others.
func TestRendezvousSpreads(t *testing.T) {
	const n = 20
	all, few := hosts(same(n, 1)...), hosts(same(n, 1)...)
	few[0].Weight = 0
	before, after := NewRendezvous(all, keysOf(n)), NewRendezvous(few, keysOf(n))
	heirs := map[int]int{}
	for _, k := range spreadKeys(1 << 16) {
		if w := (Want{Key: k}); before.Pick(w) == 0 {
			heirs[after.Pick(w)]++
		}
	}
	if len(heirs) != n-1 {
		t.Errorf("the keys went to %d hosts, want all other %d", len(heirs), n-1)
	}
}

// TestSameEverywhere: what a key leads to is a fact that other instances, and
// later versions, must agree on. Whoever changes these numbers moves every session.
func TestSameEverywhere(t *testing.T) {
	for _, tt := range []struct {
		s    string
		want uint64
	}{{"", 0xa6e95dd6d1a416d5}, {"a", 0x3a210592b087f8cb}, {"12345678", 0x2b678f8bfa3bf992}, {"Kubernetes//Pod/ns/web-0", 0x2fee218156de5e9d}} {
		if got := Hash(tt.s); got != tt.want {
			t.Errorf("Hash(%q) = %#x, want %#x", tt.s, got, tt.want)
		}
	}
	want := map[string]string{"ring_hash": "3232333331330213", "maglev": "0222221110223133", "rendezvous": "1123213123202121"}
	for _, a := range hashing {
		p := a.make(hosts(1, 2, 3, 4), keysOf(4))
		got := ""
		for i := range 16 {
			got += fmt.Sprint(p.Pick(Want{Key: Hash(fmt.Sprint("client-", i))}))
		}
		if got != want[a.name] {
			t.Errorf("%s: keys lead to %s, want %s", a.name, got, want[a.name])
		}
	}
}

// TestHashMixes: each bit of a key changes each bit of its hash about half the time,
// and hashes of keys that differ little do not collide.
func TestHashMixes(t *testing.T) {
	for _, n := range []int{1, 7, 8, 9, 16, 23} {
		flips, trials := 0, 0
		for range 200 {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rand.Uint32())
			}
			h := Hash(string(b))
			for bit := range n * 8 {
				b[bit/8] ^= 1 << (bit % 8)
				flips += bits.OnesCount64(h ^ Hash(string(b)))
				trials++
				b[bit/8] ^= 1 << (bit % 8)
			}
		}
		if mean := float64(flips) / float64(trials); mean < 30 || mean > 34 {
			t.Errorf("one bit of %d bytes changes %.1f bits of the hash, want 32", n, mean)
		}
	}
	seen := map[uint64]string{}
	for i := range 200_000 {
		s := fmt.Sprint("user-", i)
		if other, ok := seen[Hash(s)]; ok {
			t.Fatalf("%q and %q have one hash", s, other)
		}
		seen[Hash(s)] = s
	}
}

func FuzzHash(f *testing.F) {
	f.Add("", "x")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && Hash(a) == Hash(b) {
			t.Errorf("%q and %q have one hash", a, b)
		}
	})
}

func TestRingSize(t *testing.T) {
	for _, tt := range []struct {
		weights     []uint32
		least, most uint64
		want        int
	}{
		{same(4, 1), 0, 0, 2048},
		{same(3, 1), 0, 0, 1536}, // 512 for each
		{same(2000, 1), 0, 0, 64000},
		{same(2000, 8), 0, 0, 64000},
		{same(10, 1), 10, 5, 5},
		{[]uint32{1, 9999}, 0, 0, 10000},
		{[]uint32{1, 9999}, 0, 2048, 1250},
		{[]uint32{3, 1}, 1024, 0, 1024},
	} {
		if got := len(NewRingHash(hosts(tt.weights...), keysOf(len(tt.weights)), tt.least, tt.most).points); got != tt.want {
			t.Errorf("%d hosts within %d to %d: %d points, want %d", len(tt.weights), tt.least, tt.most, got, tt.want)
		}
	}
}

// TestRingKeepsItsPoints: whatever the number of hosts, those that stay keep all their keys
// when one goes, but where the points of a host change with the size of the cluster.
func TestRingKeepsItsPoints(t *testing.T) {
	for _, n := range []int{2, 3, 4, 5, 8, 9, 16, 18, 64, 65, 256, 258, 1000} {
		list, keys := hosts(same(n, 1)...), keysOf(n)
		whole, less := NewRingHash(list, keys, 0, 0), NewRingHash(list[:n-1], keys[:n-1], 0, 0)
		for i := range uint64(2000) {
			w := Want{Key: Mix(i, 7)}
			if a, b := whole.Pick(w), less.Pick(w); a != b && a != n-1 {
				t.Fatalf("%d hosts: a key of host %d moves to %d when another goes", n, a, b)
			}
		}
	}
}

func TestMaglevSize(t *testing.T) {
	for _, tt := range []struct{ size, want uint64 }{{0, 65537}, {1, 2}, {7, 7}, {8, 11}, {100, 101}, {1 << 40, MaxTableSize}} {
		if got := uint64(len(NewMaglev(hosts(1, 1, 1), keysOf(3), tt.size).table)); got != tt.want {
			t.Errorf("size %d gives %d entries, want %d", tt.size, got, tt.want)
		}
	}
}

// TestManyHosts: 10,000 hosts are no trouble, in time and in memory.
func TestManyHosts(t *testing.T) {
	const n = 10_000
	list, keys := hosts(same(n, 1)...), keysOf(n)
	for _, a := range hashing {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		p := a.make(list, keys)
		took := time.Since(start)
		runtime.GC()
		runtime.ReadMemStats(&after)
		held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		t.Logf("%s: built in %v, %d KB", a.name, took, held>>10)
		if held > 4<<20 {
			t.Errorf("%s of %d hosts holds %d bytes", a.name, n, held)
		}
		seen := map[int]bool{}
		for range 1000 {
			seen[p.Pick(anyone())] = true
		}
		if len(seen) < 850 {
			t.Errorf("%s: 1000 keys lead to %d hosts, want about 900 to 950", a.name, len(seen))
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		list, keys := hosts(same(n, 1)...), keysOf(n)
		for _, a := range hashing {
			b.Run(fmt.Sprint(a.name, "/", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					a.make(list, keys)
				}
			})
		}
	}
}

func BenchmarkPickKey(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		list, keys := hosts(same(n, 1)...), keysOf(n)
		for _, a := range hashing {
			p := a.make(list, keys)
			for k := range uint64(1 << 16) {
				p.Pick(Want{Key: k << 48})
			}
			b.Run(fmt.Sprint(a.name, "/", n), func(b *testing.B) {
				b.ReportAllocs()
				k := uint64(0)
				for b.Loop() {
					p.Pick(Want{Key: k})
					k += k0
				}
			})
		}
	}
}

func BenchmarkHash(b *testing.B) {
	for _, s := range []string{"10.0.0.1", "user-1234567890", "a-session-cookie-of-some-forty-characters"} {
		b.Run(fmt.Sprint(len(s)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Hash(s)
			}
		})
	}
}
