// Package bookinfo is a book shop of four services, the application that
// service meshes are shown with. The paths and the JSON are those of Istio's
// bookinfo, so that its manifests and the commands of its guides work; the
// program and the page are our own.
//
//	productpage ──► details
//	           └──► reviews v1
//	                reviews v2 ──► ratings    (black stars)
//	                reviews v3 ──► ratings    (red stars)
//
//	productpage  /  /health  /productpage  /login  /logout
//	             /api/v1/products[/0[/reviews|/ratings]]
//	details      /health  /details/ID
//	reviews      /health  /reviews/ID
//	ratings      /health  /ratings/ID  (POST stores ratings)
//
// A service calls the next by its short name and port 9080, or as the
// environment says: SERVICES_DOMAIN, and per service DETAILS_HOSTNAME and
// DETAILS_SERVICE_PORT and so on. There are no retries: those are the mesh's
// work. A call that fails never fails the caller: the page says what is missing
// and why, a review comes without its stars.
//
// Headers that belong to a request as a whole (traces, cookies, end-user) go
// along to every call it causes. Every answer says in X-Served-By which pods
// made it, nearest first, and the page shows them.
package bookinfo
