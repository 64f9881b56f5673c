package jwt

import (
	"crypto/sha256"
	"strings"
	"testing"

	"cairnproxy.dev/cairn/filters"
	"cairnproxy.dev/cairn/filters/filterstest"
	"cairnproxy.dev/cairn/mesh"
)

// typical is a token of the length that identity providers hand out, some 800 bytes.
func typical(p pair) string {
	return p.sign(about(claims{"scope": "openid profile email", "groups": []string{"editors", "readers", "staff"}, "name": strings.Repeat("x", 200)}))
}

// once runs a chain as a request with these fields would.
func once(x *filters.Exchange, c filters.Chain, fields mesh.Fields) filters.Result {
	x.Req.Fields, x.Req.Token = append(x.Req.Fields[:0], fields...), nil
	res, _ := c.Request(x, 0)
	return res
}

func fieldsWith(token string) mesh.Fields {
	return mesh.Fields{
		{Name: "x-request-id", Value: "1"},
		{Name: "user-agent", Value: "test"},
		{Name: "accept", Value: "*/*"},
		bearer(token),
		{Name: "x-forwarded-proto", Value: "http"},
	}
}

func outputs() mesh.JWTRule {
	ru := rule()
	ru.OutputPayloadToHeader = "x-payload"
	ru.OutputClaims = []mesh.JWTClaimHeader{{Header: "x-sub", Claim: "sub"}, {Header: "x-name", Claim: "name"}}
	return ru
}

func TestNoAllocation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields mesh.Fields
	}{
		{"no_token", fieldsWith("")[:3]},
		{"known", fieldsWith(typical(es()))},
	} {
		c := build(t, registry(t, nil), policyOf(outputs()))
		x := filterstest.Exchange(get())
		x.Req.Fields = make(mesh.Fields, 0, 16)
		if res := once(x, c, tt.fields); res != filters.Continue {
			t.Fatalf("%s: %v %+v", tt.name, res, x.Reply)
		}
		if n := testing.AllocsPerRun(100, func() { once(x, c, tt.fields) }); n != 0 {
			t.Errorf("%s: a request allocates %v times, want 0", tt.name, n)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	bench := func(name string, fields mesh.Fields, want filters.Result, forget bool) {
		b.Run(name, func(b *testing.B) {
			r := NewRegistry(Options{})
			defer r.Close()
			c := build(b, r, policyOf(outputs()))
			x := filterstest.Exchange(get())
			x.Req.Fields = make(mesh.Fields, 0, 16)
			v := verifierOf(c)
			var empty table
			b.ReportAllocs()
			for b.Loop() {
				if forget { // as if another token came each time
					v.known.Store(&empty)
				}
				if once(x, c, fields) != want {
					b.Fatal(x.Reply)
				}
				if forget {
					d := digest(sha256.Sum256([]byte(fields[3].Value[len("Bearer "):])))
					clear(empty.places(&d))
				}
			}
		})
	}
	bench("no_token", fieldsWith("")[:3], filters.Continue, false)
	bench("known", fieldsWith(typical(es())), filters.Continue, false)
	bench("es256", fieldsWith(typical(es())), filters.Continue, true)
	bench("rs256", fieldsWith(typical(rs())), filters.Continue, true)
	bench("eddsa", fieldsWith(typical(ed())), filters.Continue, true)
	bench("bad_signature", fieldsWith(typical(pair{"es", "ES256", ec2Key()})), filters.Replied, false)
	bench("expired", fieldsWith(es().sign(about(claims{"exp": 1}))), filters.Replied, false)
}
