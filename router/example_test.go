package router_test

import (
	"fmt"

	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/router"
)

func ExampleTable_Match() {
	name := mesh.Name{Namespace: "bookinfo", Name: "reviews"}
	table, errs := router.New([]router.Rule[string]{
		{Object: name, Rule: 0, Value: "default"},
		{Object: name, Rule: 1, Value: "canary", Matches: []mesh.RouteMatch{{
			Path: &mesh.StringMatch{Kind: mesh.MatchPrefix, Value: "/reviews"},
		}}},
	})
	fmt.Println("errors:", len(errs))

	var how router.Match
	rule, ok := table.Match(&mesh.Request{Method: "GET", Path: "/reviews/7"}, &how)
	fmt.Println(rule, ok, how.Prefix)
	// Output:
	// errors: 0
	// canary true 8
}
