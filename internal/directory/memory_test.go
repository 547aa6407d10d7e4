package directory_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/store"
)

// rememberAfter is how far the journal may be behind.
const rememberAfter = time.Second

// clock is what a directory takes for the time.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Unix(0, 0).Add(c.ahead)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	c.ahead += d
	c.mu.Unlock()
}

// counted is a journal that counts the writes of a directory.
type counted struct {
	*journal.Journal
	writes atomic.Int32
	fails  atomic.Bool
}

func (c *counted) Commit(ctx context.Context, ops ...journal.Op) error {
	c.writes.Add(1)
	if c.fails.Load() {
		return journal.ErrClosed
	}
	return c.Journal.Commit(ctx, ops...)
}

// journaled are the addresses that the journal has of a network's other hosts.
func (h *host) journaled(uuid string) string {
	all, err := journal.Load[struct{ VTEPs []netip.Addr }](h.Journal, "directory-peers")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, ok := all[uuid]; !ok {
		return ""
	}
	return fmt.Sprint(all[uuid].VTEPs)
}

// looked waits until the directory has gone around once more.
func (h *host) looked(s *store.Fake, uuid, id string) {
	h.t.Helper()
	h.Publish(uuid, endpoint(id, "10.1.0.200"))
	h.Until(id+" is told", func() bool { return told(h.t, s, id) })
}

// TestMemory: a host that starts without the store knows where the others were, until it
// sees where they are; and the journal is not written for each change.
func TestMemory(t *testing.T) {
	fake := store.NewFake()
	s1, dir, c := fake.Peer(), t.TempDir(), &clock{}
	a := startHost(t, "h1", s1, dir, c)
	a.Until("ready", a.Ready)
	b := newHost(t, "h2", fake.Peer(), t.TempDir())
	n := a.found(network("demo"))
	b.Attend(n)
	b.Publish(n.UUID, endpoint("e2", "10.1.0.3"))
	a.Until("a sees e2", func() bool { return strings.Contains(a.lines(n.UUID), "e2 10.1.0.3 at 192.0.2.2") })
	a.looked(fake, n.UUID, "one")
	c.pass(rememberAfter - 1)
	a.looked(fake, n.UUID, "two")
	if got := a.journal.writes.Load(); got != 0 {
		t.Fatalf("%d writes at once", got)
	}
	if got := a.Remembered(n.UUID); len(got) != 0 {
		t.Fatalf("what is seen is remembered: %v", got)
	}
	a.journal.fails.Store(true)
	c.pass(1)
	a.Until("it writes", func() bool { return a.journal.writes.Load() > 0 })
	a.journal.fails.Store(false)
	c.pass(time.Minute)
	a.Until("it begins again", func() bool { c.pass(time.Second); return a.journaled(n.UUID) == "[192.0.2.2]" })
	for i := range 20 {
		b.Publish(n.UUID, endpoint(fmt.Sprint("x", i), fmt.Sprintf("10.1.0.%d", 10+i)))
	}
	a.Until("a sees all", func() bool { return strings.Contains(a.lines(n.UUID), "x19") })
	before := a.journal.writes.Load()
	c.pass(time.Minute)
	a.looked(fake, n.UUID, "three")
	if got := a.journal.writes.Load(); got != before {
		t.Fatalf("%d writes for endpoints of a host that is known", got-before)
	}
	a.Stop()

	s1.SetDown(true)
	a = startHost(t, "h1", s1, dir, c, n)
	if got := fmt.Sprint(a.Remembered(n.UUID)); got != "[192.0.2.2]" || a.Follows(n.UUID) {
		t.Fatalf("after a start without the store: %s, seen: %t", got, a.Follows(n.UUID))
	}
	if got := a.Endpoints(n.UUID); len(got) != 0 {
		t.Fatalf("old news say where an address is: %v", got)
	}
	b.Forsake(n.UUID)
	b.Until("b left", func() bool { return !told(t, fake, "e2") })
	s1.SetDown(false)
	a.Until("a sees it", func() bool { return a.Follows(n.UUID) })
	if got := a.Remembered(n.UUID); len(got) != 0 {
		t.Fatalf("old news survive the look at the store: %v", got)
	}
	a.Until("the journal forgets", func() bool { c.pass(time.Second); return a.journaled(n.UUID) == "" })
}

// TestMemoryOfForsaken: a network that this host has no more leaves no record, and one
// that cannot be read keeps nothing from starting.
func TestMemoryOfForsaken(t *testing.T) {
	fake := store.NewFake()
	s1, dir, c := fake.Peer(), t.TempDir(), &clock{}
	a, b := startHost(t, "h1", s1, dir, c), newHost(t, "h2", fake.Peer(), t.TempDir())
	a.Until("ready", a.Ready)
	n, other := a.found(network("demo")), a.found(network("other"))
	for _, x := range []directory.Network{n, other} {
		b.Attend(x)
		b.Publish(x.UUID, endpoint("e2", "10.1.0.3"))
		a.Until("a sees e2", func() bool { return strings.Contains(a.lines(x.UUID), "192.0.2.2") })
	}
	for _, x := range []directory.Network{n, other} {
		a.Until("both are remembered", func() bool { c.pass(time.Second); return a.journaled(x.UUID) == "[192.0.2.2]" })
	}
	a.Forsake(n.UUID)
	a.Until("one is forgotten", func() bool { c.pass(time.Second); return a.journaled(n.UUID) == "" })
	if err := a.Journal.Commit(t.Context(), journal.Put("directory-peers", n.UUID, map[string]any{"v": 99, "vteps": []string{"192.0.2.9"}})); err != nil {
		t.Fatal(err)
	}
	a.Stop()
	s1.SetDown(true)
	a = startHost(t, "h1", s1, dir, c, n, other)
	if got := slices.Concat(a.Remembered(n.UUID), a.Remembered(other.UUID)); fmt.Sprint(got) != "[192.0.2.2]" {
		t.Fatalf("%v", got)
	}
}
