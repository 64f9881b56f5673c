package policy

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/mesh"
)

// Step is what one rule of a policy says of a request, or a policy that has no rules.
type Step struct {
	Kind   string // KindAuthorization, KindAccess or KindPeer
	Policy mesh.Name
	// Action is the policy's, or for an AccessPolicy the rule's: ALLOW, DENY, AUDIT, CUSTOM, allow, deny, require.
	Action string
	Mode   mesh.AccessMode
	// Rule is the rule's place in the policy as it is written; -1 for a policy without rules, or one
	// that is invalid and refuses everything. RuleName is an AccessPolicy's.
	Rule     int
	RuleName string
	// Matched is whether the rule takes effect: that of DENY refuses, that of ALLOW allows, a requirement
	// is not met.
	Matched bool
	// Failed is the first predicate of the rule that does not hold, with what the request has
	// in its place; of a requirement the one for which it is not met; "" where all hold.
	Failed string
	// Error is why an expression could not be evaluated; "" where it could.
	Error string
	// Decided is true for the rule by which the request was allowed or refused.
	Decided bool
	// Fields are the header fields that the rule looks at; TokenField for the token in one.
	Fields []string
}

// Explain decides about a request as DecideAnd does, with the same rules, and tells what each of them
// says, in the order in which they count: CUSTOM, DENY, AccessPolicies, ALLOW, then what decides nothing. It is
// for people: it takes as long as all rules do, and allocates. A nil L7 has no steps.
func (l *L7) Explain(in Input) (Verdict, []Step) {
	if l == nil {
		return notCompiled, nil
	}
	var f facts
	l.fill(&f, &in)
	return l.set.explain(&f)
}

// ExplainL4 is Explain for DecideL4.
func (l *L7) ExplainL4(in L4Facts) (Verdict, []Step) {
	if l == nil {
		return notCompiled, nil
	}
	return l.l4.Explain(in)
}

// Explain is L7.Explain for a connection.
func (l *L4) Explain(in L4Facts) (Verdict, []Step) {
	if l == nil {
		return notCompiled, nil
	}
	var f facts
	l.fill(&f, &in)
	return l.set.explain(&f)
}

func (s *set) explain(f *facts) (v Verdict, out []Step) {
	s.decide(f, nil, &v)
	_, by := s.enforced.decide(f)
	rules := map[*written][]*rule{}
	for _, g := range s.groups() {
		for i := range g.rules {
			r := &g.rules[i]
			rules[r.of] = append(rules[r.of], r)
		}
	}
	for i := range s.never {
		r := &s.never[i]
		rules[r.of] = append(rules[r.of], r)
	}
	policies := slices.Clone(s.policies)
	slices.SortStableFunc(policies, func(a, b *written) int { return cmp.Compare(a.phase(), b.phase()) })
	for _, w := range policies {
		step := Step{Kind: w.kind, Policy: w.name, Action: w.action, Mode: w.mode, Rule: -1}
		list := rules[w]
		if len(list) == 0 {
			step.Failed = "it has no rules, so that none matches"
			if w.reason == reasonInvalid {
				step.Failed = "it is invalid, and nothing can be said of requests"
			}
			out = append(out, step)
			continue
		}
		slices.SortStableFunc(list, func(a, b *rule) int { return cmp.Compare(a.index, b.index) })
		for _, r := range list {
			st := step
			st.Rule, st.RuleName, st.Decided = r.index, r.name, r == by
			if w.kind == KindAccess {
				st.Action = r.effect
			}
			st.Matched, st.Failed, st.Error = r.explain(f)
			st.Fields = r.fields()
			out = append(out, st)
		}
	}
	return v, out
}

func (s *set) groups() []*group {
	out := []*group{&s.enforced.deny, &s.enforced.allow, &s.audit}
	for i := range s.custom {
		out = append(out, &s.custom[i].rules)
	}
	for i := range s.dry {
		out = append(out, &s.dry[i].deny, &s.dry[i].allow)
	}
	return out
}

// phase orders policies as they count.
func (w *written) phase() int {
	switch {
	case w.mode != mesh.ModeEnforce:
		return 5 + int(w.mode)
	case w.action == mesh.ActionCustom.String():
		return 0
	case w.action == mesh.ActionDeny.String():
		return 1
	case w.kind == KindAccess:
		return 2
	}
	return 3
}

func (r *rule) explain(f *facts) (matched bool, failed, fault string) {
	if r.never != "" {
		return false, r.never, ""
	}
	matched = r.match(f)
	for _, c := range r.clauses {
		if !c.match(f) {
			return matched, c.failed(f), ""
		}
	}
	if r.when == nil {
		if r.reason == reasonInvalid {
			failed = r.reason
		}
		return matched, failed, ""
	}
	failed, err := r.when.Failed(&f.input)
	if err != nil {
		fault = err.Error()
	}
	return matched, failed, fault
}

// TokenField stands for the request's token among the names of header fields.
const TokenField = "(token)"

// fieldsInText finds the names of header fields in an expression.
var fieldsInText = regexp.MustCompile(`request\.headers\[["']([^"']+)["']\]|["']([^"']+)["'] in request\.headers|request\.headers\.([A-Za-z0-9_]+)`)

// fields are the header fields that r is about.
func (r *rule) fields() []string {
	var out []string
	add := func(name string) {
		if name = strings.ToLower(name); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, c := range r.clauses {
		for _, a := range c {
			for i := range a {
				switch a[i].attr {
				case attrHeader:
					add(a[i].header)
				case attrRequestPrincipal, attrAudience, attrPresenter, attrClaim:
					add(TokenField)
				default:
				}
			}
		}
	}
	if r.when == nil {
		return out
	}
	text := r.when.String()
	for _, m := range fieldsInText.FindAllStringSubmatch(text, -1) {
		add(m[1] + m[2] + m[3])
	}
	if n := strings.Count(text, "request.headers"); n > len(fieldsInText.FindAllString(text, -1)) {
		add("(any header field)")
	}
	for word, name := range map[string]string{"request.referer": "referer", "request.useragent": "user-agent", "jwt.": TokenField} {
		if strings.Contains(text, word) {
			add(name)
		}
	}
	slices.Sort(out)
	return out
}

// Fields returns the names of the header fields that some rule looks at, and TokenField where one looks at a
// token, in order.
func (l *L7) Fields() []string {
	if l == nil {
		return nil
	}
	var out []string
	for _, g := range l.set.groups() {
		for i := range g.rules {
			out = append(out, g.rules[i].fields()...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// failed is the first predicate of the first alternative that does not hold.
func (c clause) failed(f *facts) string {
	if len(c) == 0 {
		return "it has nothing that could match"
	}
	for i := range c[0] {
		if k := &c[0][i]; !k.holds(f) {
			s := k.field + ": " + k.value(f)
			if n := len(c) - 1; n > 0 {
				s += " (and " + strconv.Itoa(n) + " more)"
			}
			return s
		}
	}
	return ""
}

// value says what the check has found, for people. It may be long: it is the client's.
func (c *check) value(f *facts) string {
	none := func(s, what string) string {
		if s == "" {
			return what
		}
		return strconv.Quote(s)
	}
	switch c.attr {
	case attrPrincipal, attrNamespace, attrServiceAccount, attrTrustDomain:
		return none(f.principal, "the peer has proven no identity")
	case attrSourceIP:
		return normal(f.source).String()
	case attrRemoteIP:
		return c.remote(f).String()
	case attrDestinationIP, attrDestinationPort:
		return f.destination.String()
	case attrSNI:
		return "there is none"
	default:
	}
	r := f.request
	if r == nil {
		return "there is no request"
	}
	switch c.attr {
	case attrHost:
		return strconv.Quote(r.Authority)
	case attrMethod:
		return strconv.Quote(r.Method)
	case attrPath:
		return strconv.Quote(r.Path)
	case attrHeader:
		if v, ok := r.Fields.Get(c.header); ok {
			return strconv.Quote(v)
		}
		return "there is no such header"
	default:
	}
	switch t := r.Token; {
	case t == nil:
		return "the request has no token"
	case c.attr == attrRequestPrincipal:
		return strconv.Quote(t.Principal)
	case c.attr == attrPresenter:
		return none(t.Presenter, "the token names none")
	}
	return "the token's values are others"
}
