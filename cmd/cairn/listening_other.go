//go:build !linux

package main

import "errors"

// listeningAt is known on Linux only.
func listeningAt(uint16) ([]string, error) { return nil, errors.ErrUnsupported }
