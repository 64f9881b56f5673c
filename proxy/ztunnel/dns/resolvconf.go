package dns

import (
	"net/netip"
	"strings"
)

// ParseResolvConf reads a resolv.conf(5): the nameservers, on port 53, and the
// search domains in lower case. It takes what it understands, as resolvers do.
func ParseResolvConf(text string) (servers []netip.AddrPort, search []string) {
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				servers = append(servers, netip.AddrPortFrom(a.Unmap(), 53))
			}
		case "search", "domain": // the last one counts
			search = search[:0:0]
			for _, d := range f[1:] {
				if d = strings.ToLower(strings.Trim(d, ".")); d != "" {
					search = append(search, d)
				}
			}
		}
	}
	return servers, search
}
