package upstream

import (
	"crypto/sha256"
	"encoding/binary"
)

// SessionID names an endpoint in a session's cookie or header: a hash of service,
// port and workload. Every instance of a waypoint computes the same, so sessions
// survive restarts and other instances, and it says nothing of addresses. A client
// that makes one up names an endpoint of the service that it talks to, or nothing.
type SessionID [12]byte

// idTable finds endpoints by their SessionIDs.
type idTable struct {
	ids  []SessionID // by position
	byID map[SessionID]*Endpoint
}

// Sessions makes the cluster able to tell and find SessionIDs, which few are asked for.
func (c *Cluster) Sessions() {
	if c.ids.Load() != nil {
		return
	}
	t := &idTable{make([]SessionID, len(c.endpoints)), make(map[SessionID]*Endpoint, len(c.endpoints))}
	for i, e := range c.endpoints {
		t.ids[i] = c.sessionID(e)
		t.byID[t.ids[i]] = e
	}
	c.ids.Store(t) // another one that is made meanwhile is the same
}

func (c *Cluster) sessionID(e *Endpoint) (id SessionID) {
	h := sha256.New()
	for _, s := range []string{"cairn session 1", c.serviceName(), e.Workload.UID} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	h.Write([]byte{byte(c.Port >> 8), byte(c.Port), byte(e.Port >> 8), byte(e.Port)})
	copy(id[:], h.Sum(nil))
	return id
}

func (c *Cluster) serviceName() string {
	if c.Service == nil {
		return ""
	}
	return c.Service.Key.String()
}

// SessionID returns the name of e, one of c's endpoints. Sessions was called.
func (c *Cluster) SessionID(e *Endpoint) SessionID { return c.ids.Load().ids[e.position] }

// Find returns the endpoint that id names; nil when there is none. Sessions was called.
func (c *Cluster) Find(id SessionID) *Endpoint { return c.ids.Load().byID[id] }
