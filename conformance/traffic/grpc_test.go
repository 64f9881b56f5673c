package traffic

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// serveGRPC runs grpc-go's interop server, and health. Every answer says which
// pod it is from, and what it saw of the fields that begin with x-.
func (p *pod) serveGRPC(ln net.Listener) {
	srv := grpc.NewServer(grpc.UnaryInterceptor(p.unary), grpc.StreamInterceptor(p.stream))
	testpb.RegisterTestServiceServer(srv, interop.NewTestServer())
	h := health.NewServer()
	healthpb.RegisterHealthServer(srv, h)
	srv.Serve(ln)
}

func (p *pod) head(ctx context.Context) metadata.MD {
	p.calls.Add(1)
	out := metadata.Pairs("x-pod", p.name)
	in, _ := metadata.FromIncomingContext(ctx)
	for k, v := range in {
		if len(k) > 2 && k[:2] == "x-" {
			out.Append("saw-"+k, v...)
		}
	}
	return out
}

func (p *pod) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	grpc.SetHeader(ctx, p.head(ctx))
	p.mu.Lock()
	hook := p.call
	p.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

func (p *pod) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ss.SetHeader(p.head(ss.Context()))
	return next(srv, ss)
}

// dialGRPC returns a client of a service's gRPC port.
func (x *trial) dialGRPC(a ask) (*grpc.ClientConn, error) {
	if a.port == 0 {
		a.port = portGRPC
	}
	ns := a.ns
	if ns == "" {
		ns = x.ns
	}
	return grpc.NewClient("passthrough:///echo", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return x.dial(ctx, ns, "client", a.from, x.vip(a.svc, a.port))
		}))
}
