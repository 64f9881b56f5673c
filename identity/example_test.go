package identity_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
)

// Two workloads of one mesh meet, and each learns who the other is.
func Example() {
	ca, err := identity.NewCA("cluster.local")
	if err != nil {
		fmt.Println(err)
		return
	}
	cache := identity.NewCache(ca.Issuer(0), identity.CacheOptions{}) // go cache.Run(ctx) keeps it fresh
	client := mesh.Identity{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "curl"}
	server := mesh.Identity{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "httpbin"}

	a, b := net.Pipe()
	accepted := make(chan string, 1)
	go func() {
		conn := tls.Server(b, cache.Server(server))
		if err := conn.HandshakeContext(context.Background()); err != nil {
			accepted <- err.Error()
			return
		}
		peer, err := identity.PeerOf(conn.ConnectionState())
		accepted <- fmt.Sprint("server met ", peer, " ", err)
	}()
	conn := tls.Client(a, cache.Client(client, []string{server.String()}))
	if err := conn.HandshakeContext(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	peer, err := identity.PeerOf(conn.ConnectionState())
	fmt.Println("client met", peer, err)
	fmt.Println(<-accepted)
	// Output:
	// client met spiffe://cluster.local/ns/default/sa/httpbin <nil>
	// server met spiffe://cluster.local/ns/default/sa/curl <nil>
}
