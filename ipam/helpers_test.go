package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/ipam"
)

const seed = "0f6b8a52-6f0c-4d6e-9c1b-0d9a4b6d1c11"

// host is an IPAM with its journal and a clock that stands still.
type host struct {
	*ipam.IPAM
	dir     string
	file    string
	journal *journal.Journal
	cfg     ipam.Config
	now     time.Time
}

// tester is what *testing.T, *testing.B and *rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func newHost(tb testing.TB, change ...func(*ipam.Config)) *host {
	tb.Helper()
	h := startHost(tb, tb.TempDir(), change...)
	tb.Cleanup(func() { _ = h.journal.Close() })
	return h
}

func startHost(t tester, dir string, change ...func(*ipam.Config)) *host {
	t.Helper()
	h := &host{dir: dir, file: filepath.Join(dir, "journal.db"), now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}
	h.cfg = ipam.Config{Seed: seed, Now: func() time.Time { return h.now }}
	for _, c := range change {
		c(&h.cfg)
	}
	h.open(t)
	return h
}

func (h *host) open(t tester) {
	t.Helper()
	var err error
	if h.journal, err = journal.Open(h.file); err != nil {
		t.Fatal(err)
	}
	h.cfg.Journal = h.journal
	if h.IPAM, err = ipam.New(h.cfg); err != nil {
		t.Fatal(err)
	}
}

// restart stops and starts the IPAM.
func (h *host) restart(t tester) {
	t.Helper()
	if err := h.journal.Close(); err != nil {
		t.Fatal(err)
	}
	h.open(t)
}

// crash starts an IPAM on what is on disk at this moment.
func (h *host) crash(t tester) {
	t.Helper()
	b, err := os.ReadFile(h.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.journal.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	h.open(t)
}

func (h *host) pool(t tester, req ipam.PoolRequest) ipam.Pool {
	t.Helper()
	if req.Space == "" {
		req.Space = ipam.LocalSpace
	}
	p, err := h.RequestPool(context.Background(), req)
	if err != nil {
		t.Fatalf("RequestPool(%+v): %v", req, err)
	}
	return p
}

// subnet requests a pool in the local space.
func (h *host) subnet(t tester, s string) string {
	t.Helper()
	return h.pool(t, ipam.PoolRequest{Subnet: netip.MustParsePrefix(s)}).ID
}

func (h *host) take(t tester, req ipam.AddressRequest) netip.Addr {
	t.Helper()
	a, err := h.RequestAddress(context.Background(), req)
	if err != nil {
		t.Fatalf("RequestAddress(%+v): %v", req, err)
	}
	return a.Addr()
}

// want asks for an address and checks the one that comes.
func (h *host) want(t tester, req ipam.AddressRequest, addr string) {
	t.Helper()
	if got := h.take(t, req); got != netip.MustParseAddr(addr) {
		t.Fatalf("RequestAddress(%+v) = %s, want %s", req, got, addr)
	}
}

func (h *host) release(t tester, id string, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		if err := h.ReleaseAddress(context.Background(), id, netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
}

// records counts the addresses in the journal.
func (h *host) records(t tester) int {
	t.Helper()
	n := 0
	if err := h.journal.Each("ipam-addresses", func(string, []byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// wantRefusal checks an error's cause, that its text names what was wrong, and
// that it advises.
func wantRefusal(t tester, err, cause error, texts ...string) {
	t.Helper()
	if !errors.Is(err, cause) {
		t.Fatalf("error %v, want %v", err, cause)
	}
	var refusal *ipam.Error
	if !errors.As(err, &refusal) || refusal.Hint() == "" {
		t.Fatalf("error %v has no hint", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error()+"|"+refusal.Hint(), text) {
			t.Fatalf("error %q with hint %q does not say %q", err, refusal.Hint(), text)
		}
	}
}

// lateContext ends after its Done was asked for once: late enough to pass the
// gate, too early for the journal.
type lateContext struct {
	context.Context
	left   atomic.Int32
	closed chan struct{}
}

func late() *lateContext {
	c := &lateContext{Context: context.Background(), closed: make(chan struct{})}
	c.left.Store(1)
	close(c.closed)
	return c
}

func (c *lateContext) Done() <-chan struct{} {
	if c.left.Add(-1) >= 0 {
		return nil
	}
	return c.closed
}

func (c *lateContext) Err() error {
	if c.left.Load() >= 0 {
		return nil
	}
	return context.DeadlineExceeded
}

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}
