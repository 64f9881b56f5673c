// Package websocket is a WebSocket server that does one thing: it sends back
// what it receives (RFC 6455).
//
// A message is never held in memory: it is sent on in fragments of at most
// 32 KiB while it arrives, so a message of any size can be echoed, and the
// reply may be cut into other fragments than the request was. Text is checked
// to be UTF-8 on the way. Violations of the protocol end the connection with
// the close code that section 7.4.1 has for them.
//
//	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
//		websocket.Echo(ctx, w, r)
//	})
//
// There are no extensions and no subprotocols.
package websocket
