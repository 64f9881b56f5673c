// Package istioca speaks the API by which a mesh's proxies get their
// certificates: istio.v1.auth.IstioCertificateService, one gRPC call that
// takes a certificate request and answers with a chain. istiod serves it, and
// so does `cairn up` for proxies outside of its process.
//
//	identity.Cache ─► Client ═══ TLS, bearer token ═══► Server ─► identity.CA
//	                    ▲                                  ▲
//	   token, root certificate (files, read again)    Tokens: who may be whom
//
// The Client makes a new key for each certificate, which never leaves the
// process. It asks for one identity, its own, or as a node proxy for those of
// the workloads on its node (ImpersonatedIdentity). It demands that the answer
// is for its key and its identity. The last element of the chain is what the
// workload trusts its peers by, so that new roots arrive with certificates.
//
// The Server looks at two proofs of who calls: a token that Tokens has made,
// or a certificate of the mesh, with which a workload renews its own. What the
// request says about names is ignored, as istiod does: a caller gets its own identity.
// A node proxy gets another's only if that one has a workload on its node.
//
// Errors of the client say what to do about them; neither tokens nor keys
// appear in any error or log.
package istioca
