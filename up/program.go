package up

import (
	"os/exec"
	"strconv"
	"strings"

	"cairnproxy.dev/cairn/sample"
)

// Container is the part of a pod's container that running it needs.
type Container struct {
	Image   string
	Command []string
	Args    []string
	// Dir is the working directory; empty means this process's.
	Dir string
	// Env are "NAME=value" pairs with literal values.
	Env []string
	// Ports are the container ports in the manifest's order.
	Ports []uint16
}

// programOf returns the program and arguments by which c is run here, or nil
// for "external": the user runs it. self is the path of this binary. An image
// that is a known sample becomes `cairn sample …`; otherwise the container's
// own command is run if it names an executable of this machine; otherwise the
// pod is external.
func programOf(self string, c Container) []string {
	if args, ok := sample.ForImage(c.Image); ok {
		argv := append([]string{self, "sample"}, args...)
		if len(c.Ports) > 0 {
			argv = append(argv, "--listen", listenOn(c.Ports))
		}
		return argv
	}
	if len(c.Command) == 0 {
		return nil
	}
	file, err := exec.LookPath(c.Command[0])
	if err != nil {
		return nil
	}
	argv := append([]string{file}, c.Command[1:]...)
	return append(argv, c.Args...)
}

// listenOn renders ports as a sample's --listen takes them: ":8080,:9090".
func listenOn(ports []uint16) string {
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = ":" + strconv.Itoa(int(p))
	}
	return strings.Join(out, ",")
}
