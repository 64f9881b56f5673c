package proc

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Inside runs f on a thread that is in the network namespace that `ip netns`
// knows by the name. Sockets that f makes stay there, wherever they are used
// from. An empty name is this process's own namespace.
func Inside(netns string, f func() error) error {
	if netns == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so nothing else
		// can come to run in the namespace.
		runtime.LockOSThread()
		if err := enter(netns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// enter moves the calling thread into a namespace.
func enter(netns string) error {
	ns, err := os.Open("/run/netns/" + netns)
	if err != nil {
		return fmt.Errorf("entering network namespace %s: %w", netns, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", netns, err)
	}
	return nil
}

// Get does one HTTP request from inside a network namespace, to a literal
// address.
func Get(ctx context.Context, netns, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = Inside(netns, func() (derr error) {
			d := net.Dialer{FallbackDelay: -1} // no second thread, which would be outside
			conn, derr = d.DialContext(ctx, network, addr)
			return derr
		})
		return conn, err
	}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	return client.Do(req)
}
