package policy

import (
	"net/netip"
	"slices"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// remote is the address that remote.ip and remoteIpBlocks mean.
func (c *check) remote(f *facts) netip.Addr {
	if c.trusted == 0 || f.request == nil {
		return normal(f.source)
	}
	if a := remoteAddr(f.request.Fields, int(c.trusted)); a.IsValid() {
		return a
	}
	return normal(f.source)
}

// remoteAddr returns the n-th address from the end of X-Forwarded-For: each of n trusted
// proxies has added the address that it saw, and what stands before the first of these is the
// client's word. It is invalid where there are fewer, or where that is no address: the peer
// counts then, which is the proxy or somebody who came without it (as in Envoy with use_remote_address
// and xff_num_trusted_hops). Several fields are one list (RFC 9110, 5.3).
func remoteAddr(fields mesh.Fields, n int) netip.Addr {
	for _, f := range slices.Backward(fields) {
		if f.Name != "x-forwarded-for" {
			continue
		}
		list := f.Value
		for more := true; more; {
			var last string
			at := strings.LastIndexByte(list, ',')
			last, more = list[at+1:], at >= 0
			list = list[:max(at, 0)]
			if n--; n == 0 {
				a, err := netip.ParseAddr(strings.Trim(last, " \t"))
				if err != nil || a.Zone() != "" {
					return netip.Addr{}
				}
				return a.Unmap()
			}
		}
	}
	return netip.Addr{}
}
