package record

import "slices"

// Sealer is the sending direction. It belongs to the connection's flusher.
type Sealer struct {
	keys
	limit uint64 // records with one key
}

// maxRecords is how many records are sealed with one key: AES-GCM is good for
// some 2^24.5 (RFC 8446 section 5.5).
const maxRecords = 1 << 24

// Seal appends b to dst as records of application data. b and dst must not
// overlap, and b must have room for one more byte: the byte behind what is
// being sealed is changed meanwhile and put back. Nobody else may read it.
func (s *Sealer) Seal(dst, b []byte) ([]byte, error) {
	records := (len(b) + maxPlain - 1) / maxPlain
	dst = slices.Grow(dst, len(b)+records*Overhead)
	var err error
	for len(b) > 0 {
		n := min(len(b), maxPlain)
		if s.seq >= s.limit {
			if dst, err = s.Update(dst); err != nil {
				return dst, err
			}
		}
		if dst, err = s.record(dst, typeData, b[:n+1], n); err != nil {
			return dst, err
		}
		b = b[n:]
	}
	return dst, nil
}

// record seals p[:n], with its type in p[n].
func (s *Sealer) record(dst []byte, typ byte, p []byte, n int) ([]byte, error) {
	at := len(dst)
	size := n + 1 + tagLen
	dst = append(dst, typeData, 3, 3, byte(size>>8), byte(size))
	kept := p[n]
	p[n] = typ
	dst = s.aead.Seal(dst, s.next(), p[:n+1], dst[at:at+headerLen])
	p[n] = kept
	return dst, nil
}

// Update appends a KeyUpdate that asks for none in return, and goes on with the
// next keys.
func (s *Sealer) Update(dst []byte) ([]byte, error) {
	dst, err := s.record(dst, typeHandshake, []byte{keyUpdate, 0, 0, 1, 0, 0}, 5)
	if err != nil {
		return dst, err
	}
	return dst, s.update()
}

// Close appends close_notify.
func (s *Sealer) Close(dst []byte) ([]byte, error) {
	return s.record(dst, typeAlert, []byte{1, byte(alertCloseNotify), 0}, 2)
}

// Alert appends a fatal alert.
func (s *Sealer) Alert(dst []byte, a Alert) ([]byte, error) {
	return s.record(dst, typeAlert, []byte{2, byte(a), 0}, 2)
}
