// Package sample knows which container images are stand-ins for the sample
// servers of this binary, so that manifests which name them can run without a
// container runtime.
//
//	args, ok := sample.ForImage("registry.istio.io/release/examples-bookinfo-reviews-v2:1.20.3")
//	// args = ["bookinfo", "reviews", "--version", "v2"], to follow "cairn sample"
//
// The servers themselves are in the packages below: echo, httpbin, bookinfo, ratelimit.
// All of them stand on sample/pod, which says how a sample finds the mesh.
package sample

import (
	"regexp"
	"strings"
)

// bookinfoImage matches the last part of the repository of a bookinfo service.
// Its databases, and the ratings that fail on purpose, are other programs.
var bookinfoImage = regexp.MustCompile(`^examples-bookinfo-(productpage|details|reviews|ratings)-(v[0-9]+)$`)

// ForImage returns the arguments that follow "cairn sample" to run the sample
// that stands in for a container image, and whether there is one. Registry,
// tag and digest do not matter. Where the image itself listens on another port
// than its sample would, the arguments say so ("--listen", ":80"); a later
// --listen overrides it.
//
// The image alone decides: a container that replaces the image's command by
// something else (a client image that sleeps) is no server, whatever ForImage says.
func ForImage(image string) (args []string, ok bool) {
	repo := repository(image)
	last := repo[strings.LastIndexByte(repo, '/')+1:]
	if m := bookinfoImage.FindStringSubmatch(last); m != nil {
		return []string{"bookinfo", m[1], "--version", m[2]}, true
	}
	owner := strings.TrimSuffix(repo, "/"+last)
	owner = owner[strings.LastIndexByte(owner, '/')+1:]
	switch owner + "/" + last {
	case "cairn/echo":
		return []string{"echo"}, true
	case "cairn/ratelimit":
		return []string{"ratelimit"}, true
	case "cairn/httpbin", "mccutchen/go-httpbin":
		return []string{"httpbin"}, true
	case "kong/httpbin", "kennethreitz/httpbin":
		// The Python server: port 80, and one string per header.
		return []string{"httpbin", "--flat-headers", "--listen", ":80"}, true
	}
	return nil, false
}

// repository takes tag and digest off an image reference. A colon before the
// last slash belongs to the registry's port.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}
