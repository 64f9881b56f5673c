package identity

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"cairnproxy.dev/cairn/mesh"
)

// TestFederation: members of a federated trust domain are believed by that
// domain's bundle, and by no other.
func TestFederation(t *testing.T) {
	ours := mustCA(t)
	theirs, err := NewCA("evil.example")
	if err != nil {
		t.Fatal(err)
	}
	federated := func(ca *CA, id mesh.Identity, with map[string][]*x509.Certificate) *Cert {
		c, err := ca.Issue(id, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewCertOf([]*x509.Certificate{c.Leaf}, c.PrivateKey, []*x509.Certificate{rootOf(ca)}, with)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	bundles := map[string][]*x509.Certificate{"cluster.local": {rootOf(ours)}, "evil.example": {rootOf(theirs)}}
	swapped := map[string][]*x509.Certificate{"cluster.local": {rootOf(ours)}, "evil.example": {rootOf(ours)}}
	for name, tt := range map[string]struct {
		client, server *Cert
		ok             bool
	}{
		"both":         {federated(theirs, eve, bundles), federated(ours, bob, bundles), true},
		"client-alone": {federated(theirs, eve, bundles), federated(ours, bob, nil), false},
		"server-alone": {federated(theirs, eve, nil), federated(ours, bob, bundles), false},
		"wrong-bundle": {federated(theirs, eve, bundles), federated(ours, bob, swapped), false},
		// Our own CA vouches for nobody of the other domain: theirs alone does.
		"forged": {sign(t, ours, eve, nil), federated(ours, bob, bundles), false},
		// And theirs for nobody of ours.
		"forged-ours": {sign(t, theirs, alice, nil), federated(ours, bob, bundles), false},
		"own":         {federated(ours, alice, bundles), federated(ours, bob, bundles), true},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "forged-ours" || name == "forged" {
				tt.client.Roots, tt.client.RootPEM = tt.server.Roots, tt.server.RootPEM
			}
			server := NewCache(fixed(tt.server), CacheOptions{}).Server(bob)
			client := NewCache(fixed(tt.client), CacheOptions{}).Client(tt.client.Identity, []string{bob.String()})
			_, ss, cerr, serr := handshake(client, server)
			if (cerr == nil && serr == nil) != tt.ok {
				t.Fatalf("client %v, server %v", cerr, serr)
			}
			if tt.ok {
				if id, err := PeerOf(ss); err != nil || id != tt.client.Identity {
					t.Errorf("peer = %v, %v", id, err)
				}
			} else if _, ok := errors.AsType[*PeerError](serr); !ok && cerr == nil {
				t.Errorf("server's error = %v", serr)
			}
		})
	}
}

func TestNewCertOfRefuses(t *testing.T) {
	ca := mustCA(t)
	c, err := ca.Issue(alice, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewCertOf(nil, c.PrivateKey, []*x509.Certificate{rootOf(ca)}, nil); err == nil {
		t.Error("no chain: no error")
	}
	if _, err := NewCertOf([]*x509.Certificate{c.Leaf}, c.PrivateKey, nil, nil); err == nil {
		t.Error("no roots: no error")
	}
	if _, err := NewCertOf([]*x509.Certificate{c.Leaf}, c.PrivateKey, []*x509.Certificate{rootOf(mustCA(t))}, nil); err == nil {
		t.Error("another's root: no error")
	}
}
