// Command goproxy is the waypoint that one gets by putting together what Go
// has: the baseline that says what Cairn's own data path is worth.
//
//	net/http server (CONNECT over HTTP/2, mutual TLS)
//	    ─► net/http server on the stream: policy, route, access log
//	    ─► httputil.ReverseProxy ─► http2.Transport (CONNECT over mutual TLS)
//
// It is written as plainly as possible and is not tuned. It is for the
// benchmark: its configuration is one JSON file.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

// config is the file that the one argument names.
type config struct {
	Listen          string // HBONE
	Cert, Key, Root string // files
	AccessLog       string // file; empty: none
	Services        []service
}

// service is one HTTP port of a service.
type service struct {
	Addr      string // as CONNECT names it
	Prefixes  []string
	Endpoints []endpoint
	Allow     *allow // nil: everybody
}

type endpoint struct {
	Addr     string
	Identity string // SPIFFE URI
}

// allow is a rule: these principals with these methods.
type allow struct {
	Principals []string
	Methods    []string
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: goproxy CONFIG.json")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "goproxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	var c config
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	id, err := loadIdentity(c)
	if err != nil {
		return err
	}
	p := &proxy{id: id, servers: map[string]*inner{}}
	if c.AccessLog != "" {
		f, err := os.Create(c.AccessLog)
		if err != nil {
			return fmt.Errorf("opening the access log: %w", err)
		}
		defer f.Close()
		p.log = log.New(f, "", log.LstdFlags|log.Lmicroseconds)
	}
	for _, s := range c.Services {
		p.servers[s.Addr] = p.serve(s)
	}
	srv := &http.Server{Addr: c.Listen, Handler: p, TLSConfig: id.server()}
	ended := context.AfterFunc(ctx, func() { srv.Close() })
	defer ended()
	if err := srv.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
