package authz

import (
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

// Connection judges a connection, and counts what the policies say of it that decide nothing. The text says the
// same for the access log's dry_run; it is "" for nothing. r may be nil.
func (r *Registry) Connection(l *policy.L4, in policy.L4Facts) (policy.Verdict, string) {
	list := l.Watched()
	if len(list) == 0 {
		return l.Decide(in), ""
	}
	var deny, allow, audited mesh.Name
	v := l.DecideAnd(in, func(i int, o policy.Outcome) {
		r.of(list[i]).count(o)
		switch n := list[i].Name; o {
		case policy.Audited:
			note(&audited, n)
		case policy.WouldDeny:
			note(&deny, n)
		case policy.WouldAllow:
			note(&allow, n)
		default:
		}
	})
	return v, Told(deny, allow, audited)
}

// Told says for the access log which policies would have done something else, and which audit.
func Told(deny, allow, audited mesh.Name) (out string) {
	for _, p := range [...]struct {
		what string
		name mesh.Name
	}{{"denied by ", deny}, {"allowed by ", allow}, {"audited by ", audited}} {
		if p.name == (mesh.Name{}) {
			continue
		}
		if out != "" {
			out += ", "
		}
		out += p.what + p.name.String()
	}
	return out
}
