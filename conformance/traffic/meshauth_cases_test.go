package traffic

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// keysInMesh are cases in which an issuer is a Service behind the same waypoint.
var keysInMesh = []testCase{
	{
		name: "jwt-keys-in-mesh", of: "jwksUri of a Service: the waypoint fetches the keys over HBONE", alone: "istiod's proxies reach it with a cluster that istiod makes",
		mesh: []svc{{name: "echo"}, {name: "issuer"}},
		yaml: requestAuth(`{issuer: "` + issuerName + `", jwksUri: "http://issuer.$NS.svc.cluster.local/keys"}`),
		twin: requestAuth(`{issuer: "` + issuerName + `", jwksUri: "http://nobody.$NS.svc.cluster.local/keys"}`),
		prove: func(x *trial) error {
			x.pod("issuer-1").do(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, jwks(login)) })
			// It may have asked before there was an answer, and asks again later and later.
			patience := 20 * time.Second
			if x.twin {
				patience = time.Second
			}
			if err := eventually(patience, x.each(ask{headers: bearer(login.token(nil))}, ask{headers: bearer(stranger.token(nil)), status: 401})); err != nil {
				return err
			}
			for _, r := range x.pod("issuer-1").requests() {
				if r.Path == "/keys" && r.Host == "issuer."+x.ns+".svc.cluster.local" {
					return nil
				}
			}
			return wrongf("the issuer's pod was asked %+v", x.pod("issuer-1").requests())
		},
	},
}

// halfAuth is a rule with two backends alike, of which the first has filters.
func halfAuth(filters string) string {
	return httpRoute("r", "  - backendRefs:\n    - {name: echo, port: 80"+filters+"}\n    - {name: free, port: 80}")
}

const backendAuth = ", filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: auth, port: 81}}}]"

// backendAuthCases have the filter at one of a rule's backends.
var backendAuthCases = []testCase{
	{
		name: "ext-backend", of: "ExternalAuth at one backend asks about what goes there, and about nothing else", alone: "its filters are for routes, not for backends",
		mesh: []svc{{name: "echo"}, {name: "auth"}, {name: "free"}}, yaml: halfAuth(backendAuth), twin: halfAuth(""),
		prove: func(x *trial) error {
			passed, err := x.tally(40, ask{})
			if err != nil {
				return err
			}
			refused, err := x.tally(40, ask{headers: orders("deny=401")})
			if err != nil {
				return err
			}
			switch {
			case len(passed) != 2 || passed["200 echo-1 asked"] == 0 || passed["200 free-1"] == 0:
				return wrongf("requests that are let pass: %v", passed)
			case len(refused) != 2 || refused["401"] == 0 || refused["200 free-1"] == 0:
				return wrongf("requests that are refused: %v", refused)
			}
			return nil
		},
	},
	{
		name: "ext-backend-missing", of: "ExternalAuth at one backend, whose service does not exist, fails closed there alone", alone: "its filters are for routes, not for backends",
		mesh: []svc{{name: "echo"}, {name: "auth"}, {name: "free"}}, yaml: halfAuth(strings.Replace(backendAuth, "name: auth", "name: nobody", 1)), twin: halfAuth(""),
		prove: func(x *trial) error {
			got, err := x.tally(40, ask{})
			if err == nil && (len(got) != 2 || got["500"] == 0 || got["200 free-1"] == 0) {
				err = wrongf("%v", got)
			}
			return err
		},
	},
}

// tally sends n requests and returns how often each was answered by status and pod, and "asked" where the pod saw that the
// authorization service had been.
func (x *trial) tally(n int, a ask) (map[string]int, error) {
	tr := x.transport(a)
	defer tr.CloseIdleConnections()
	out := map[string]int{}
	for range n {
		r, err := x.sendOver(tr, a)
		if err != nil {
			return nil, err
		}
		said := strings.TrimSpace(strconv.Itoa(r.status) + " " + r.header.Get("X-Pod"))
		if r.seen.Headers.Get("X-Saw") != "" {
			said += " asked"
		}
		out[said]++
	}
	return out, nil
}
