package h2

// Handlers returns the handlers of the streams that are open, for an owner
// that wants to end them in good order.
func (c *Conn) Handlers() []StreamHandler {
	c.q.Lock()
	defer c.q.Unlock()
	out := make([]StreamHandler, 0, len(c.streams))
	for _, s := range c.streams {
		if s.handler != nil {
			out = append(out, s.handler)
		}
	}
	return out
}
