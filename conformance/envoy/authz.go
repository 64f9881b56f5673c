package envoy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Authz is an AuthorizationPolicy, as far as the translation reads it.
type Authz struct {
	Metadata struct {
		Name, Namespace string
		Annotations     map[string]string
	}
	Spec struct {
		Action     string
		TargetRefs []struct{ Group, Kind, Name string }
		Rules      []AuthzRule
	}
}

// AuthzRule is one of its rules.
type AuthzRule struct {
	From []struct{ Source map[string][]string }
	To   []struct{ Operation map[string][]string }
	When []struct {
		Key               string
		Values, NotValues []string
	}
}

// RBACFilters are the filters that istiod makes of policies for one port: one for each action, in the order
// in which they count. What is in dry run becomes shadow rules, which decide nothing; shadow begins the names of
// the statistics that they count in. For TCP the filters are those of connections: of a DENY rule what
// only a request has is left out, an ALLOW rule with such is left out itself.
func RBACFilters(policies []Authz, tcp bool, shadow string) List {
	var out list
	for _, action := range [...]struct{ of, envoy string }{{"AUDIT", "LOG"}, {"DENY", "DENY"}, {"ALLOW", "ALLOW"}} {
		rules, dry := object{}, object{}
		some, someDry := false, false
		for i := range policies {
			p := &policies[i]
			if cmp.Or(p.Spec.Action, "ALLOW") != action.of {
				continue
			}
			into := rules
			if p.Metadata.Annotations["istio.io/dry-run"] == "true" {
				into, someDry = dry, true
			} else {
				some = true
			}
			for n := range p.Spec.Rules {
				t := authzRule{tcp: tcp, lossy: action.of != "ALLOW"}
				if policy, ok := t.policy(&p.Spec.Rules[n]); ok {
					into[fmt.Sprintf("ns[%s]-policy[%s]-rule[%d]", p.Metadata.Namespace, p.Metadata.Name, n)] = policy
				}
			}
		}
		config := object{}
		if some {
			config["rules"] = object{"action": action.envoy, "policies": rules}
		}
		if someDry {
			config["shadow_rules"] = object{"action": action.envoy, "policies": dry}
			config["shadow_rules_stat_prefix"] = shadow
		}
		switch {
		case len(config) == 0:
		case tcp:
			config["stat_prefix"] = "tcp."
			out = append(out, named("envoy.filters.network.rbac", "envoy.extensions.filters.network.rbac.v3.RBAC", config))
		default:
			out = append(out, named("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC", config))
		}
	}
	return out
}

// authzRule makes one policy of Envoy's.
type authzRule struct {
	tcp, lossy bool
	lost       bool // something is not known here
}

func (t *authzRule) policy(r *AuthzRule) (object, bool) {
	var permissions, ids list
	var to, from list
	for _, o := range r.To {
		to = append(to, conjunction("and_rules", "rules", t.fields(o.Operation, permission, "or_rules", "rules", "not_rule")))
	}
	for _, f := range r.From {
		from = append(from, conjunction("and_ids", "ids", t.fields(f.Source, principal, "or_ids", "ids", "not_id")))
	}
	if to != nil {
		permissions = append(permissions, object{"or_rules": object{"rules": to}})
	}
	if from != nil {
		ids = append(ids, object{"or_ids": object{"ids": from}})
	}
	for _, c := range r.When {
		lists := map[string][]string{c.Key: c.Values, "not" + c.Key: c.NotValues}
		if strings.HasPrefix(c.Key, "destination.") {
			permissions = append(permissions, t.fields(lists, permission, "or_rules", "rules", "not_rule")...)
		} else {
			ids = append(ids, t.fields(lists, principal, "or_ids", "ids", "not_id")...)
		}
	}
	return object{
		"permissions": list{conjunction("and_rules", "rules", permissions)},
		"principals":  list{conjunction("and_ids", "ids", ids)},
	}, t.lossy || !t.lost
}

// conjunction is all of a list; of nothing it is everything.
func conjunction(and, of string, all list) object {
	if len(all) == 0 {
		return object{"any": true}
	}
	return object{and: object{of: all}}
}

// fields are the predicates of lists by their names; a name that begins with "not" is a list's not-form.
func (t *authzRule) fields(lists map[string][]string, one func(field, value string, tcp bool) object, or, of, not string) (out list) {
	for field, values := range lists {
		negative := strings.HasPrefix(field, "not")
		if rest, ok := strings.CutPrefix(field, "not"); ok {
			field = strings.ToLower(rest[:1]) + rest[1:]
		}
		var some list
		for _, v := range values {
			o := one(field, v, t.tcp)
			if o == nil {
				t.lost = true
				continue
			}
			some = append(some, o)
		}
		switch {
		case some == nil:
		case negative:
			out = append(out, object{not: object{or: object{of: some}}})
		default:
			out = append(out, object{or: object{of: some}})
		}
	}
	return out
}

// permission is an attribute of what is asked for; nil where it is not known.
func permission(field, v string, tcp bool) object {
	switch field {
	case "ports", "destination.port":
		n, _ := strconv.Atoi(v)
		return object{"destination_port": n}
	case "destination.ip":
		return object{"destination_ip": cidr(v)}
	}
	if tcp {
		return nil
	}
	switch field {
	case "methods":
		return object{"header": headerMatch(":method", v, false)}
	case "hosts":
		return object{"header": headerMatch(":authority", v, true)}
	case "paths":
		if strings.Contains(v, "{*}") || strings.Contains(v, "{**}") {
			return object{"uri_template": named("uri-template", "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", object{
				"path_template": strings.NewReplacer("{*}", "*", "{**}", "**").Replace(v),
			})}
		}
		return object{"url_path": object{"path": istioMatch("", v)}}
	}
	return nil
}

// principal is an attribute of who asks, or of the request beside what it asks for; nil where it is not known.
func principal(field, v string, tcp bool) object {
	peer := func(match object) object {
		return object{"filter_state": object{"key": "io.istio.peer_principal", "string_match": match}}
	}
	regex := func(pattern string) object { return object{"safe_regex": object{"regex": pattern}} }
	switch field {
	case "principals", "source.principal":
		return peer(istioMatch("spiffe://", v))
	case "namespaces", "source.namespace":
		return peer(regex(".*/ns/" + strings.ReplaceAll(v, "*", ".*") + "/.*"))
	case "serviceAccounts", "source.serviceAccount":
		ns, name, _ := strings.Cut(v, "/")
		return peer(regex("spiffe://[^/]*/ns/" + ns + "/sa/" + name))
	case "ipBlocks", "source.ip", "remoteIpBlocks", "remote.ip":
		// The direct address of a connection to an internal listener is no address: what connect_terminate
		// handed over is the remote one.
		return object{"remote_ip": cidr(v)}
	}
	if tcp {
		return nil
	}
	switch {
	case field == "requestPrincipals" || field == "request.auth.principal":
		iss, sub := "*", v
		if i := strings.LastIndexByte(v, '/'); i >= 0 {
			iss, sub = v[:i], v[i+1:]
		}
		return object{"and_ids": object{"ids": list{claimMatch("iss", iss), claimMatch("sub", sub)}}}
	case strings.HasPrefix(field, "request.auth.claims["):
		return claimMatch(strings.TrimSuffix(strings.TrimPrefix(field, "request.auth.claims["), "]"), v)
	}
	if name, ok := strings.CutPrefix(field, "request.headers["); ok {
		return object{"header": headerMatch(strings.TrimSuffix(name, "]"), v, false)}
	}
	return nil
}

// claimMatch is a claim of the token, "a][b" for one inside another: the text, or one of the list.
func claimMatch(claim, v string) object {
	path := list{object{"key": "payload"}}
	for key := range strings.SplitSeq(claim, "][") {
		path = append(path, object{"key": key})
	}
	is := func(value object) object {
		return object{"metadata": object{"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}}
	}
	text := object{"string_match": istioMatch("", v)}
	return object{"or_ids": object{"ids": list{is(text), is(object{"list_match": object{"one_of": text}})}}}
}

func headerMatch(name, v string, fold bool) object {
	if v == "*" {
		return object{"name": name, "present_match": true}
	}
	match := istioMatch("", v)
	if fold {
		match["ignore_case"] = true
	}
	return object{"name": name, "string_match": match}
}

// istioMatch is Istio's pattern over a text that begins with before.
func istioMatch(before, v string) object {
	switch {
	case v == "*":
		return object{"safe_regex": object{"regex": ".+"}}
	case strings.HasPrefix(v, "*"):
		return object{"suffix": v[1:]}
	case strings.HasSuffix(v, "*"):
		return object{"prefix": before + v[:len(v)-1]}
	}
	return object{"exact": before + v}
}

func cidr(v string) object {
	p, err := netip.ParsePrefix(v)
	if err != nil {
		a, _ := netip.ParseAddr(v)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return object{"address_prefix": p.Addr().String(), "prefix_len": p.Bits()}
}
