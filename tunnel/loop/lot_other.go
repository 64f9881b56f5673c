//go:build !linux

package loop

// Lot is where quiet sockets wait without a goroutine; see lot_linux.go. Here
// every socket keeps its reader.
type Lot struct{}

// Readers is the number of sockets that have a reader now, and the most that
// had one since the last call; here they are not counted.
func (l *Lot) Readers() (now, peak int) { return 0, 0 }

// Close ends the lot.
func (l *Lot) Close() {}

func (l *Lot) add(*Socket)        {}
func (l *Lot) remove(*Socket)     {}
func (l *Lot) enter(*Socket) bool { return false }
func (l *Lot) leave(*Socket)      {}
