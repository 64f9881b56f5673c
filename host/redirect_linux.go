package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Redirect installs r in the namespace, in place of an earlier Redirect. It
// needs no external program.
//
// The rules are closed: with no proxy listening a captured connection is
// refused, and they hold for IPv6 as for IPv4, so that nothing passes beside
// the mesh by its address family.
//
//	mangle prerouting  marked by the proxy      -> remember it on the connection
//	mangle output      on such a connection     -> mark the packet, so that it is routed back to the proxy
//	nat    prerouting  tcp, not to Tunnel       -> Inbound
//	nat    output      dns                      -> DNS
//	                   tcp                      -> Outbound
//	raw                the proxy's own dns      -> a conntrack zone of its own
func (n *Namespace) Redirect(r Redirection) error {
	c, err := nftables.New(nftables.WithNetNSFd(n.FD()))
	if err != nil {
		return permission("opening nftables", err)
	}
	family := nftables.TableFamilyINet
	// Adding before deleting makes the deletion succeed whether or not it was there.
	c.AddTable(&nftables.Table{Family: family, Name: tableName})
	c.DelTable(&nftables.Table{Family: family, Name: tableName})
	rs := &ruleset{c: c, t: c.AddTable(&nftables.Table{Family: family, Name: tableName}), r: r}
	rs.mangle()
	rs.inbound()
	rs.outbound()
	if r.DNS != 0 {
		rs.dnsZone()
	}
	if err := c.Flush(); err != nil {
		return permission("installing redirection rules", err)
	}
	return n.returnRoutes(r)
}

const tableName = "cairn"

// returnRoutes lets packets that carry ConnMark be delivered here, whatever
// their destination.
func (n *Namespace) returnRoutes(r Redirection) error {
	h, err := handleAt(n)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("looking for link lo: %w", err)
	}
	mask := uint32(markMask)
	for _, f := range []struct {
		family int
		any    netip.Prefix
	}{
		{unix.AF_INET, netip.MustParsePrefix("0.0.0.0/0")},
		{unix.AF_INET6, netip.MustParsePrefix("::/0")},
	} {
		if f.family == unix.AF_INET6 && !n.hasIPv6() {
			continue
		}
		route := &netlink.Route{Family: f.family, Dst: ipNet(f.any), LinkIndex: lo.Attrs().Index, Table: routeTable, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("adding local route %s: %w", f.any, err)
		}
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Mask, rule.Table, rule.Priority = f.family, r.ConnMark, &mask, routeTable, rulePriority
		if err := h.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding routing rule: %w", err)
		}
	}
	return nil
}

// hasIPv6 reports whether the namespace's loopback device speaks IPv6.
func (n *Namespace) hasIPv6() bool {
	enabled := false
	_ = n.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
		enabled = err == nil && strings.TrimSpace(string(b)) == "0"
		return nil
	})
	return enabled
}

type ruleset struct {
	c *nftables.Conn
	t *nftables.Table
	r Redirection
}

func (rs *ruleset) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return rs.c.AddChain(&nftables.Chain{Name: name, Table: rs.t, Type: kind, Hooknum: hook, Priority: prio})
}

func (rs *ruleset) add(ch *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	rs.c.AddRule(&nftables.Rule{Table: rs.t, Chain: ch, Exprs: all})
}

func (rs *ruleset) mangle() {
	pre := rs.chain("mangle-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	rs.add(pre, markIs(expr.CmpOpEq, rs.r.Mark), setCtMark(rs.r.ConnMark))
	out := rs.chain("mangle-output", nftables.ChainTypeRoute, nftables.ChainHookOutput, nftables.ChainPriorityMangle)
	rs.add(out, ctMarkIs(rs.r.ConnMark), restoreMark())
}

func (rs *ruleset) inbound() {
	ch := rs.chain("nat-prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	rs.add(ch, proto(unix.IPPROTO_TCP), addrIs(expr.CmpOpEq, ProbeAddr, true), accept())
	for _, lo := range loopbacks {
		rs.add(ch, proto(unix.IPPROTO_TCP), addrIs(expr.CmpOpNeq, lo, false), dport(expr.CmpOpNeq, rs.r.Tunnel),
			markIs(expr.CmpOpNeq, rs.r.Mark), redirect(rs.r.Inbound))
	}
}

func (rs *ruleset) outbound() {
	ch := rs.chain("nat-output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	notOurs := markIs(expr.CmpOpNeq, rs.r.Mark)
	rs.add(ch, proto(unix.IPPROTO_TCP), addrIs(expr.CmpOpEq, ProbeAddr, false), accept())
	if rs.r.DNS != 0 {
		rs.add(ch, outputDevice(expr.CmpOpNeq, "lo"), proto(unix.IPPROTO_UDP), dport(expr.CmpOpEq, 53), notOurs, redirect(rs.r.DNS))
		for _, lo := range loopbacks {
			rs.add(ch, addrIs(expr.CmpOpNeq, lo, false), proto(unix.IPPROTO_TCP), dport(expr.CmpOpEq, 53), notOurs, redirect(rs.r.DNS))
		}
	}
	rs.add(ch, proto(unix.IPPROTO_TCP), markIs(expr.CmpOpEq, rs.r.ConnMark), accept())
	for _, lo := range loopbacks {
		// A pod that speaks to itself by its own address is not captured.
		rs.add(ch, addrIs(expr.CmpOpNeq, lo, false), outputDevice(expr.CmpOpEq, "lo"), accept())
	}
	for _, lo := range loopbacks {
		rs.add(ch, addrIs(expr.CmpOpNeq, lo, false), proto(unix.IPPROTO_TCP), notOurs, redirect(rs.r.Outbound))
	}
}

// dnsZone keeps the proxy's own queries apart from the captured ones, which may
// have the same addresses and ports.
func (rs *ruleset) dnsZone() {
	out := rs.chain("raw-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	rs.add(out, proto(unix.IPPROTO_UDP), markIs(expr.CmpOpEq, rs.r.Mark), dport(expr.CmpOpEq, 53), setZone(1))
	pre := rs.chain("raw-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rs.add(pre, proto(unix.IPPROTO_UDP), markIs(expr.CmpOpNeq, rs.r.Mark), sport(expr.CmpOpEq, 53), setZone(1))
}

var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// The expressions below are the words of which the rules above are made. Each
// loads a value into register 1 and compares it, or acts.

func cmp(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

func proto(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, cmp(expr.CmpOpEq, []byte{p})}
}

func port(offset uint32, op expr.CmpOp, p uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		cmp(op, binary.BigEndian.AppendUint16(nil, p)),
	}
}

func sport(op expr.CmpOp, p uint16) []expr.Any { return port(0, op, p) }
func dport(op expr.CmpOp, p uint16) []expr.Any { return port(2, op, p) }

// addrIs compares the packet's source or destination address; it holds only
// for packets of a's family.
func addrIs(op expr.CmpOp, a netip.Addr, source bool) []expr.Any {
	family, offset, size := byte(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if a.Is6() {
		family, offset, size = unix.NFPROTO_IPV6, 24, 16
	}
	if source {
		offset -= size
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		cmp(expr.CmpOpEq, []byte{family}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		cmp(op, a.AsSlice()),
	}
}

func outputDevice(op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, cmp(op, padded)}
}

func masked() expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(markMask), Xor: make([]byte, 4)}
}

func markIs(op expr.CmpOp, mark uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, masked(), cmp(op, binaryutil.NativeEndian.PutUint32(mark))}
}

func ctMarkIs(mark uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(), cmp(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(mark))}
}

func setCtMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(markMask)), Xor: binaryutil.NativeEndian.PutUint32(mark),
		},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

func restoreMark() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}}
}

func setZone(zone uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint16(zone)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true},
	}
}

func redirect(to uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
