package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// l7Builder compiles one rule.
type l7Builder struct {
	deny      bool
	namespace string // of the policy
	trusted   uint8  // proxies before the waypoint
	checks    alternative
	// at is the path of what is being compiled, for check.field.
	at string
	// broken is what of the source, operation or condition cannot be evaluated; "" for nothing.
	broken string
}

// fail notes that field cannot be evaluated.
func (b *l7Builder) fail(field string) {
	if b.broken == "" {
		b.broken = b.at + field + " cannot be evaluated"
	}
}

func (b *l7Builder) add(c check, field string) {
	c.field = b.at + field
	b.checks = append(b.checks, c)
}

// rule returns false for a rule that never matches, and says why.
func (b *l7Builder) rule(r *mesh.AuthzRule) (rule, bool) {
	var out rule
	add := func(n int, path string, each func(i int)) bool { // path has the number in place of "#"
		if n == 0 {
			return true
		}
		var c clause
		always := false
		for i := range n {
			b.checks, b.broken, b.at = nil, "", strings.Replace(path, "#", strconv.Itoa(i), 1)
			each(i)
			if !b.deny && (b.broken != "" || len(b.checks) == 0) {
				if out.never = b.broken; out.never == "" {
					out.never = b.at + " says nothing"
				}
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
	ok := add(len(r.To), "to[#].operation.", func(i int) { b.operation(&r.To[i]) }) &&
		add(len(r.From), "from[#].source.", func(i int) { b.source(&r.From[i]) })
	for i := 0; ok && i < len(r.When); i++ {
		ok = add(1, "when.", func(int) { b.condition(&r.When[i]) })
	}
	return out, ok
}

func (b *l7Builder) operation(o *mesh.AuthzOperation) {
	b.ports(o.Ports, "ports", false)
	b.ports(o.NotPorts, "notPorts", true)
	b.texts(attrMethod, o.Methods, "methods", false)
	b.texts(attrMethod, o.NotMethods, "notMethods", true)
	b.paths(o.Paths, "paths", false)
	b.paths(o.NotPaths, "notPaths", true)
	b.hosts(o.Hosts, "hosts", false)
	b.hosts(o.NotHosts, "notHosts", true)
}

// source compiles a source. Remote addresses are the peer's, unless there are proxies whose
// X-Forwarded-For is to be believed: see remoteAddr.
func (b *l7Builder) source(s *mesh.AuthzSource) {
	b.globs(s.Namespaces, "namespaces", false)
	b.globs(s.NotNamespaces, "notNamespaces", true)
	b.accounts(s.ServiceAccounts, "serviceAccounts", false)
	b.accounts(s.NotServiceAccounts, "notServiceAccounts", true)
	b.texts(attrPrincipal, s.Principals, "principals", false)
	b.texts(attrPrincipal, s.NotPrincipals, "notPrincipals", true)
	b.texts(attrTrustDomain, s.TrustDomains, "trustDomains", false)
	b.texts(attrTrustDomain, s.NotTrustDomains, "notTrustDomains", true)
	b.ranges(attrSourceIP, s.IPBlocks, "ipBlocks", false)
	b.ranges(attrSourceIP, s.NotIPBlocks, "notIpBlocks", true)
	b.ranges(attrRemoteIP, s.RemoteIPBlocks, "remoteIpBlocks", false)
	b.ranges(attrRemoteIP, s.NotRemoteIPBlocks, "notRemoteIpBlocks", true)
	b.texts(attrRequestPrincipal, s.RequestPrincipals, "requestPrincipals", false)
	b.texts(attrRequestPrincipal, s.NotRequestPrincipals, "notRequestPrincipals", true)
}

func (b *l7Builder) condition(c *mesh.AuthzCondition) {
	b.values(c.Key, c.Values, c.Key, false)
	b.values(c.Key, c.NotValues, c.Key+" notValues", true)
}

func (b *l7Builder) values(key string, values []string, field string, not bool) {
	if names, ok := bracketed(key, "request.headers"); ok {
		if len(names) != 1 || names[0] == "" || names[0] == ":path" || names[0] == ":scheme" {
			b.fail(field)
		} else if len(values) > 0 {
			b.add(check{attr: attrHeader, not: not, texts: parseTexts(values), header: strings.ToLower(names[0]), every: b.deny != not}, field)
		}
		return
	}
	if names, ok := bracketed(key, "request.auth.claims"); ok {
		if slices.Contains(names, "") || len(names) == 0 {
			b.fail(field)
		} else if len(values) > 0 {
			b.add(check{attr: attrClaim, not: not, texts: parseTexts(values), claim: names}, field)
		}
		return
	}
	switch key {
	case "source.ip":
		p, ok := parsePrefixes(values)
		b.addRanges(attrSourceIP, p, ok, field, not)
	case "remote.ip":
		p, ok := parsePrefixes(values)
		b.addRanges(attrRemoteIP, p, ok, field, not)
	case "destination.ip":
		p, ok := parsePrefixes(values)
		b.addRanges(attrDestinationIP, p, ok, field, not)
	case "destination.port":
		p, ok := parsePorts(values)
		if !ok {
			b.fail(field)
		}
		b.ports(p, field, not)
	case "source.namespace":
		b.globs(values, field, not)
	case "source.principal":
		b.texts(attrPrincipal, values, field, not)
	case "source.serviceAccount":
		b.accounts(values, field, not)
	case "connection.sni":
		b.texts(attrSNI, values, field, not)
	case "request.auth.principal":
		b.texts(attrRequestPrincipal, values, field, not)
	case "request.auth.audiences":
		b.texts(attrAudience, values, field, not)
	case "request.auth.presenter":
		b.texts(attrPresenter, values, field, not)
	default:
		b.fail(field)
	}
}

// bracketed returns a and b of "prefix[a][b]", and nil where the rest is not of that form; false
// for another prefix.
func bracketed(key, prefix string) (names []string, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok || !strings.HasPrefix(rest, "[") {
		return nil, false
	}
	rest, closed := strings.CutSuffix(rest[1:], "]")
	if !closed {
		return nil, true
	}
	names = strings.Split(rest, "][")
	if slices.ContainsFunc(names, func(n string) bool { return strings.ContainsAny(n, "[]") }) {
		return nil, true
	}
	return names, true
}

func (b *l7Builder) texts(attr attribute, list []string, field string, not bool) {
	if len(list) > 0 {
		b.add(check{attr: attr, not: not, texts: parseTexts(list)}, field)
	}
}

func (b *l7Builder) globs(list []string, field string, not bool) {
	if len(list) > 0 {
		b.add(check{attr: attrNamespace, not: not, texts: parseGlobs(list)}, field)
	}
}

func (b *l7Builder) hosts(list []string, field string, not bool) {
	if len(list) > 0 {
		b.add(check{attr: attrHost, not: not, fold: parseFold(list)}, field)
	}
}

func (b *l7Builder) ports(list []uint16, field string, not bool) {
	if len(list) > 0 {
		b.add(check{attr: attrDestinationPort, not: not, ports: list}, field)
	}
}

func (b *l7Builder) accounts(list []string, field string, not bool) {
	names, ok := parseAccounts(list, b.namespace)
	if !ok {
		b.fail(field)
	} else if len(names) > 0 {
		b.add(check{attr: attrServiceAccount, not: not, names: newNameSet(names)}, field)
	}
}

func (b *l7Builder) ranges(attr attribute, list []netip.Prefix, field string, not bool) {
	p, ok := prefixes(list)
	b.addRanges(attr, p, ok, field, not)
}

func (b *l7Builder) addRanges(attr attribute, list []netip.Prefix, ok bool, field string, not bool) {
	if !ok {
		b.fail(field)
	} else if len(list) > 0 {
		b.add(check{attr: attr, not: not, prefixes: newIPSet(list), trusted: b.trusted}, field)
	}
}

func (b *l7Builder) paths(list []string, field string, not bool) {
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
			b.fail(field)
			return
		}
		c.templates = append(c.templates, t)
	}
	c.texts.done()
	b.add(c, field)
}
