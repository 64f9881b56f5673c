package policy

import (
	"net/netip"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// L7 is the compiled set of policies attached to one service, or to a waypoint.
// The zero L7 allows everything; a nil *L7 refuses everything.
type L7 struct {
	set set
	l4  L4
}

// CompileL7 compiles policies, which all apply: AttachedTo chooses them. Of
// patterns with "*" a leading star is a suffix, a trailing one a prefix, "*"
// alone presence. Paths may be templates of {*} and {**}.
func CompileL7(policies []*mesh.AuthorizationPolicy) *L7 {
	l := &L7{}
	for _, p := range policies {
		l.l4.addAuthorization(p, "")
		if p.Invalid != "" {
			c := compiled{name: p.Name, reason: reasonInvalid, rules: []rule{{details: details(p.Name, 0)}}}
			l.set.add(c, mesh.ActionDeny, p.DryRun)
			continue
		}
		c := compiled{name: p.Name, reason: actionReason(p.Action)}
		for i := range p.Rules {
			b := l7Builder{deny: p.Action == mesh.ActionDeny, namespace: p.Name.Namespace}
			if r, ok := b.rule(&p.Rules[i]); ok {
				r.index, r.details = i, details(p.Name, i)
				c.rules = append(c.rules, r)
			}
		}
		l.set.add(c, p.Action, p.DryRun)
	}
	return l
}

// Empty reports whether there is nothing to enforce.
func (l *L7) Empty() bool { return l != nil && l.set.empty() }

// Decide decides about a request. It allocates only when r.Peer has an identity
// but no Principal.
func (l *L7) Decide(r *mesh.Request) Verdict {
	if l == nil {
		return Verdict{Rule: -1, Reason: reasonNotCompiled, Details: detailsNotCompiled, DryRun: DryRun{Rule: -1}}
	}
	f := facts{
		peer: r.Peer.Identity, principal: r.Peer.Principal, source: normal(r.Peer.Addr.Addr()),
		destination: netip.AddrPortFrom(normal(r.Destination.Addr()), r.Destination.Port()), request: r,
	}
	if f.principal == "" {
		f.principal = f.peer.Principal()
	}
	return l.set.decide(&f)
}

// DecideL4 decides about a connection that is passed through unopened: an ALLOW
// rule that looks at the request never matches, and a DENY rule refuses without
// looking at it.
func (l *L7) DecideL4(in L4Facts) Verdict {
	if l == nil {
		return (*L4)(nil).Decide(in)
	}
	return l.l4.Decide(in)
}

// l7Builder compiles one rule.
type l7Builder struct {
	deny      bool
	namespace string // of the policy
	checks    alternative
	// broken is set when a part of the source, operation or condition cannot be evaluated.
	broken bool
}

// rule returns false for a rule that never matches.
func (b *l7Builder) rule(r *mesh.AuthzRule) (rule, bool) {
	var out rule
	add := func(n int, each func(i int)) bool {
		if n == 0 {
			return true
		}
		var c clause
		always := false
		for i := range n {
			b.checks, b.broken = nil, false
			each(i)
			if !b.deny && (b.broken || len(b.checks) == 0) {
				return false
			}
			always = always || len(b.checks) == 0
			c = append(c, b.checks)
		}
		if !always {
			out.clauses = append(out.clauses, c)
		}
		return true
	}
	ok := add(len(r.To), func(i int) { b.operation(&r.To[i]) }) &&
		add(len(r.From), func(i int) { b.source(&r.From[i]) })
	for i := 0; ok && i < len(r.When); i++ {
		ok = add(1, func(int) { b.condition(&r.When[i]) })
	}
	return out, ok
}

func (b *l7Builder) operation(o *mesh.AuthzOperation) {
	b.ports(o.Ports, false)
	b.ports(o.NotPorts, true)
	b.texts(attrMethod, o.Methods, false)
	b.texts(attrMethod, o.NotMethods, true)
	b.paths(o.Paths, false)
	b.paths(o.NotPaths, true)
	b.hosts(o.Hosts, false)
	b.hosts(o.NotHosts, true)
}

// source compiles a source. Remote addresses are the peer's: what a client
// writes into X-Forwarded-For is not believed.
func (b *l7Builder) source(s *mesh.AuthzSource) {
	b.globs(s.Namespaces, false)
	b.globs(s.NotNamespaces, true)
	b.accounts(s.ServiceAccounts, false)
	b.accounts(s.NotServiceAccounts, true)
	b.texts(attrPrincipal, s.Principals, false)
	b.texts(attrPrincipal, s.NotPrincipals, true)
	b.ranges(s.IPBlocks, false)
	b.ranges(s.NotIPBlocks, true)
	b.ranges(s.RemoteIPBlocks, false)
	b.ranges(s.NotRemoteIPBlocks, true)
	if len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0 {
		b.broken = true
	}
}

func (b *l7Builder) condition(c *mesh.AuthzCondition) {
	b.values(c.Key, c.Values, false)
	b.values(c.Key, c.NotValues, true)
}

func (b *l7Builder) values(key string, values []string, not bool) {
	if name, ok := headerKey(key); ok {
		if name == "" || name == ":path" || name == ":scheme" {
			b.broken = true
		} else if len(values) > 0 {
			b.checks = append(b.checks, check{attr: attrHeader, not: not, texts: parseTexts(values), header: name})
		}
		return
	}
	switch key {
	case "source.ip", "remote.ip":
		p, ok := parsePrefixes(values)
		b.addRanges(attrSourceIP, p, ok, not)
	case "destination.ip":
		p, ok := parsePrefixes(values)
		b.addRanges(attrDestinationIP, p, ok, not)
	case "destination.port":
		p, ok := parsePorts(values)
		b.broken = b.broken || !ok
		b.ports(p, not)
	case "source.namespace":
		b.globs(values, not)
	case "source.principal":
		b.texts(attrPrincipal, values, not)
	case "source.serviceAccount":
		b.accounts(values, not)
	case "connection.sni":
		b.texts(attrSNI, values, not)
	default:
		b.broken = true
	}
}

// headerKey returns NAME, in lower case, of "request.headers[NAME]".
func headerKey(key string) (string, bool) {
	name, ok := strings.CutPrefix(key, "request.headers[")
	if !ok {
		return "", false
	}
	if name, ok = strings.CutSuffix(name, "]"); !ok {
		return "", true
	}
	return strings.ToLower(name), true
}

func (b *l7Builder) texts(attr attribute, list []string, not bool) {
	if len(list) > 0 {
		b.checks = append(b.checks, check{attr: attr, not: not, texts: parseTexts(list)})
	}
}

func (b *l7Builder) globs(list []string, not bool) {
	if len(list) > 0 {
		b.checks = append(b.checks, check{attr: attrNamespace, not: not, texts: parseGlobs(list)})
	}
}

func (b *l7Builder) hosts(list []string, not bool) {
	if len(list) > 0 {
		b.checks = append(b.checks, check{attr: attrHost, not: not, fold: parseFold(list)})
	}
}

func (b *l7Builder) ports(list []uint16, not bool) {
	if len(list) > 0 {
		b.checks = append(b.checks, check{attr: attrDestinationPort, not: not, ports: list})
	}
}

func (b *l7Builder) accounts(list []string, not bool) {
	names, ok := parseAccounts(list, b.namespace)
	if !ok {
		b.broken = true
	} else if len(names) > 0 {
		b.checks = append(b.checks, check{attr: attrServiceAccount, not: not, names: names})
	}
}

func (b *l7Builder) ranges(list []netip.Prefix, not bool) {
	p, ok := prefixes(list)
	b.addRanges(attrSourceIP, p, ok, not)
}

func (b *l7Builder) addRanges(attr attribute, list []netip.Prefix, ok, not bool) {
	if !ok {
		b.broken = true
	} else if len(list) > 0 {
		b.checks = append(b.checks, check{attr: attr, not: not, prefixes: list})
	}
}

func (b *l7Builder) paths(list []string, not bool) {
	if len(list) == 0 {
		return
	}
	c := check{attr: attrPath, not: not, texts: &texts{}}
	for _, s := range list {
		if !isTemplate(s) {
			c.texts.add(parseText(s))
			continue
		}
		t, err := parseTemplate(s)
		if err != nil {
			b.broken = true
			return
		}
		c.templates = append(c.templates, t)
	}
	b.checks = append(b.checks, c)
}
