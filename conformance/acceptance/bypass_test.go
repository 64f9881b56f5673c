package acceptance

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNoBypass takes the waypoint away in several ways. Requests to services
// behind it then fail; none reaches a pod without it. DELETE shows it best:
// the waypoint refuses it, and a pod that got it would answer otherwise.
func TestNoBypass(t *testing.T) {
	m := up(t, bookinfo(t), "--processes")
	details := "http://" + m.addr(t, "bookinfo", "details") + "/details/0"
	page := m.pod(t, "productpage").Address
	must(t, client(t, page, false), 200, "GET", details)
	must(t, client(t, page, false), 403, "DELETE", details)
	// What a pod says to DELETE when nobody stands before it.
	direct, _, err := do(t.Context(), client(t, "", false), "DELETE", "http://"+m.pod(t, "details").Address+":9080/details/0")
	if err != nil || direct == 403 {
		t.Fatalf("a pod answers DELETE with %s: it proves nothing", status(direct, err))
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr(m.Waypoints[0].Address), 15008)

	t.Run("frozen", func(t *testing.T) {
		pid := listenerOf(t, addr)
		if pid == m.Process.Pid {
			t.Fatal("with --processes the waypoint is in the process of cairn up")
		}
		kill(t, pid, syscall.SIGSTOP)
		defer syscall.Kill(pid, syscall.SIGCONT)
		for _, from := range []string{"", page} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			code, body, err := do(ctx, client(t, from, false), "GET", details)
			cancel()
			if err == nil {
				t.Errorf("with the waypoint frozen: %s %q, want no answer", status(code, nil), body)
			}
		}
		kill(t, pid, syscall.SIGCONT)
		eventually(t, 10*time.Second, func() error { return answers(t, page, details, 200) })
	})

	t.Run("killed", func(t *testing.T) {
		refused, denied := 0, 0
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
			if pid, ok := findListener(addr); ok {
				kill(t, pid, syscall.SIGKILL)
			}
			for range 5 {
				code, body, err := do(t.Context(), client(t, page, false), "DELETE", details)
				switch {
				case err != nil || code == 503:
					refused++
				case code == 403:
					denied++ // the next waypoint stood already
				default:
					t.Fatalf("with the waypoint killed: %s %q", status(code, nil), body)
				}
			}
		}
		if refused == 0 {
			t.Error("no request failed: the waypoint was never away, which proves nothing")
		}
		t.Logf("%d requests failed, %d met the next waypoint", refused, denied)
		eventually(t, 30*time.Second, func() error { return answers(t, page, details, 200) })
		must(t, client(t, page, false), 403, "DELETE", details)
	})

	t.Run("node-killed", func(t *testing.T) {
		// The node proxy comes back, too, and its tunnels with it.
		node := netip.AddrPortFrom(netip.MustParseAddr(page), 15008)
		kill(t, listenerOf(t, node), syscall.SIGKILL)
		eventually(t, 30*time.Second, func() error { return answers(t, page, details, 200) })
		must(t, client(t, page, false), 403, "DELETE", details)
	})
}

// answers returns nil when a request gets the status.
func answers(t *testing.T, from, url string, want int) error {
	code, _, err := do(t.Context(), client(t, from, false), "GET", url)
	if err != nil || code != want {
		return fmt.Errorf("GET %s: %s, want %d", url, status(code, err), want)
	}
	return nil
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signalling process %d: %v", pid, err)
	}
}

// listenerOf returns the process that listens at an address.
func listenerOf(t *testing.T, at netip.AddrPort) int {
	t.Helper()
	pid, ok := findListener(at)
	if !ok {
		t.Fatalf("nobody listens at %s", at)
	}
	return pid
}

// findListener looks the socket up in /proc/net/tcp, and who has it open.
func findListener(at netip.AddrPort) (pid int, ok bool) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, false
	}
	ip := at.Addr().As4()
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), at.Port())
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[1] != local || f[3] != "0A" { // 0A: listening
			continue
		}
		if pid, ok = holderOf("socket:[" + f[9] + "]"); ok {
			return pid, true
		}
	}
	return 0, false
}

// holderOf returns a process that has the file open.
func holderOf(target string) (pid int, ok bool) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, false
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == target {
			n, err := strconv.Atoi(strings.Split(l, "/")[2])
			return n, err == nil
		}
	}
	return 0, false
}
