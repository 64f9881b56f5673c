package up

import (
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Container is the part of a pod's container that running it needs.
type Container struct {
	Image   string
	Command []string
	Args    []string
	// Env are "NAME=value" pairs with literal values.
	Env []string
	// Ports are the container ports in the manifest's order.
	Ports []uint16
}

// program is how a container is run on this machine: argv[0] is the program's
// path. A nil *program means "external": the user runs it.
type program struct {
	argv []string
	// env goes in front of the container's own.
	env []string
	// sample is true for one of our own servers.
	sample bool
}

// programOf says how c is run here. self is the path of this binary. An image
// that is a known sample becomes `cairn sample …`; otherwise the container's
// own command is run if it names an executable of this machine; otherwise the
// pod is external.
func programOf(self string, c Container) *program {
	if args, env := sampleOf(c.Image); args != nil {
		p := &program{argv: append([]string{self, "sample"}, args...), env: env, sample: true}
		if len(c.Ports) > 0 {
			p.argv = append(p.argv, "--listen", ":"+strconv.Itoa(int(c.Ports[0])))
		}
		return p
	}
	if len(c.Command) == 0 {
		return nil
	}
	file, err := exec.LookPath(c.Command[0])
	if err != nil {
		return nil
	}
	argv := append([]string{file}, c.Command[1:]...)
	return &program{argv: append(argv, c.Args...)}
}

// bookinfoImage takes "examples-bookinfo-reviews-v2" apart.
var bookinfoImage = regexp.MustCompile(`^examples-bookinfo-([a-z]+)-(v[0-9]+)$`)

// sampleOf returns the arguments of `cairn sample` and the environment for a
// known image, or nil.
func sampleOf(image string) (args, env []string) {
	repo := repository(image)
	base := path.Base(repo)
	switch {
	case strings.HasSuffix("/"+repo, "/cairn/echo"):
		return []string{"echo"}, nil
	case hasSuffixAny("/"+repo, "/kong/httpbin", "/kennethreitz/httpbin", "/mccutchen/go-httpbin"):
		return []string{"httpbin"}, nil
	}
	if m := bookinfoImage.FindStringSubmatch(base); m != nil {
		switch m[1] {
		case "productpage", "details", "reviews", "ratings":
			return []string{"bookinfo", m[1]}, []string{"CAIRN_SERVICE_VERSION=" + m[2]}
		}
	}
	return nil, nil
}

// repository returns an image reference without its tag and digest.
func repository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}

func hasSuffixAny(s string, suffixes ...string) bool {
	for _, x := range suffixes {
		if strings.HasSuffix(s, x) {
			return true
		}
	}
	return false
}
