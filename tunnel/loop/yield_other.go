//go:build !linux

package loop

import "runtime"

const politeness = 2

func yield() { runtime.Gosched() }
