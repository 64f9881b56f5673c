// Package tcpload is the application at both ends of a pair of node proxies,
// in one process: clients that open plain TCP connections and an App that
// accepts them. It speaks in the plainest way there is, so that what it costs
// is near what the kernel costs.
//
//	bulk:      'b', then blocks of BlockSize ──►   ◄── the number of blocks so far, after each good one
//	otherwise: anything ──►                         ◄── the same
//
// Every byte is checked: blocks by their CRC-32C at the App, echoes at the
// client against what it sent. A run reports how many checks failed and the
// first failure.
package tcpload
