package policy_test

import (
	"fmt"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/policy"
)

func ExampleCompileL7() {
	set := policy.CompileL7([]*mesh.AuthorizationPolicy{{
		Name: mesh.Name{Namespace: "bookinfo", Name: "ratings"},
		Rules: []mesh.AuthzRule{{
			From: []mesh.AuthzSource{{ServiceAccounts: []string{"bookinfo/reviews"}}},
			To:   []mesh.AuthzOperation{{Methods: []string{"GET"}}},
		}},
	}})
	peer := mesh.Identity{TrustDomain: "cluster.local", Namespace: "bookinfo", ServiceAccount: "reviews"}
	for _, method := range []string{"GET", "DELETE"} {
		v := set.Decide(&mesh.Request{Method: method, Path: "/ratings/1", Peer: mesh.Peer{Identity: peer, Principal: peer.Principal()}})
		fmt.Println(method, v.Allowed, v.Reason)
	}
	// Output:
	// GET true allowed by policy
	// DELETE false allow policies exist, but none allowed
}
