// Package spiffe gets identities from the SPIFFE Workload API, which a SPIRE
// agent serves on a socket of the node (SPIFFE Workload API, section 5).
//
//	SPIRE agent ══ FetchX509SVID, a stream ══► Source ─► identity.Cache
//
// The agent decides which identities the process has, and pushes new
// certificates and bundles as they are due; nothing is asked for. The cache
// notices a push within seconds. Certificates whose SPIFFE ID is not of the
// mesh's form, spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT, are left out.
// Bundles of federated trust domains go along with every certificate: a peer of such a
// domain is let in if its chain leads to that domain's own bundle.
//
// When the agent is away, what it gave last is used until it expires, and the
// stream is opened again with growing pauses.
package spiffe
