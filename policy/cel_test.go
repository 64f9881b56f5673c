package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"cairnproxy.dev/cairn/mesh"
	"cel.dev/cel-go/cel"
)

// plainEnv is cel-go as it comes: no bounds, no matchers of ours, plain maps.
var plainEnv = sync.OnceValue(func() *cel.Env {
	var opts []cel.EnvOption
	for _, s := range []string{"request.url_path", "request.path", "request.method", "request.host", "source.principal", "source.namespace", "source.trust_domain", "source.service_account", "host"} {
		opts = append(opts, cel.Variable(s, cel.StringType))
	}
	env, err := cel.NewEnv(append(opts, cel.OptionalTypes(), cel.Variable("destination.port", cel.IntType), cel.Variable("connection.mtls", cel.BoolType),
		cel.Variable("request.headers", cel.MapType(cel.StringType, cel.StringType)), cel.Variable("jwt.claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("token", cel.MapType(cel.StringType, cel.ListType(cel.StringType))))...)
	if err != nil {
		panic(err)
	}
	return env
})

var plainPrograms sync.Map // of texts

// plain evaluates text over r.
func plain(t *testing.T, text string, r *mesh.Request) (result, failed bool) {
	t.Helper()
	p, ok := plainPrograms.Load(text)
	if !ok {
		ast, issues := plainEnv().Compile(text)
		if issues.Err() != nil {
			t.Fatalf("%s: %v", text, issues.Err())
		}
		prog, err := plainEnv().Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		p = prog
		plainPrograms.Store(text, p)
	}
	headers := map[string]string{":method": r.Method, ":authority": r.Authority, "host": r.Authority}
	for _, f := range r.Fields {
		if v, ok := headers[f.Name]; ok {
			headers[f.Name] = v + "," + f.Value
		} else {
			headers[f.Name] = f.Value
		}
	}
	path, claims, token := r.Path, map[string]any{}, map[string][]string{}
	if r.HasQuery {
		path += "?" + r.Query
	}
	if r.Token != nil {
		claims = r.Token.Claims
	}
	for _, key := range []string{"request.auth.principal", "request.auth.presenter", "request.auth.audiences", "request.auth.claims[a]", "request.auth.claims[n][m]"} {
		token[key] = tokenTexts(r.Token, key)
	}
	token["lines"] = []string{}
	for _, f := range r.Fields {
		if f.Name == "x-a" {
			token["lines"] = append(token["lines"], f.Value)
		}
	}
	id := r.Peer.Identity
	v, _, err := p.(cel.Program).Eval(map[string]any{
		"request.url_path": r.Path, "request.path": path, "request.method": r.Method, "request.host": r.Authority, "request.headers": headers, "host": r.Host,
		"source.principal": r.Peer.Principal, "source.namespace": id.Namespace, "source.trust_domain": id.TrustDomain, "source.service_account": id.ServiceAccount,
		"destination.port": int64(r.Destination.Port()), "connection.mtls": !id.IsZero(), "jwt.claims": claims, "token": token,
	})
	if err != nil {
		return false, true
	}
	b, ok := v.Value().(bool)
	return b, !ok
}

// condition is a random expression, of what has native matchers, what has an index, and what has neither.
func (c chooser) expression(depth int) string {
	if depth > 0 && c.IntN(2) == 0 {
		a, b := c.expression(depth-1), c.expression(depth-1)
		return []string{a + " && " + b, "(" + a + " || " + b + ")", "!(" + a + ")", "(" + a + " ? " + b + " : " + a + ")", a + " && " + b}[c.IntN(5)]
	}
	list := func(values ...string) string { return "['" + c.of(values...) + "', '" + c.of(values...) + "']" }
	path := []string{"/", "/a", "/a/b", "/a?x=1", "/b", ""}
	return []string{
		"source.principal == 'td/ns/" + c.of("a", "b") + "/sa/x'", "source.principal in " + list("td/ns/a/sa/x", "td/ns/b/sa/y", "", "odd"), "source.principal.endsWith('/sa/x')",
		"source.namespace == '" + c.of("a", "b", "") + "'", "source.namespace in " + list("a", "ab"), "source.namespace != 'a'", "(source.namespace == 'a' || source.namespace == 'b')",
		"request.url_path == '" + c.of(path...) + "'", "request.url_path.startsWith('" + c.of(path...) + "')", "request.path.startsWith('" + c.of(path...) + "')", "request.path == '" + c.of(path...) + "'",
		"request.url_path in " + list(path...), "request.method == 'GET'", "request.method in " + list("GET", "PUT"), "request.headers['x-a'] == '" + c.of("1", "1,2") + "'", "'x-a' in request.headers",
		"request.headers['x-b'].contains('1')", "request.headers[?'x-a'].orValue('1') == '1'", "destination.port > 80", "connection.mtls", "source.trust_domain == 'td'",
		"jwt.claims.a == 'b'", "'cd' in jwt.claims.a", "has(jwt.claims.n)", "request.headers.exists(h, h.startsWith('x-'))", "request.method + source.namespace == 'GETa'", "request.host.matches('^[a-z.]+$')",
	}[c.IntN(27)]
}

// demand is a random condition by which rules are filed.
func (c chooser) demand() string {
	n := fmt.Sprint(c.IntN(3))
	return []string{
		"source.principal == 'td/ns/" + c.of("a", "b", "ab", n) + "/sa/" + c.of("x", "y") + "'", "source.namespace in ['a" + n + "', '" + c.of("a", "b", "ab", "aab") + "']",
		"request.url_path == '/" + c.of("", "a", "a/b", n) + "'", "request.path.startsWith('/" + c.of("", "a", "a/", "b", n) + "')", "request.url_path.startsWith('/" + c.of("a", "a/b", "a/c") + "')",
		"(request.url_path == '/a' || request.url_path.startsWith('/" + c.of("a/c", "b") + "'))",
	}[c.IntN(6)]
}

// sameAccess compares decisions about AccessPolicies, with their indexes, with what cel-go says of each
// rule by itself. It returns how many indexes there are.
func sameAccess(t *testing.T, c chooser, requests int) int {
	t.Helper()
	var list []*mesh.AccessPolicy
	many := 1 + c.IntN(4)
	filed := c.IntN(3) == 0
	if filed {
		many = 30
	}
	for i := range 1 + c.IntN(3) {
		p := access([]mesh.AccessMode{mesh.ModeEnforce, mesh.ModeEnforce, mesh.ModeDryRun, mesh.ModeAudit}[c.IntN(4)])
		p.Name.Name = fmt.Sprint(i)
		effect := mesh.AccessEffect(c.IntN(3))
		for range many {
			if c.IntN(4) == 0 {
				effect = mesh.AccessEffect(c.IntN(3))
			}
			when := c.expression(2)
			if filed && c.IntN(10) > 0 {
				when = c.demand() + " && " + c.expression(1)
			}
			p.Rules = append(p.Rules, mesh.AccessRule{Effect: effect, When: when})
		}
		list = append(list, p)
	}
	l := Compile(Attached{Access: list})
	for range requests {
		r := c.request()
		if c.IntN(3) == 0 {
			r.Query, r.HasQuery = "x=1", true
		}
		judge := func(list []*mesh.AccessPolicy) bool {
			allows, allowed, denied := false, false, false
			for _, p := range list {
				for _, rule := range p.Rules {
					ok, failed := plain(t, rule.When, r)
					switch rule.Effect {
					case mesh.AccessAllow:
						allows, allowed = true, allowed || ok
					case mesh.AccessDeny:
						denied = denied || ok || failed
					case mesh.AccessRequire:
						denied = denied || !ok
					}
				}
			}
			return !denied && (!allows || allowed)
		}
		var enforced []*mesh.AccessPolicy
		for _, p := range list {
			if p.Mode == mesh.ModeEnforce {
				enforced = append(enforced, p)
			}
		}
		want := judge(enforced)
		wrong := ""
		told := map[string]Outcome{}
		v := l.DecideAnd(Input{Req: r}, func(i int, o Outcome) { told[l.Watched()[i].Name.Name] = o })
		if v.Allowed != want {
			wrong = fmt.Sprintf("got %+v, want allowed %v", v, want)
		}
		for _, p := range list {
			if p.Mode != mesh.ModeDryRun {
				continue
			}
			o, spoke := told[p.Name.Name]
			alone := judge([]*mesh.AccessPolicy{p})
			if denies := spoke && (o == WouldDeny || o == AgreedDeny); denies == alone {
				wrong = fmt.Sprintf("%s in dry run: %v, %v, want allowed %v", p.Name, o, spoke, alone)
			}
		}
		if wrong != "" {
			for _, p := range list {
				t.Logf("%s %+v", p.Mode, p.Rules)
			}
			t.Fatalf("%+v, token %+v:\n%s", *r, r.Token, wrong)
		}
	}
	return l.set.indexes()
}

func (s *set) indexes() (n int) {
	for _, g := range s.groups() {
		if g.index != nil {
			n++
		}
	}
	return n
}

func TestAccessAgainstCEL(t *testing.T) {
	indexes := 0
	for seed := range uint64(200) {
		indexes += sameAccess(t, chooser{rand.New(rand.NewPCG(seed, 9))}, 30)
	}
	if indexes < 50 {
		t.Errorf("there were %d indexes", indexes)
	}
}

func FuzzAccessAgainstCEL(f *testing.F) {
	f.Add(uint64(1), uint64(1))
	f.Fuzz(func(t *testing.T, seed, stream uint64) {
		sameAccess(t, chooser{rand.New(rand.NewPCG(seed, stream))}, 10)
	})
}

// celPattern is Istio's pattern over the text x, as CEL.
func celPattern(x, p string) string {
	switch {
	case p == "*":
		return x + " != ''"
	case strings.HasPrefix(p, "*"):
		return fmt.Sprintf("%s.endsWith(%q)", x, p[1:])
	case strings.HasSuffix(p, "*"):
		return fmt.Sprintf("%s.startsWith(%q)", x, p[:len(p)-1])
	}
	return fmt.Sprintf("%s == %q", x, p)
}

// celLists is a list and its not-form.
func celLists(yes, no []string, one func(string) string) string {
	either := func(list []string) string {
		var out []string
		for _, s := range list {
			out = append(out, "("+one(s)+")")
		}
		return "(" + strings.Join(out, " || ") + ")"
	}
	out := "true"
	if len(yes) > 0 {
		out = either(yes)
	}
	if len(no) > 0 {
		out += " && !" + either(no)
	}
	return out
}

func celOf(x string) func(string) string { return func(p string) string { return celPattern(x, p) } }

func celToken(key string) func(string) string {
	return func(p string) string { return fmt.Sprintf("token[%q].exists(t, %s)", key, celPattern("t", p)) }
}

// celRule is a rule of an AuthorizationPolicy in CEL. Addresses, and patterns that CEL has no words for, are not in it.
func celRule(x *mesh.AuthzRule, deny bool) string {
	var from, to []string
	for _, s := range x.From {
		from = append(from, strings.Join([]string{
			celLists(s.Principals, s.NotPrincipals, celOf("source.principal")), celLists(s.TrustDomains, s.NotTrustDomains, celOf("source.trust_domain")),
			celLists(s.RequestPrincipals, s.NotRequestPrincipals, celToken("request.auth.principal")),
			celLists(s.Namespaces, s.NotNamespaces, celOf("source.namespace")),
		}, " && "))
	}
	for _, o := range x.To {
		to = append(to, strings.Join([]string{
			celLists(o.Methods, o.NotMethods, celOf("request.method")), celLists(o.Paths, o.NotPaths, celOf("request.url_path")),
			celLists(o.Hosts, o.NotHosts, func(p string) string { return celPattern("host", p) + " || " + celPattern("request.host", p) }),
		}, " && "))
	}
	out := "true"
	for _, list := range [][]string{from, to} {
		if len(list) > 0 {
			out += " && (" + strings.Join(list, " || ") + ")"
		}
	}
	for _, w := range x.When {
		if !strings.HasPrefix(w.Key, "request.headers") {
			out += " && " + celLists(w.Values, w.NotValues, celToken(w.Key))
			continue
		}
		whole := func(p string) string {
			if p == "*" {
				return "'x-a' in request.headers"
			}
			return "'x-a' in request.headers && " + celPattern("request.headers['x-a']", p)
		}
		each := func(p string) string { return whole(p) + " || " + celToken("lines")(p) }
		yes, no := whole, each
		if deny {
			yes, no = each, whole
		}
		out += " && " + celLists(w.Values, nil, yes) + " && " + celLists(nil, w.NotValues, no)
	}
	return out
}

// celRules are random rules that CEL has words for.
func (c chooser) celRule() (r mesh.AuthzRule) {
	plainOnes := []string{"*", "a", "b", "a*", "*b"}
	for range c.IntN(3) {
		r.From = append(r.From, mesh.AuthzSource{
			Principals: c.some(principals...), NotPrincipals: c.some("*", "td/ns/b/*"), TrustDomains: c.some("td", "t*"), NotTrustDomains: c.some("other"),
			RequestPrincipals: c.some(tokenPrincipals...), NotRequestPrincipals: c.some(tokenPrincipals...),
			Namespaces: append(c.some(plainOnes...), c.of(plainOnes...)), NotNamespaces: c.some("ab", "*b"),
		})
	}
	for range c.IntN(3) {
		r.To = append(r.To, mesh.AuthzOperation{
			Hosts: c.some("*", "a.b", "*.b", "a.*"), NotHosts: c.some("c.*"), Methods: append(c.some(methods...), c.of(methods...)), NotMethods: c.some("P*"),
			Paths: c.some("/", "/a", "/a*", "*/b", "*", "/a/*"), NotPaths: c.some("/a/b", "*/b"),
		})
	}
	for range c.IntN(3) {
		key := c.of("request.headers[x-a]", "request.auth.claims[a]", "request.auth.claims[n][m]", "request.auth.audiences", "request.auth.presenter")
		r.When = append(r.When, mesh.AuthzCondition{Key: key, Values: []string{c.of("*", "1", "b", "*d", "y*")}, NotValues: c.some("cd", "2", "p")})
	}
	return r
}

// TestAuthorizationAgainstCEL: the matchers of AuthorizationPolicies say what plain cel-go says of
// the same rules in CEL, one policy of few rules as well as many of them.
func TestAuthorizationAgainstCEL(t *testing.T) {
	indexes := 0
	defer func() {
		if indexes < 14 {
			t.Errorf("there were %d indexes", indexes)
		}
	}()
	for seed := range uint64(70) {
		c := chooser{rand.New(rand.NewPCG(seed, 10))}
		p := policyOf(mesh.Action(c.IntN(2)))
		n := 1 + c.IntN(3)
		if c.IntN(3) == 0 {
			n = 40
		}
		for range n {
			r := c.celRule()
			if n == 40 {
				r.To = append(r.To, mesh.AuthzOperation{Methods: []string{"GET"}}) // there is one at least
				for i := range r.To {
					r.To[i].Paths = []string{c.of("/", "/a", "/a/*", "/a/c*", "/b", "//*"), c.of("/", "/a", "/a/b*")}
				}
			}
			p.Rules = append(p.Rules, r)
		}
		l := CompileL7([]*mesh.AuthorizationPolicy{p})
		indexes += l.set.indexes()
		for range 15 {
			r := c.request()
			r.Authority = c.of("a.b", "c.b", "a.d:80", "")
			r.Host, _, _ = strings.Cut(r.Authority, ":")
			first := -1
			for i := range p.Rules {
				ok, failed := plain(t, celRule(&p.Rules[i], p.Action == mesh.ActionDeny), r)
				if failed {
					t.Fatalf("%s fails", celRule(&p.Rules[i], p.Action == mesh.ActionDeny))
				}
				if ok {
					first = i
					break
				}
			}
			v := l.Decide(r)
			if v.Allowed != ((first >= 0) == (p.Action == mesh.ActionAllow)) || v.Rule != first {
				t.Fatalf("seed %d, %+v, token %+v\nrules %+v\n got %+v\nwant rule %d", seed, *r, r.Token, p.Rules, v, first)
			}
		}
	}
}
