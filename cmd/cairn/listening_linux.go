package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// listeningAt returns the loopback addresses of this network namespace at which somebody listens on port, in order.
func listeningAt(port uint16) ([]string, error) {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	want := fmt.Sprintf("%04X", port)
	var out []netip.Addr
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 || fields[3] != "0A" { // LISTEN
			continue
		}
		addr, at, _ := strings.Cut(fields[1], ":")
		b, err := hex.DecodeString(addr)
		if err != nil || len(b) != 4 || at != want {
			continue
		}
		slices.Reverse(b) // the kernel prints it as the machine has it
		if a := netip.AddrFrom4([4]byte(b)); a.IsLoopback() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	var list []string
	for _, a := range slices.Compact(out) {
		list = append(list, netip.AddrPortFrom(a, port).String())
	}
	return list, s.Err()
}
