// Package node is the node proxies of a test: a client and a server of HBONE
// made of net/http and x/net/http2, which share nothing with the program under
// test. A test dials as any identity to any authority, and its applications
// take what is carried to their pods as a net.Conn.
//
//	Client.Dial ══HBONE══► waypoint under test ══HBONE══► Server ─► Listener.Accept
//
// Both ends of a stream are sockets of one machine (a socket pair), so that
// deadlines and half-closes work as they do in TCP.
package node
