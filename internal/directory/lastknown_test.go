package directory_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/store"
)

// called describes endpoints by their names.
func called(list []directory.Endpoint) string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s=%s@%v", e.ID, strings.Join(e.Names, ","), e.Addrs[0]))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// kept are the ids of the endpoints that the journal has.
func (h *host) kept() string {
	h.t.Helper()
	var out []string
	err := h.Journal.Each("directory-endpoints", func(key string, _ []byte) error {
		out = append(out, key[strings.LastIndexByte(key, '/')+1:])
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// twoHosts are one with a clock and a store that can be set down, and another one with
// endpoints that have names: redis, cache and one without.
func twoHosts(t *testing.T) (a, b *host, again func(down bool) *host, n directory.Network, c *clock) {
	t.Helper()
	fake := store.NewFake()
	s1, dir, c := fake.Peer(), t.TempDir(), &clock{}
	a = startHost(t, "h1", s1, dir, c)
	a.Until("ready", a.Ready)
	b = newHost(t, "h2", fake.Peer(), t.TempDir())
	n = a.found(network("demo"))
	a.Publish(n.UUID, endpoint("mine", "10.1.0.2"))
	a.SetNames(map[string][]string{"mine": {"own"}}, true)
	b.Attend(n)
	for i, id := range []string{"e1", "e2", "bare"} {
		b.Publish(n.UUID, endpoint(id, fmt.Sprintf("10.1.0.%d", 3+i)))
	}
	b.SetNames(map[string][]string{"e1": {"redis", "db"}, "e2": {"cache"}}, true)
	a.Until("a knows them", func() bool { return called(a.LastKnown(n.UUID)) == allCalled })
	a.Until("a keeps them", func() bool { c.pass(time.Second); return a.kept() == "e1 e2" })
	return a, b, func(down bool) *host {
		a.Stop()
		s1.SetDown(down)
		a = startHost(t, "h1", s1, dir, c, n)
		return a
	}, n, c
}

const allCalled = "bare=@10.1.0.5 e1=redis,db@10.1.0.3 e2=cache@10.1.0.4 mine=own@10.1.0.2"

// TestLastKnown: a host that starts without the store knows what the others' containers were
// called, and since when that is not sure; what the store says takes the place of it.
func TestLastKnown(t *testing.T) {
	a, b, again, n, c := twoHosts(t)
	a.Until("it is certain", func() bool { at, current := a.AsOf(); return current && at.Equal(c.now()) })
	c.pass(time.Hour) // the journal is brought up to date now and then
	a.Until("the journal has the time", func() bool { at, _ := journalTime(t, a); return !at.Before(c.now()) })
	stopped := c.now()
	a = again(true)
	c.pass(time.Hour)
	const old = "e1=redis,db@10.1.0.3 e2=cache@10.1.0.4"
	if got := called(a.LastKnown(n.UUID)); got != old {
		t.Errorf("after a start without the store: %q", got)
	}
	if got := a.Endpoints(n.UUID); len(got) > 0 {
		t.Errorf("old news say where an address is: %v", got)
	}
	if at, current := a.AsOf(); current || !at.Equal(stopped) {
		t.Errorf("it is of %v instead of %v: %t", at, stopped, current)
	}
	a.Publish(n.UUID, endpoint("mine", "10.1.0.2"))
	b.Withdraw(n.UUID, "e1")
	b.SetNames(map[string][]string{"e2": {"store"}}, true)
	a = again(true) // it is kept until the store was read, whatever happens before
	if got := called(a.LastKnown(n.UUID)); got != old {
		t.Errorf("after another start: %q", got)
	}
	a = again(false)
	a.Publish(n.UUID, endpoint("mine", "10.1.0.2"))
	a.Until("what is stale is gone", func() bool {
		return a.Follows(n.UUID) && called(a.LastKnown(n.UUID)) == "bare=@10.1.0.5 e2=store@10.1.0.4 mine=own@10.1.0.2"
	})
	a.Until("it is certain", func() bool { _, current := a.AsOf(); return current })
	a.Until("the journal forgets", func() bool { c.pass(time.Second); return a.kept() == "e2" })
	a.Forsake(n.UUID)
	a.Until("the journal forgets the network", func() bool { c.pass(time.Second); return a.kept() == "" })
}

func journalTime(t *testing.T, h *host) (at time.Time, ok bool) {
	t.Helper()
	all, err := journal.Load[struct{ At time.Time }](h.Journal, "directory-asof")
	if err != nil {
		t.Fatal(err)
	}
	return all["at"].At, len(all) > 0
}

// TestStoreGone: when the store goes down, the journal learns how new all is, at once.
func TestStoreGone(t *testing.T) {
	_, _, again, _, c := twoHosts(t)
	a := again(false)
	a.Until("it is certain", func() bool { _, current := a.AsOf(); return current })
	looks := func() {
		t.Helper()
		c.pass(time.Minute)
		a.Until("a has looked", func() bool { at, _ := a.AsOf(); return at.Equal(c.now()) })
	}
	for range 3 { // what is new since the start is written after a moment, with the time
		looks()
	}
	before, ok := journalTime(t, a)
	if !ok {
		t.Fatal("the journal does not tell of when its records are")
	}
	looks()
	if at, _ := journalTime(t, a); !at.Equal(before) {
		t.Errorf("it is written all the time: %v", at)
	}
	a.store.(*store.Fake).SetDown(true)
	a.Until("the journal has the time", func() bool { at, _ := journalTime(t, a); return at.Equal(c.now()) })
	c.pass(time.Minute)
	if at, current := a.AsOf(); current || !at.Equal(c.now().Add(-time.Minute)) {
		t.Errorf("it is of %v, %t, and now is %v", at, current, c.now())
	}
}

// TestDamagedMemory: records that cannot be read cost what they said, and no more.
func TestDamagedMemory(t *testing.T) {
	a, _, again, n, c := twoHosts(t)
	key := ""
	_ = a.Journal.Each("directory-endpoints", func(k string, _ []byte) error {
		if strings.HasSuffix(k, "/e1") {
			key = k
		}
		return nil
	})
	for _, op := range []journal.Op{
		journal.Put("directory-endpoints", key, "garbage"), journal.Put("directory-endpoints", "nonsense", map[string]any{"v": 1}),
		journal.Put("directory-asof", "at", []string{"no time"}),
	} {
		if err := a.Journal.Commit(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	a = again(true)
	if got := called(a.LastKnown(n.UUID)); got != "e2=cache@10.1.0.4" {
		t.Errorf("%q", got)
	}
	if at, current := a.AsOf(); current || !at.IsZero() {
		t.Errorf("it is of %v, %t", at, current)
	}
	a = again(false)
	a.Publish(n.UUID, endpoint("mine", "10.1.0.2"))
	a.Until("all is mended", func() bool {
		c.pass(time.Second)
		return a.kept() == "e1 e2" && called(a.LastKnown(n.UUID)) == allCalled
	})
}
