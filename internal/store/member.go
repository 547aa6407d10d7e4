package store

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// A member is one endpoint. It has a connection only while it is in use or tried.
type member struct {
	endpoint string
	config   clientv3.Config // without TLS
	// tls reads the certificates, nil for a connection in the clear.
	tls func() (*tls.Config, error)

	mu     sync.Mutex
	cli    *clientv3.Client
	born   time.Time
	dialed chan struct{} // closed when the client is made or could not be
	err    error
	wanted bool // what is being dialed
}

// client returns the member's client and makes it if there is none. With a user
// it is made by logging in, which goes on when ctx ends first.
func (m *member) client(ctx context.Context) (*clientv3.Client, error) {
	m.mu.Lock()
	if m.cli != nil || ctx.Err() != nil { // who comes after the end makes none
		defer m.mu.Unlock()
		return m.cli, ctx.Err()
	}
	if m.dialed == nil {
		m.dialed, m.err = make(chan struct{}), nil
		go m.dial(m.dialed)
	}
	dialed := m.dialed
	m.wanted = true
	m.mu.Unlock()
	select {
	case <-dialed:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cli == nil && m.err == nil {
		return nil, errors.New("the connection was closed")
	}
	return m.cli, m.err
}

func (m *member) dial(dialed chan struct{}) {
	cli, err := m.connect()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && !m.wanted {
		closeClient(cli)
		cli = nil
	}
	m.cli, m.err, m.born, m.dialed = cli, err, time.Now(), nil
	close(dialed)
}

func (m *member) connect() (*clientv3.Client, error) {
	cfg := m.config
	if m.tls != nil {
		var err error
		if cfg.TLS, err = m.tls(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(cfg)
}

// drop closes the connection if it is older than age.
func (m *member) drop(age time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = m.wanted && age > 0
	if m.cli != nil && time.Since(m.born) >= age {
		closeClient(m.cli)
		m.cli = nil
	}
}

// closeClient ends a connection. It always fails: with the end of its own context.
func closeClient(cli *clientv3.Client) { _ = cli.Close() }

// forget leaves a client to the session that has it.
func (m *member) forget(cli *clientv3.Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cli == cli {
		m.cli = nil
	}
}

// refused asks a member that broke a TLS connection why: its alert about our
// certificate comes after the handshake, where gRPC often reads it too late.
func (m *member) refused(ctx context.Context, err error) error {
	if m.tls == nil || status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "tls: ") {
		return nil
	}
	secure, err := m.tls()
	if err != nil {
		return nil // the next connection says so
	}
	conn, err := (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", m.endpoint)
	if err != nil {
		return nil // gRPC has said this already
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(alertPatience)); err != nil {
		return nil
	}
	if _, err = conn.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "tls: ") {
		return err
	}
	return nil
}

// A session is the connection that requests use.
type session struct {
	member *member
	cli    *clientv3.Client
	rev    atomic.Int64 // the highest revision that this connection told

	moved context.Context // ends when another session follows
	move  context.CancelFunc
	dead  context.Context // ends when its requests are given up
	bury  context.CancelFunc
}

func newSession(ctx context.Context, m *member, cli *clientv3.Client) *session {
	s := &session{member: m, cli: cli}
	s.moved, s.move = context.WithCancel(ctx)
	s.dead, s.bury = context.WithCancel(ctx)
	return s
}

// leave ends watches now and what else is under way after a grace.
func (s *session) leave(grace time.Duration) {
	s.member.forget(s.cli)
	s.move()
	end := func() {
		s.bury()
		closeClient(s.cli)
	}
	if grace == 0 {
		end()
		return
	}
	time.AfterFunc(grace, end)
}

// clientConfig is etcd's client for one endpoint: no retries of any kind, so that
// each request is sent once at most, and no log of its own.
func clientConfig(ctx context.Context, cfg Config, t target, endpoint string) clientv3.Config {
	url := "http://" + endpoint
	if t.secure {
		url = "https://" + endpoint
	}
	return clientv3.Config{
		Endpoints:       []string{url},
		Context:         ctx,
		Username:        cfg.User,
		Password:        cfg.Password,
		DialTimeout:     loginTimeout,
		Logger:          zap.NewNop(),
		MaxUnaryRetries: 1, // attempts: more would repeat a Txn that the server cancelled
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(),
			grpc.WithDisableServiceConfig(),
			grpc.WithStatsHandler(sentHandler{}),
			grpc.WithChainUnaryInterceptor(failFast),
			grpc.WithStreamInterceptor(failFastStream),                 // instead of one that logs in for every stream
			grpc.WithDefaultCallOptions(grpc.MaxRetryRPCBufferSize(0)), // no transparent retry of what was sent
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 400 * time.Millisecond},
				MinConnectTimeout: 2 * time.Second,
			}),
		},
	}
}

// failFast makes a request fail with the reason when there is no connection; the
// client would wait for one until the end of the context.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return next(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// failFastStream is failFast for streams. A token that has expired fails the stream
// and is renewed by the next probe; the client would log in again for each stream,
// which costs a server some 50 ms of its processor.
func failFastStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return next(ctx, desc, cc, method, append(opts, grpc.WaitForReady(false))...)
}

// sentKey is the context key of a *atomic.Bool that becomes true before anything
// of a request can leave this host.
type sentKey struct{}

// watchSent returns a context whose requests are noticed when they are sent.
func watchSent(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent
}

// sentHandler hears from gRPC that the header of a request has been queued for an
// established connection; the request itself follows after it. Without that
// nothing was sent.
type sentHandler struct{}

// TagRPC does nothing.
func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC notes that a request is on its way, or answered.
func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload, *stats.InHeader, *stats.InPayload:
		if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			sent.Store(true)
		}
	}
}

// TagConn does nothing.
func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}
