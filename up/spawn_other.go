//go:build !linux

package up

import "os/exec"

// tieToParent does nothing: only Linux ends children with their parent.
func tieToParent(*exec.Cmd) {}

// ownGroup does nothing either.
func ownGroup(*exec.Cmd) {}
