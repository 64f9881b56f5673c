package up

import (
	"context"
	"crypto/x509"
	"encoding/gob"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"sync"

	"cairnproxy.dev/cairn/identity"
	"cairnproxy.dev/cairn/mesh"
	"cairnproxy.dev/cairn/source"
)

// With --processes (and for waypoints in network namespaces) a proxy runs in a
// process of its own. It has no manifests and no CA: both stay in the parent,
// and come over a socket that the child inherits.
//
//	parent                                   child
//	  Parts, at once and for every change ──►  Store ──► proxy
//	  ◄── wants a certificate (id)             Cache
//	  certificate ──►
//	  ◄── serving (bound ports)
//	  ◄── applied (version of the Parts)
//
// Messages are gob values. Either end that meets an error closes the socket,
// and a child whose parent is gone ends.

// toChild is a message of the parent. One of its fields is set.
type toChild struct {
	Parts   *mesh.Parts
	Version uint64 // of Parts
	Issued  *issued
}

// fromChild is a message of the child. One of its fields is set.
type fromChild struct {
	Issue   *mesh.Identity
	Serving *serving
	Applied uint64 // the version that the proxy serves by
}

// issued answers fromChild.Issue: a certificate, or why there is none.
type issued struct {
	ID               mesh.Identity
	Chain, Key, Root []byte // PEM
	Err              string
}

// serving says that the proxy accepts connections, again whenever its
// listeners change.
type serving struct {
	Bound boundPorts
}

// parentEnd is the parent's side of a link.
type parentEnd struct {
	store   *source.Store
	issuer  identity.Issuer
	serving func(serving)
	applied func(version uint64)
}

// run feeds a child until conn fails or ctx ends. It closes conn.
func (p *parentEnd) run(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	out := &encoder{enc: gob.NewEncoder(conn)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for s := range p.store.Updates(ctx) {
			if out.encode(toChild{Parts: &s.Parts, Version: s.Version}) != nil {
				cancel()
				return
			}
		}
	})
	dec := gob.NewDecoder(conn)
	for {
		var m fromChild
		if err := dec.Decode(&m); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("reading from the proxy's process: %w", err)
		}
		switch {
		case m.Issue != nil:
			id := *m.Issue
			wg.Go(func() {
				if out.encode(toChild{Issued: p.issue(ctx, id)}) != nil {
					cancel()
				}
			})
		case m.Serving != nil:
			p.serving(*m.Serving)
		case m.Applied > 0:
			p.applied(m.Applied)
		}
	}
}

func (p *parentEnd) issue(ctx context.Context, id mesh.Identity) *issued {
	c, err := p.issuer.Issue(ctx, id)
	if err != nil {
		return &issued{ID: id, Err: err.Error()}
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return &issued{ID: id, Err: fmt.Sprintf("encoding the key of %s: %v", id, err)}
	}
	out := &issued{ID: id, Root: c.RootPEM, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
	for _, cert := range c.Certificate.Certificate {
		out.Chain = append(out.Chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	}
	return out
}

// childEnd is the child's side of a link: a store that follows the parent's,
// and an Issuer that asks it.
type childEnd struct {
	store *source.Store
	out   *encoder
	conn  net.Conn

	mu      sync.Mutex
	waiting map[mesh.Identity][]chan *issued
	broken  error
}

func newChildEnd(conn net.Conn) *childEnd {
	return &childEnd{
		store: source.NewStore(), conn: conn, out: &encoder{enc: gob.NewEncoder(conn)},
		waiting: map[mesh.Identity][]chan *issued{},
	}
}

// errParentGone is what a link fails with when its parent has ended.
var errParentGone = errors.New("the parent process is gone")

// run takes what the parent sends until the link ends or ctx does. It closes
// the connection.
func (c *childEnd) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	defer c.conn.Close()
	dec := gob.NewDecoder(c.conn)
	for {
		var m toChild
		if err := dec.Decode(&m); err != nil {
			c.fail()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("%w: %w", errParentGone, err)
		}
		switch {
		case m.Parts != nil:
			c.store.Follow(*m.Parts, m.Version)
		case m.Issued != nil:
			c.deliver(m.Issued)
		}
	}
}

// Issue asks the parent for a certificate.
func (c *childEnd) Issue(ctx context.Context, id mesh.Identity) (*identity.Cert, error) {
	ch := make(chan *issued, 1)
	c.mu.Lock()
	if c.broken != nil {
		c.mu.Unlock()
		return nil, c.broken
	}
	c.waiting[id] = append(c.waiting[id], ch)
	c.mu.Unlock()
	if err := c.out.encode(fromChild{Issue: &id}); err != nil {
		return nil, fmt.Errorf("asking for a certificate of %s: %w", id, err)
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case m := <-ch:
		if m == nil {
			return nil, errParentGone
		}
		if m.Err != "" {
			return nil, errors.New(m.Err)
		}
		return identity.NewCert(m.Chain, m.Key, m.Root)
	}
}

// serving tells the parent that the proxy serves.
func (c *childEnd) serving(s serving) error { return c.out.encode(fromChild{Serving: &s}) }

// applied tells the parent which version the proxy serves by.
func (c *childEnd) applied(version uint64) error { return c.out.encode(fromChild{Applied: version}) }

// deliver gives an answer to whoever waits for it.
func (c *childEnd) deliver(m *issued) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.waiting[m.ID] {
		ch <- m
	}
	delete(c.waiting, m.ID)
}

// fail lets everybody who waits go.
func (c *childEnd) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = errParentGone
	for _, list := range c.waiting {
		for _, ch := range list {
			close(ch)
		}
	}
	clear(c.waiting)
}

// encoder is a gob.Encoder for several goroutines.
type encoder struct {
	mu  sync.Mutex
	enc *gob.Encoder
}

func (e *encoder) encode(v any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.enc.Encode(v)
}
