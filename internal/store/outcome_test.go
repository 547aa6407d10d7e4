package store_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weft-net/weft/internal/store"
)

// script is a member that answers reads like an idle etcd and every Txn as told.
type script struct {
	pb.UnimplementedKVServer
	addr   string
	server *grpc.Server
	txn    func(context.Context) error
	txns   atomic.Int32
	reads  atomic.Int32
	rev    atomic.Int64
	mu     sync.Mutex
	conns  []net.Conn
}

// record remembers connections, so that they can be cut.
func (s *script) record(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
}

func (s *script) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

type recorder struct {
	net.Listener
	script *script
}

func (r recorder) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err == nil {
		r.script.record(c)
	}
	return c, err
}

func startScript(t *testing.T, txn func(*script, context.Context) error) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{addr: l.Addr().String(), server: grpc.NewServer()}
	s.rev.Store(7)
	s.txn = func(ctx context.Context) error { return txn(s, ctx) }
	pb.RegisterKVServer(s.server, s)
	go s.server.Serve(recorder{l, s})
	t.Cleanup(s.server.Stop)
	return s
}

func (s *script) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, Revision: s.rev.Load()}
}

func (s *script) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.reads.Add(1)
	return &pb.RangeResponse{Header: s.header()}, nil
}

func (s *script) Txn(ctx context.Context, _ *pb.TxnRequest) (*pb.TxnResponse, error) {
	s.txns.Add(1)
	if err := s.txn(ctx); err != nil {
		return nil, err
	}
	return &pb.TxnResponse{Header: s.header(), Succeeded: true}, nil
}

func answer(err error) func(*script, context.Context) error {
	return func(*script, context.Context) error { return err }
}

// TestOutcomes: every way in which a Txn can fail is reported as what it is, and
// none of them but a certain refusal makes the client send it again.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	hang := func(_ *script, ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for _, c := range []struct {
		name string
		txn  func(*script, context.Context) error
		want error
		txns int32
	}{
		{"no leader", answer(rpctypes.ErrGRPCNoLeader), store.ErrUnknown, 1},
		{"leader changed", answer(rpctypes.ErrGRPCLeaderChanged), store.ErrUnknown, 1},
		{"stopped", answer(rpctypes.ErrGRPCStopped), store.ErrUnknown, 1},
		{"timeout", answer(rpctypes.ErrGRPCTimeout), store.ErrUnknown, 1},
		{"timeout, leader lost", answer(rpctypes.ErrGRPCTimeoutDueToLeaderFail), store.ErrUnknown, 1},
		{"timeout, connection lost", answer(rpctypes.ErrGRPCTimeoutDueToConnectionLost), store.ErrUnknown, 1},
		{"unhealthy", answer(rpctypes.ErrGRPCUnhealthy), store.ErrUnknown, 1},
		{"corrupt", answer(rpctypes.ErrGRPCCorrupt), store.ErrUnknown, 1},
		{"cancelled by the server", answer(status.Error(codes.Canceled, "context canceled")), store.ErrUnknown, 1},
		{"deadline of the server", answer(status.Error(codes.DeadlineExceeded, "context deadline exceeded")), store.ErrUnknown, 1},
		{"unavailable", answer(status.Error(codes.Unavailable, "there is no connection available")), store.ErrUnknown, 1},
		{"transport closing", answer(status.Error(codes.Unavailable, "transport is closing")), store.ErrUnknown, 1},
		{"internal", answer(status.Error(codes.Internal, "boom")), store.ErrUnknown, 1},
		{"unknown", answer(errors.New("boom")), store.ErrUnknown, 1},
		{"denied by a stranger", answer(status.Error(codes.PermissionDenied, "proxy says no")), store.ErrUnknown, 1},
		{"exhausted by a stranger", answer(status.Error(codes.ResourceExhausted, "proxy is busy")), store.ErrUnknown, 1},
		{"no answer", hang, store.ErrUnknown, 1},
		{"connection cut", func(s *script, ctx context.Context) error {
			s.cut()
			return hang(s, ctx)
		}, store.ErrUnknown, 1},
		{"server ends", func(s *script, ctx context.Context) error {
			go s.server.Stop()
			return hang(s, ctx)
		}, store.ErrUnknown, 1},
		{"full", answer(rpctypes.ErrGRPCNoSpace), store.ErrReadOnly, 1},
		{"full, and applied", func(s *script, _ context.Context) error {
			s.rev.Add(1)
			return rpctypes.ErrGRPCNoSpace
		}, store.ErrUnknown, 1},
		{"permission", answer(rpctypes.ErrGRPCPermissionDenied), store.ErrDenied, 1},
		{"token", answer(rpctypes.ErrGRPCInvalidAuthToken), store.ErrDenied, 8},
		{"auth changed", answer(rpctypes.ErrGRPCAuthOldRevision), store.ErrDenied, 8},
		{"overload", answer(rpctypes.ErrGRPCRequestTooManyRequests), store.ErrDown, 8},
		{"too large", answer(rpctypes.ErrGRPCRequestTooLarge), store.ErrTooLarge, 1},
		{"too many", answer(rpctypes.ErrGRPCTooManyOps), store.ErrTooLarge, 1},
		{"twice", answer(rpctypes.ErrGRPCDuplicateKey), store.ErrInvalid, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			member := startScript(t, c.txn)
			s := open(t, store.Config{Endpoints: "etcd://" + member.addr})
			eventually(t, 5*time.Second, "it is up", s.Up)
			limit := time.Second
			if c.txns > 1 { // what is sent again ends by its count
				limit = 20 * time.Second
			}
			res, err := s.Commit(within(t, limit), store.Txn{
				If: []store.Cond{store.Unchanged("k", 0)}, Then: []store.Op{store.Put("k", nil)},
			})
			if !errors.Is(err, c.want) || !errors.Is(c.want, store.ErrUnknown) && errors.Is(err, store.ErrUnknown) || res.OK {
				t.Errorf("%+v, %v, want %v", res, err, c.want)
			}
			if n := member.txns.Load(); n != c.txns {
				t.Errorf("sent %d times, want %d", n, c.txns)
			}
		})
	}
}

// TestFullAndApplied: such an answer says both that the store is full and that the
// outcome is unknown.
func TestFullAndApplied(t *testing.T) {
	t.Parallel()
	member := startScript(t, func(s *script, _ context.Context) error {
		s.rev.Add(1)
		return rpctypes.ErrGRPCNoSpace
	})
	s := open(t, store.Config{Endpoints: "etcd://" + member.addr})
	_, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("k", nil)}})
	if !errors.Is(err, store.ErrUnknown) || !errors.Is(err, store.ErrReadOnly) {
		t.Error(err)
	}
}

// TestEtcdsClientRepeats shows why the client's own retries are off: by default it
// sends a Txn again that the server gave up, which may then fail its own conditions.
func TestEtcdsClientRepeats(t *testing.T) {
	t.Parallel()
	member := startScript(t, answer(status.Error(codes.Canceled, "context canceled")))
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + member.addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	_, err = cli.Txn(within(t, 500*time.Millisecond)).Then(clientv3.OpPut("k", "v")).Commit()
	if n := member.txns.Load(); err == nil || n < 2 {
		t.Errorf("sent %d times (%v): the client no longer does this, and MaxUnaryRetries could go", n, err)
	}
}

// TestNothingSent: a Commit that could not be sent did nothing.
func TestNothingSent(t *testing.T) {
	t.Parallel()
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // connections wait in the kernel for good
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	txn := store.Txn{Then: []store.Op{store.Put("k", nil)}}
	for name, addr := range map[string]string{"nobody listens": "127.0.0.1:9", "nobody accepts": deaf.Addr().String()} {
		s := open(t, store.Config{Endpoints: "etcd://" + addr})
		start := time.Now()
		if _, err := s.Commit(t.Context(), txn); !errors.Is(err, store.ErrDown) || errors.Is(err, store.ErrUnknown) || time.Since(start) > noticeDown {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
		refusesAtOnce(t, s)
	}

	member := startScript(t, answer(nil))
	s := open(t, store.Config{Endpoints: "etcd://" + member.addr})
	eventually(t, 5*time.Second, "it is up", s.Up)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Commit(over, txn); !errors.Is(err, store.ErrDown) || !errors.Is(err, context.Canceled) || member.txns.Load() != 0 {
		t.Errorf("Commit with a context that has ended: %v", err)
	}
	s.Close()
	if _, err := s.Commit(t.Context(), txn); !errors.Is(err, store.ErrDown) || !errors.Is(err, store.ErrClosed) {
		t.Errorf("Commit on a closed store: %v", err)
	}
	if err := s.Watch(t.Context(), "", func(store.Update) {}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Watch on a closed store: %v", err)
	}
}

// TestIdle: a store that nobody uses costs one connection and about one read a
// second.
func TestIdle(t *testing.T) {
	t.Parallel()
	one, two := startScript(t, answer(nil)), startScript(t, answer(nil))
	s := open(t, store.Config{Endpoints: "etcd://" + one.addr + "," + two.addr})
	eventually(t, 5*time.Second, "it is up", s.Up)
	used, idle := one, two
	if s.Status().Member == two.addr {
		used, idle = two, one
	}
	before := used.reads.Load()
	since := time.Now()
	eventually(t, 10*time.Second, "five reads", func() bool { return used.reads.Load() >= before+5 })
	if d := time.Since(since); d < 2500*time.Millisecond {
		t.Errorf("five reads in %s", d)
	}
	if n := idle.reads.Load(); n > 1 {
		t.Errorf("%d reads of a member that is not in use", n)
	}
}
