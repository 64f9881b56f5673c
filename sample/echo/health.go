package echo

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The two messages of grpc.health.v1 are one field each:
//
//	HealthCheckRequest  { string service = 1; }
//	HealthCheckResponse { ServingStatus status = 1; }
const (
	statusServing        = 1
	statusNotServing     = 2
	statusServiceUnknown = 3
)

// healthCheck answers grpc.health.v1.Health/Check.
func (c *call) healthCheck() error {
	service, err := c.healthRequest()
	if err != nil {
		return err
	}
	if !hasService(service) {
		return &grpcError{codeNotFound, fmt.Sprintf("unknown service %q", service)}
	}
	return c.send(healthResponse(statusServing))
}

// healthWatch answers grpc.health.v1.Health/Watch: the status now, and "not
// serving" once the server drains. It never changes otherwise.
func (s *Server) healthWatch(c *call) error {
	service, err := c.healthRequest()
	if err != nil {
		return err
	}
	status := uint64(statusServing)
	if !hasService(service) {
		status = statusServiceUnknown
	}
	if err := c.send(healthResponse(status)); err != nil {
		return err
	}
	select {
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-s.ending.Done():
	}
	if status == statusServing {
		if err := c.send(healthResponse(statusNotServing)); err != nil {
			return err
		}
	}
	return &grpcError{codeUnavailable, "the server is going away"}
}

// healthRequest reads the call's message and returns the service that it names;
// "" is the server as a whole.
func (c *call) healthRequest() (string, error) {
	m, err := c.only()
	if err != nil {
		return "", err
	}
	return parseHealthRequest(m)
}

func parseHealthRequest(m []byte) (service string, err error) {
	bad := func(n int) error {
		return &grpcError{codeInternal, "the message is no HealthCheckRequest: " + protowire.ParseError(n).Error()}
	}
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return "", bad(n)
		}
		m = m[n:]
		if num == 1 && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(m)
			if n < 0 {
				return "", bad(n)
			}
			service, m = string(v), m[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, m); n < 0 {
			return "", bad(n)
		}
		m = m[n:]
	}
	return service, nil
}

func healthResponse(status uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), status)
}

func hasService(name string) bool {
	switch name {
	case "", "cairn.sample.v1.Echo", "grpc.examples.echo.Echo", "grpc.health.v1.Health":
		return true
	}
	return false
}
