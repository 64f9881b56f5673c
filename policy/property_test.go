package policy

import (
	"math/rand/v2"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/mesh"
)

// The specification, written down a second time as plainly as possible: no
// compilation, regular expressions for patterns, strings joined and split.

// rules evaluates parts of a rule, and notes when one is not supported.
type rules struct{ deny, unsupported bool }

// pattern is Istio's string pattern as a regular expression.
func pattern(p string) *regexp.Regexp {
	q := regexp.QuoteMeta
	switch {
	case p == "*":
		return regexp.MustCompile(`(?s)\A.+\z`)
	case strings.HasPrefix(p, "*"):
		return regexp.MustCompile(`(?s)\A.*` + q(p[1:]) + `\z`)
	case strings.HasSuffix(p, "*"):
		return regexp.MustCompile(`(?s)\A` + q(p[:len(p)-1]) + `.*\z`)
	}
	return regexp.MustCompile(`\A` + q(p) + `\z`)
}

func anyOf[T any](list []T, f func(T) bool) bool { return slices.ContainsFunc(list, f) }

// lists is a list with its not-form: both must be content.
func lists[T any](yes, no []T, f func(T) bool) bool {
	return (len(yes) == 0 || anyOf(yes, f)) && !anyOf(no, f)
}

func (s *rules) source(x *mesh.AuthzSource, ns string, r *mesh.Request) bool {
	id, ip := r.Peer.Identity, r.Peer.Addr.Addr()
	account := func(a string) bool {
		if !strings.Contains(a, "/") {
			a = ns + "/" + a
		}
		return !id.IsZero() && a == id.Namespace+"/"+id.ServiceAccount
	}
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	return lists(x.RequestPrincipals, x.NotRequestPrincipals, ofToken(r, "request.auth.principal")) &&
		lists(x.TrustDomains, x.NotTrustDomains, func(p string) bool { return pattern(p).MatchString(id.TrustDomain) }) &&
		lists(x.Principals, x.NotPrincipals, func(p string) bool { return pattern(p).MatchString(id.Principal()) }) &&
		lists(x.Namespaces, x.NotNamespaces, func(p string) bool { ok, _ := path.Match(p, id.Namespace); return ok && id.Namespace != "" }) &&
		lists(x.ServiceAccounts, x.NotServiceAccounts, account) &&
		lists(x.IPBlocks, x.NotIPBlocks, in) && lists(x.RemoteIPBlocks, x.NotRemoteIPBlocks, in)
}

func (s *rules) operation(x *mesh.AuthzOperation, r *mesh.Request) bool {
	host := func(h string) bool {
		re := pattern(strings.ToLower(h))
		return re.MatchString(strings.TrimSuffix(strings.ToLower(r.Host), ".")) || re.MatchString(strings.TrimSuffix(strings.ToLower(r.Authority), "."))
	}
	return lists(x.Hosts, x.NotHosts, host) &&
		lists(x.Ports, x.NotPorts, func(p uint16) bool { return p == r.Destination.Port() }) &&
		lists(x.Methods, x.NotMethods, func(p string) bool { return pattern(p).MatchString(r.Method) }) &&
		lists(x.Paths, x.NotPaths, func(p string) bool { return pathPattern(p).MatchString(r.Path) })
}

func pathPattern(p string) *regexp.Regexp {
	if !isTemplate(p) {
		return pattern(p)
	}
	p = strings.ReplaceAll(regexp.QuoteMeta(p), `\{\*\*\}`, `(?s:.*)`)
	return regexp.MustCompile(`\A` + strings.ReplaceAll(p, `\{\*\}`, `[^/]+`) + `\z`)
}

func (s *rules) condition(x *mesh.AuthzCondition, ns string, r *mesh.Request) bool {
	id := r.Peer.Identity
	ranges := func(a netip.Addr) func(string) bool {
		return func(v string) bool {
			if !strings.Contains(v, "/") {
				return netip.MustParseAddr(v) == a
			}
			return netip.MustParsePrefix(v).Contains(a)
		}
	}
	var is func(string) bool
	switch x.Key {
	case "source.ip", "remote.ip":
		is = ranges(r.Peer.Addr.Addr())
	case "destination.ip":
		is = ranges(r.Destination.Addr())
	case "destination.port":
		is = func(v string) bool { n, _ := strconv.Atoi(v); return n == int(r.Destination.Port()) }
	case "source.namespace":
		is = func(v string) bool { return pattern(v).MatchString(id.Namespace) }
	case "source.principal":
		is = func(v string) bool { return !id.IsZero() && pattern(v).MatchString(id.Principal()) }
	case "source.serviceAccount":
		return s.source(&mesh.AuthzSource{ServiceAccounts: x.Values, NotServiceAccounts: x.NotValues}, ns, r)
	case "connection.sni":
		is = func(string) bool { return false }
	case "request.headers[x-a]":
		var lines []string
		for _, f := range r.Fields {
			if f.Name == "x-a" {
				lines = append(lines, f.Value)
			}
		}
		// What refuses looks at each line as well.
		whole := func(v string) bool {
			return lines != nil && (v == "*" || pattern(v).MatchString(strings.Join(lines, ",")))
		}
		each := func(v string) bool { return whole(v) || slices.ContainsFunc(lines, pattern(v).MatchString) }
		if s.deny {
			return lists(x.Values, nil, each) && lists(nil, x.NotValues, whole)
		}
		return lists(x.Values, nil, whole) && lists(nil, x.NotValues, each)
	default:
		if !strings.HasPrefix(x.Key, "request.auth.") {
			s.unsupported = true
			return true
		}
		is = ofToken(r, x.Key)
	}
	return lists(x.Values, x.NotValues, is)
}

// naiveRule evaluates one rule. An unsupported part is taken as true in DENY, and
// makes the whole rule false in ALLOW.
func naiveRule(p *mesh.AuthorizationPolicy, x *mesh.AuthzRule, r *mesh.Request) bool {
	s := rules{deny: p.Action == mesh.ActionDeny}
	// Every part is looked at, so that unsupported is known.
	from, to, when := len(x.From) == 0, len(x.To) == 0, true
	for i := range x.From {
		from = s.source(&x.From[i], p.Name.Namespace, r) || from
	}
	for i := range x.To {
		to = s.operation(&x.To[i], r) || to
	}
	for i := range x.When {
		when = s.condition(&x.When[i], p.Name.Namespace, r) && when
	}
	return from && to && when && (p.Action == mesh.ActionDeny || !s.unsupported)
}

func naive(list []*mesh.AuthorizationPolicy, r *mesh.Request) (allowed, dryDenied bool) {
	decide := func(dry bool) bool {
		allows, matched := false, false
		for _, p := range list {
			if p.DryRun != dry || p.Action == mesh.ActionAudit {
				continue
			}
			hit := p.Invalid != "" || anyOf(p.Rules, func(x mesh.AuthzRule) bool { return naiveRule(p, &x, r) })
			if hit && (p.Action == mesh.ActionDeny || p.Invalid != "") {
				return false
			}
			if p.Action == mesh.ActionAllow {
				allows, matched = true, matched || hit
			}
		}
		return !allows || matched
	}
	return decide(false), !decide(true)
}

type chooser struct{ *rand.Rand }

func (c chooser) of(list ...string) string { return list[c.IntN(len(list))] }

// some returns up to two of list, mostly none.
func (c chooser) some(list ...string) (out []string) {
	if c.IntN(4) > 0 {
		return nil
	}
	for range 1 + c.IntN(2) {
		out = append(out, c.of(list...))
	}
	return out
}

func (c chooser) ranges() (out []netip.Prefix) {
	for _, s := range c.some("10.0.0.0/8", "10.0.0.1/32", "192.0.2.0/24", "0.0.0.0/0", "::/0") {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func (c chooser) ports() (out []uint16) {
	for _, s := range c.some("80", "9080") {
		n, _ := strconv.Atoi(s)
		out = append(out, uint16(n))
	}
	return out
}

var (
	principals = []string{"*", "td/ns/a/sa/x", "td/ns/a/*", "*/sa/x", "td/*", "*/sa/*", "td/ns/b/sa/y"}
	namespaces = []string{"*", "a", "b", "ab*", "*b", "*a*", "a*b"}
	accounts   = []string{"a/x", "b/y", "x", "ab/x"}
	hostnames  = []string{"*", "a.b", "A.B", "*.b", "a.*", "a.b:80", "*:80"}
	methods    = []string{"GET", "P*", "*T", "*"}
	pathList   = []string{"/", "/a", "/a*", "*/b", "*", "/a/{*}", "/{*}/b", "/a/{**}", "/{**}/b", "/a/*"}
)

func (c chooser) source() (s mesh.AuthzSource) {
	for ok := false; !ok; ok = c.IntN(8) > 0 {
		s = mesh.AuthzSource{
			Principals: c.some(principals...), NotPrincipals: c.some(principals...),
			RequestPrincipals: c.some(tokenPrincipals...), NotRequestPrincipals: c.some(tokenPrincipals...),
			TrustDomains: c.some("td", "t*", "*"), NotTrustDomains: c.some("td", "*her"),
			Namespaces: c.some(namespaces...), NotNamespaces: c.some(namespaces...),
			ServiceAccounts: c.some(accounts...), NotServiceAccounts: c.some(accounts...),
			IPBlocks: c.ranges(), NotIPBlocks: c.ranges(), RemoteIPBlocks: c.ranges(), NotRemoteIPBlocks: c.ranges(),
		}
	}
	if b := (&l7Builder{}); len(b.built(func() { b.source(&s) })) == 0 && b.broken == "" {
		s.Namespaces = []string{"a"} // an empty source is another test's matter
	}
	return s
}

func (c chooser) operation() (o mesh.AuthzOperation) {
	o = mesh.AuthzOperation{
		Hosts: c.some(hostnames...), NotHosts: c.some(hostnames...), Ports: c.ports(), NotPorts: c.ports(),
		Methods: c.some(methods...), NotMethods: c.some(methods...), Paths: c.some(pathList...), NotPaths: c.some(pathList...),
	}
	if b := (&l7Builder{}); len(b.built(func() { b.operation(&o) })) == 0 {
		o.Methods = []string{"GET"}
	}
	return o
}

func (b *l7Builder) built(f func()) alternative {
	f()
	return b.checks
}

func (c chooser) condition() mesh.AuthzCondition {
	keys := map[string][]string{
		"source.ip": {"10.0.0.1", "10.0.0.0/8", "::1"}, "remote.ip": {"192.0.2.0/24", "10.0.0.1"}, "destination.ip": {"10.96.0.1", "fd00::/8"},
		"destination.port": {"80", "9080"}, "source.namespace": {"*", "a", "ab*"}, "source.principal": principals, "source.serviceAccount": accounts,
		"connection.sni": {"*", "a"}, "request.headers[x-a]": {"*", "1", "1,2", "1*", "*2", "*,2", "1,*"}, "request.auth.claims[a]": {"b", "*", "c*"}, "request.auth.claims[n][m]": {"b", "*d"},
		"request.auth.principal": tokenPrincipals, "request.auth.audiences": {"x", "*", "y*"}, "request.auth.presenter": {"p", "*"}, "nonsense": {"a"},
	}
	key := c.of("source.ip", "remote.ip", "destination.ip", "destination.port", "source.namespace", "source.principal",
		"source.serviceAccount", "connection.sni", "request.headers[x-a]", "request.headers[x-a]", "request.auth.claims[a]", "request.auth.claims[n][m]",
		"request.auth.principal", "request.auth.audiences", "request.auth.presenter", "nonsense")
	x := mesh.AuthzCondition{Key: key}
	for len(x.Values)+len(x.NotValues) == 0 {
		x.Values, x.NotValues = c.some(keys[key]...), c.some(keys[key]...)
	}
	return x
}

func (c chooser) policies() (list []*mesh.AuthorizationPolicy) {
	for range c.IntN(5) {
		p := &mesh.AuthorizationPolicy{Name: name(c.of("a", "ns"), "p"), Action: mesh.Action(c.IntN(2)), DryRun: c.IntN(4) == 0}
		if c.IntN(10) == 0 {
			p.Action, p.DryRun = mesh.ActionAudit, false
		}
		if c.IntN(20) == 0 {
			p.Invalid = "somehow"
		}
		for range c.IntN(4) {
			var r mesh.AuthzRule
			for range c.IntN(3) {
				r.From = append(r.From, c.source())
			}
			for range c.IntN(3) {
				r.To = append(r.To, c.operation())
			}
			for range c.IntN(3) * c.IntN(2) {
				r.When = append(r.When, c.condition())
			}
			p.Rules = append(p.Rules, r)
		}
		list = append(list, p)
	}
	return list
}

func (c chooser) request() *mesh.Request {
	r := &mesh.Request{
		Method: c.of("GET", "POST", "PUT", ""), Path: c.of("/", "/a", "/a/", "/a/b", "/a/c/b", "//b", "/b", ""),
		Authority: c.of("a.b", "A.b:80", "c.b.", ""), Destination: netip.MustParseAddrPort(c.of("10.96.0.1:80", "10.96.0.1:9080", "[fd00::1]:80")),
	}
	r.Host, _, _ = strings.Cut(strings.ToLower(r.Authority), ":")
	if c.IntN(5) > 0 {
		id := mesh.Identity{TrustDomain: c.of("td", "other"), Namespace: c.of("a", "b", "ab", "aab"), ServiceAccount: c.of("x", "y")}
		r.Peer = mesh.Peer{Identity: id, Principal: id.Principal()}
	}
	r.Peer.Addr = netip.MustParseAddrPort(c.of("10.0.0.1:1", "10.1.0.1:1", "192.0.2.9:1", "[::1]:1"))
	r.Token = c.token()
	for range c.IntN(3) {
		r.Fields.Add(c.of("x-a", "x-a", "x-b"), c.of("1", "2", ""))
	}
	return r
}

func sameL7(t *testing.T, c chooser, requests int) {
	t.Helper()
	list := c.policies()
	l := CompileL7(list)
	for range requests {
		r := c.request()
		allowed, dry := naive(list, r)
		got := l.Decide(r)
		if got.Allowed != allowed || got.DryRun.Denied != dry {
			for _, p := range list {
				t.Logf("%+v", *p)
			}
			t.Fatalf("%+v:\n got %+v\nwant allowed %v, dry run denied %v", *r, got, allowed, dry)
		}
		// Passing a connection through must never be laxer than looking at its request.
		f := L4Facts{Peer: r.Peer.Identity, Principal: r.Peer.Principal, Source: r.Peer.Addr.Addr(), Destination: r.Destination}
		if v := l.DecideL4(f); v.Allowed && !allowed {
			for _, p := range list {
				t.Logf("%+v", *p)
			}
			t.Fatalf("%+v: refused with the request, but %+v without", *r, v)
		}
	}
}

func TestL7AgainstNaive(t *testing.T) {
	for seed := range uint64(1000) {
		sameL7(t, chooser{rand.New(rand.NewPCG(seed, 3))}, 40)
	}
}

func FuzzL7AgainstNaive(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		sameL7(t, chooser{rand.New(rand.NewPCG(seed, 4))}, 20)
	})
}

// naiveL4 evaluates a policy as ztunnel's documentation tells it.
func naiveL4(p *mesh.L4Policy, f L4Facts) bool {
	str := func(s mesh.L4String, v string) bool {
		switch s.Kind {
		case mesh.L4Exact:
			return v == s.Value
		case mesh.L4Prefix:
			return strings.HasPrefix(v, s.Value)
		case mesh.L4Suffix:
			return strings.HasSuffix(v, s.Value)
		}
		return v != ""
	}
	match := func(m mesh.L4Match) bool {
		if emptyMatch(&m) {
			return false
		}
		id := f.Peer
		return lists(m.Principals, m.NotPrincipals, func(s mesh.L4String) bool { return !id.IsZero() && str(s, id.Principal()) }) &&
			lists(m.Namespaces, m.NotNamespaces, func(s mesh.L4String) bool { return str(s, id.Namespace) }) &&
			lists(m.ServiceAccounts, m.NotServiceAccounts, func(n mesh.Name) bool { return !id.IsZero() && n == name(id.Namespace, id.ServiceAccount) }) &&
			lists(m.SourceIPs, m.NotSourceIPs, func(p netip.Prefix) bool { return p.Contains(f.Source) }) &&
			lists(m.DestinationIPs, m.NotDestinationIPs, func(p netip.Prefix) bool { return p.Contains(f.Destination.Addr()) }) &&
			lists(m.DestinationPorts, m.NotDestinationPorts, func(n uint16) bool { return n == f.Destination.Port() })
	}
	return anyOf(p.Rules, func(clauses [][]mesh.L4Match) bool {
		for _, matches := range clauses {
			if len(matches) > 0 && !anyOf(matches, match) {
				return false
			}
		}
		return true
	})
}

func (c chooser) l4Match() mesh.L4Match {
	names := func() (out []mesh.Name) {
		for _, s := range c.some(accounts...) {
			out = append(out, parseKey(s))
		}
		return out
	}
	return mesh.L4Match{
		Namespaces: l4Strings(c.some(namespaces...)), NotNamespaces: l4Strings(c.some(namespaces...)),
		Principals: l4Strings(c.some(principals...)), NotPrincipals: l4Strings(c.some(principals...)),
		ServiceAccounts: names(), NotServiceAccounts: names(),
		SourceIPs: c.ranges(), NotSourceIPs: c.ranges(), DestinationIPs: c.ranges(), NotDestinationIPs: c.ranges(),
		DestinationPorts: c.ports(), NotDestinationPorts: c.ports(),
	}
}

func TestL4AgainstNaive(t *testing.T) {
	for seed := range uint64(1000) {
		c := chooser{rand.New(rand.NewPCG(seed, 5))}
		var list []*mesh.L4Policy
		for i := range c.IntN(4) {
			p := &mesh.L4Policy{Name: name("x", strconv.Itoa(i)), Action: mesh.Action(c.IntN(2))}
			for range c.IntN(3) {
				rule := [][]mesh.L4Match{}
				for range c.IntN(3) {
					clause := []mesh.L4Match{}
					for range c.IntN(3) {
						clause = append(clause, c.l4Match())
					}
					rule = append(rule, clause)
				}
				p.Rules = append(p.Rules, rule)
			}
			list = append(list, p)
		}
		l := compileAll(nil, list...)
		for range 30 {
			r := c.request()
			f := L4Facts{Peer: r.Peer.Identity, Source: r.Peer.Addr.Addr(), Destination: r.Destination}
			denied, allows, allowed := false, false, false
			for _, p := range list {
				hit := naiveL4(p, f)
				denied = denied || hit && p.Action == mesh.ActionDeny
				allows = allows || p.Action == mesh.ActionAllow
				allowed = allowed || hit && p.Action == mesh.ActionAllow
			}
			if want, got := !denied && (!allows || allowed), l.Decide(f); got.Allowed != want {
				for _, p := range list {
					t.Logf("%+v", *p)
				}
				t.Fatalf("seed %d, %+v: %+v, want allowed %v", seed, f, got, want)
			}
		}
	}
}

// FuzzCompile feeds what users write: nothing may panic, an invalid value may
// never make an ALLOW policy wider, and the matchers agree with the specification.
func FuzzCompile(f *testing.F) {
	f.Add("request.headers[x-a]", "*a*", "/a/{*}/b", "a.b:80", "/a/b/c", "A.B")
	f.Add("source.ip", "10.0.0.0/33", "/{**}", "*", "", "")
	f.Fuzz(func(t *testing.T, key, value, pathP, hostP, reqPath, reqHost string) {
		r := &mesh.Request{Method: value, Path: reqPath, Authority: reqHost, Host: reqHost, Fields: mesh.Fields{{Name: "x-a", Value: reqPath}, {Name: "x-a", Value: reqHost}}}
		rule := mesh.AuthzRule{
			From: []mesh.AuthzSource{{ServiceAccounts: []string{value}, Namespaces: []string{value}}},
			To:   []mesh.AuthzOperation{{Paths: []string{pathP}, Hosts: []string{hostP}}},
			When: []mesh.AuthzCondition{{Key: key, Values: []string{value}}},
		}
		for _, a := range []mesh.Action{mesh.ActionAllow, mesh.ActionDeny} {
			l := CompileL7([]*mesh.AuthorizationPolicy{policyOf(a, rule)})
			l.Decide(r)
			l.DecideL4(L4Facts{})
		}
		if isTemplate(pathP) {
			if tpl, err := parseTemplate(pathP); err == nil && validUTF8(pathP, reqPath) {
				if got, want := tpl.match(reqPath), pathPattern(pathP).MatchString(reqPath); got != want {
					t.Fatalf("template %q on %q = %v, want %v", pathP, reqPath, got, want)
				}
			}
		}
		if validUTF8(value, reqPath, reqHost) {
			set := parseTexts([]string{value})
			if got, want := set.match(reqPath), pattern(value).MatchString(reqPath); got != want {
				t.Fatalf("pattern %q on %q = %v, want %v", value, reqPath, got, want)
			}
			if both := reqPath + "," + reqHost; value != "*" {
				if got, want := set.matchJoined(r.Fields, "x-a"), pattern(value).MatchString(both); got != want {
					t.Fatalf("pattern %q on lines %q and %q = %v, want %v", value, reqPath, reqHost, got, want)
				}
			}
		}
	})
}

func validUTF8(list ...string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return strings.ToValidUTF8(s, "") != s })
}
