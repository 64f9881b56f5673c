package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cairnproxy.dev/cairn/explain"
	"cairnproxy.dev/cairn/explain/offline"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/telemetry"
	"cairnproxy.dev/cairn/telemetry/decision"
)

// errNoPage is the answer of a proxy that has no such page: a node proxy, or another version.
var errNoPage = errors.New("it is not a waypoint that explains")

// admins are the admin servers to ask: those that the user names, or all that listen on this machine.
func (f *explainFlags) admins() []string {
	if len(f.admin) > 0 {
		return f.admin
	}
	list, err := listeningAt(telemetry.AdminPort)
	if err != nil || len(list) == 0 {
		return []string{fmt.Sprintf("127.0.0.1:%d", telemetry.AdminPort)}
	}
	return list
}

// each asks every admin server. It fails if none of them is a waypoint that answers, or if one that the user has
// named is not.
func (f *explainFlags) each(ctx context.Context, method, path string, body []byte, use func(io.Reader) error) error {
	answered := 0
	var last error
	for _, at := range f.admins() {
		err := askAdmin(ctx, at, method, path, body, use)
		switch {
		case err == nil:
			answered++
		case len(f.admin) > 0 || !errors.Is(err, errNoPage):
			last = fmt.Errorf("asking %s: %w", at, err)
		}
		if last != nil && len(f.admin) > 0 {
			return last
		}
	}
	if answered > 0 {
		return nil
	}
	if last == nil {
		last = errors.New("no waypoint runs on this machine")
	}
	return fmt.Errorf("%w (is one running? `cairn up` prints the admin addresses; name one with --admin)", last)
}

func askAdmin(ctx context.Context, at, method, path string, body []byte, use func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at+path, bytes.NewReader(body))
	if err != nil {
		return &usageError{fmt.Errorf("--admin %q: want HOST:PORT", at)}
	}
	client := &http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return use(io.LimitReader(resp.Body, maxDump))
	case http.StatusNotFound:
		return errNoPage
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return fmt.Errorf("it answers %s: %s", resp.Status, strings.TrimSpace(string(text)))
}

// ask gathers explanations.
func (f *explainFlags) ask(ctx context.Context, method, path string, body []byte) (all []*explain.Explanation, err error) {
	err = f.each(ctx, method, path, body, func(r io.Reader) error {
		var list []*explain.Explanation
		if err := json.NewDecoder(r).Decode(&list); err != nil {
			return fmt.Errorf("reading the explanation: %w", err)
		}
		all = append(all, list...)
		return nil
	})
	return all, err
}

// past explains requests that waypoints have records of.
func (f *explainFlags) past(ctx context.Context, w io.Writer) error {
	list, err := f.ask(ctx, http.MethodGet, "/explain?id="+url.QueryEscape(f.id), nil)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("no waypoint has a record of %q: each keeps its last %d requests", f.id, decision.Capacity)
	}
	return f.print(w, list)
}

// online explains a made-up request as the waypoint that serves its host would answer it.
func (f *explainFlags) online(ctx context.Context, w io.Writer, q explain.Question, from offline.Client) error {
	if from.ServiceAccount != "" {
		q.Principal = mesh.Identity{TrustDomain: mesh.DefaultTrustDomain, Namespace: from.Namespace, ServiceAccount: from.ServiceAccount}.Principal()
	}
	host, port, _ := strings.Cut(f.host, ":")
	if port != "" {
		port = ":" + port
	}
	const domain = ".svc.cluster.local"
	for _, name := range []string{host, host + "." + from.Namespace + domain, host + domain} {
		q.Host = name + port
		body, err := json.Marshal(q)
		if err != nil {
			return err
		}
		list, err := f.ask(ctx, http.MethodPost, "/explain", body)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.Waypoint != nil && e.Waypoint.Service != "" {
				return f.print(w, []*explain.Explanation{e})
			}
		}
	}
	return fmt.Errorf("no waypoint that runs serves %s; give the host as SERVICE.NAMESPACE:PORT, or manifests with -f", f.host)
}

// records prints the records of all waypoints.
func (f *explainFlags) records(ctx context.Context, w io.Writer) error {
	path := fmt.Sprintf("/decisions?last=%d", f.last)
	if f.refused {
		path += "&refused"
	}
	return f.each(ctx, http.MethodGet, path, nil, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
}
