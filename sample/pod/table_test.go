package pod

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestParseHosts(t *testing.T) {
	a, b := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::2")
	tests := []struct {
		name, in, wantErr string
		want              hosts
	}{
		{name: "empty", want: hosts{}},
		{name: "comments", in: "# nothing\n\n  \n", want: hosts{}},
		{name: "names", in: "127.0.0.2 x Y. # z\n", want: hosts{"x": {a}, "y": {a}}},
		{name: "two-addresses", in: "127.0.0.2 x\n::2\tx", want: hosts{"x": {a, b}}},
		{name: "mapped", in: "::ffff:127.0.0.2 x\n", want: hosts{"x": {a}}},
		{name: "no-name", in: "\n127.0.0.2\n", wantErr: "line 2: address 127.0.0.2 has no name"},
		{name: "no-address", in: "x 127.0.0.2\n", wantErr: "line 1: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseHosts([]byte(tt.in))
			checkError(t, err, tt.wantErr)
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("parseHosts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParsePorts(t *testing.T) {
	tests := []struct {
		name, in, wantErr string
		want              ports
	}{
		{name: "one", in: "127.0.0.2 80 10080", want: ports{netip.MustParseAddrPort("127.0.0.2:80"): 10080}},
		{name: "fields", in: "127.0.0.2 80", wantErr: "line 1: 2 fields"},
		{name: "zero", in: "127.0.0.2 80 0", wantErr: `port "0"`},
		{name: "large", in: "127.0.0.2 65536 1", wantErr: `port "65536"`},
		{name: "address", in: "x 80 1", wantErr: "line 1: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parsePorts([]byte(tt.in))
			checkError(t, err, tt.wantErr)
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("parsePorts (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTableReload follows a file through its life: absent, written, rewritten
// in place, replaced, broken, repaired, removed.
func TestTableReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	h := fileTable(path, parseHosts)
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want, wantErr string) {
		t.Helper()
		got, err := h.get()
		checkError(t, err, wantErr)
		var first string
		if ips := got["x"]; len(ips) > 0 {
			first = ips[0].String()
		}
		if first != want {
			t.Errorf("x is at %q, want %q", first, want)
		}
	}
	check("", "")
	write("127.0.0.1 x\n")
	check("127.0.0.1", "")
	write("127.0.0.2 x\n") // same length, likely the same tick of the clock
	check("127.0.0.2", "")
	next := filepath.Join(filepath.Dir(path), "next")
	if err := os.WriteFile(next, []byte("127.0.0.3 x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	check("127.0.0.3", "")
	write("nonsense\n")
	check("127.0.0.3", "line 1")
	check("127.0.0.3", "line 1")
	write("127.0.0.4 x\n")
	check("127.0.0.4", "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("127.0.0.4", "")
}

// TestTableUnchanged makes sure that a file which has been quiet is not read again.
func TestTableUnchanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("127.0.0.1 x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	reads := 0
	h := fileTable(path, func(b []byte) (hosts, error) { reads++; return parseHosts(b) })
	for range 3 {
		if _, err := h.get(); err != nil {
			t.Fatal(err)
		}
	}
	if reads != 1 {
		t.Errorf("a file that did not change was read %d times, want 1", reads)
	}
}

func TestTableTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(maxTableBytes + 1); err != nil {
		t.Fatal(err)
	}
	_, err = fileTable(path, parseHosts).get()
	checkError(t, err, "larger than")
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 x y # z\n::1 x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHosts(b)
		if err != nil {
			return
		}
		for name, ips := range h {
			if name != canonicalName(name) && !strings.HasSuffix(name, ".") {
				t.Errorf("name %q is not canonical", name)
			}
			if len(ips) == 0 {
				t.Errorf("name %q has no address", name)
			}
		}
	})
}

func FuzzParsePorts(f *testing.F) {
	f.Add([]byte("127.0.0.1 80 10080\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _ := parsePorts(b)
		for ap, bound := range m {
			if !ap.Addr().IsValid() || ap.Port() == 0 || bound == 0 {
				t.Errorf("entry %v -> %d", ap, bound)
			}
		}
	})
}

// checkError fails t unless err says want, or is nil where want is empty.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error: %v", err)
	case want != "" && err == nil:
		t.Errorf("no error, want one with %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("error %q, want one with %q", err, want)
	}
}
