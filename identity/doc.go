// Package identity proves who a workload is: it obtains certificates that
// carry SPIFFE identities, keeps them fresh, and turns them into tls.Configs
// for the two ends of a tunnel.
//
//	CA, Files, istioca.Client, spiffe.Source (an Issuer each)
//	  │
//	  └──► Cache ──► Server(id), Client(own, expect) ──► crypto/tls
//	         ▲
//	      Run: renews at half of each certificate's life
//
// A Cert is one key with its certificate chain and the roots that its holder
// trusts. A Cache fetches one on first use, once however many callers want it,
// and gives it to every handshake until it expires. When a renewal fails the
// old certificate serves on and the renewal is tried again with growing
// pauses; a certificate that has expired is never used, so that a mesh without
// its CA stops rather than talks unproven.
//
// # What a handshake demands
//
// TLS 1.3 and ALPN "h2" are required on both ends, session tickets are off (a
// resumed session would skip the checks below), and no server name is sent.
// A peer's certificate must
//   - chain to the roots of our own certificate (or, of a federated trust domain,
//     to that domain's bundle), and be valid now,
//   - be an end-entity certificate whose extended key usage, when it states
//     any, permits the role (client or server) that the peer plays,
//   - carry exactly one URI name (SPIFFE X.509-SVID, section 2), which parses
//     as an Istio identity.
//
// A server then demands its own trust domain or an alias of it; a client demands that the URI
// is one of those it expects, byte for byte. What a CRL lists is refused, and
// its open tunnels are found by Cache.Revoked.
//
// # Concurrency
//
// CA, Files and Cache may be used by any number of goroutines. The tls.Configs
// that a Cache returns are never rebuilt: they look at the cache during each
// handshake, and so present the newest certificate and trust the newest roots.
//
// # Secrets
//
// Private keys stay in memory, or in files of mode 0600. A Cert prints,
// logs and marshals as its identity and dates only.
package identity
