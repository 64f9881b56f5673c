package traffic

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serveGRPC runs grpc-go's interop server, and health. Every answer says which
// pod it is from, and what it saw of the fields that begin with x-.
func (p *pod) serveGRPC(ln net.Listener) {
	srv := grpc.NewServer(grpc.UnaryInterceptor(p.unary), grpc.StreamInterceptor(p.stream))
	testpb.RegisterTestServiceServer(srv, interop.NewTestServer())
	h := health.NewServer()
	p.mu.Lock()
	p.health = append(p.health, h)
	p.mu.Unlock()
	healthpb.RegisterHealthServer(srv, h)
	srv.Serve(ln)
}

// serving says whether the pod's health service says so.
func (p *pod) serving(yes bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		state = healthpb.HealthCheckResponse_SERVING
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.health {
		h.SetServingStatus("", state)
	}
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
	head := p.head(ctx)
	p.mu.Lock()
	hook := p.call
	p.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err // without a head, which would come before the status
		}
	}
	grpc.SetHeader(ctx, head)
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

// call is one unary gRPC call and what must come back.
type call struct {
	svc     string
	port    uint16
	method  string // default: EmptyCall of the interop service
	ns      string
	headers []string
	timeout time.Duration // default 10 s

	code          codes.Code
	pod           string
	seen          []string // metadata as the pod saw it, of fields that begin with x-
	want          []string // of the response's head
	text          string   // what the status message contains
	within, least time.Duration
}

const emptyCall = "/grpc.testing.TestService/EmptyCall"

// calls proves that each call ends as it says.
func calls(list ...call) func(*trial) error {
	return func(x *trial) error {
		for _, c := range list {
			if err := x.call(c); err != nil {
				return err
			}
		}
		return nil
	}
}

func (x *trial) call(c call) error {
	conn, err := x.dialGRPC(ask{svc: c.svc, port: c.port, ns: c.ns})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), c.headers...), cmp.Or(c.timeout, 10*time.Second))
	defer cancel()
	var head, trailer metadata.MD
	method := cmp.Or(c.method, emptyCall)
	begin := time.Now()
	err = conn.Invoke(ctx, method, &testpb.Empty{}, &testpb.Empty{}, grpc.Header(&head), grpc.Trailer(&trailer))
	took := time.Since(begin)
	if got := status.Code(err); got != c.code {
		return wrongf("%s %q: %v, want %v", method, c.headers, err, c.code)
	}
	if c.text != "" && !strings.Contains(err.Error(), c.text) {
		return wrongf("%s: %v, want %q in it", method, err, c.text)
	}
	if pod := strings.Join(head.Get("x-pod"), ","); !strings.HasPrefix(pod, c.pod) {
		return wrongf("%s %q: answered by %q, want %q", method, c.headers, pod, c.pod)
	}
	saw, fields := http.Header{}, http.Header{}
	for k, v := range head {
		fields[http.CanonicalHeaderKey(k)] = v
		if name, ok := strings.CutPrefix(k, "saw-"); ok {
			saw[http.CanonicalHeaderKey(name)] = v
		}
	}
	for k, v := range trailer {
		fields[http.CanonicalHeaderKey(k)] = append(fields[http.CanonicalHeaderKey(k)], v...)
	}
	if wrong := append(missing(saw, c.seen), missing(fields, c.want)...); wrong != nil {
		return wrongf("%s %q: %s", method, c.headers, strings.Join(wrong, "; "))
	}
	if c.within > 0 && took > c.within || took < c.least {
		return wrongf("%s: it took %v, want %v to %v", method, took.Round(time.Millisecond), c.least, c.within)
	}
	return nil
}

// spreadGRPC calls n times and returns how often each pod answered.
func (x *trial) spreadGRPC(n int, a ask) (map[string]int, error) {
	conn, err := x.dialGRPC(a)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	out := map[string]int{}
	for range n {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var head metadata.MD
		err := conn.Invoke(ctx, emptyCall, &testpb.Empty{}, &testpb.Empty{}, grpc.Header(&head))
		cancel()
		if err != nil {
			return nil, err
		}
		out[strings.Join(head.Get("x-pod"), ",")]++
	}
	return out, nil
}
