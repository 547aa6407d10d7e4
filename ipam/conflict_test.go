package ipam_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/ipam"
)

// inConflict are the addresses that a host says are in conflict.
func (m *member) inConflict() []netip.Addr {
	var out []netip.Addr
	for _, c := range m.Conflicts() {
		out = append(out, c.Address)
	}
	return out
}

// isTold waits until OnConflict told of these addresses and no others.
func (m *member) isTold(want ...netip.Addr) {
	m.tb.Helper()
	eventually(m.tb, m.name+" is told of its conflicts", func() bool {
		told := m.told.Load()
		if told == nil {
			return len(want) == 0
		}
		return slices.EqualFunc(*told, want, func(c ipam.Conflict, a netip.Addr) bool { return c.Address == a })
	})
}

// buriedAlive is a host a that was removed while it ran and could not know, and a host
// b on the same pool. Of the addresses that containers of a have, taken is a
// container's of b by now, and free is nobody's.
func buriedAlive(t *testing.T, fake *store.Fake, sa, sb *store.Fake) (a, b *member, pa, pb string, taken, free netip.Addr) {
	t.Helper()
	a, b = newMember(t, "a", sa), newMember(t, "b", sb)
	pa, pb = a.pool("10.1.0.0/29"), b.pool("10.1.0.0/29")
	taken = a.get(pa)
	free = a.get(pa)
	if err := a.Bind(t.Context(), "net", prefix("10.1.0.0/29")); err != nil {
		t.Fatal(err)
	}
	b.awaitKnows(1)
	sa.SetDown(true)
	fake.ExpireLeases()
	eventually(t, "a is removed", func() bool { return b.remove("a") == nil })
	eventually(t, "b has the address", func() bool { return b.explicit(pb, taken.String()) == nil })
	return a, b, pa, pb, taken, free
}

// A host that was removed while it ran must say within seconds which of its addresses
// others have by now, and must not forget it.
func TestClusterConflicts(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	a, b, pa, pb, taken, free := buriedAlive(t, fake, sa, fake.Peer())
	if c := a.Conflicts(); len(c) > 0 {
		t.Fatalf("before it reached the store: %v", c)
	}
	is := func(want ...netip.Addr) func() bool { return func() bool { return slices.Equal(a.inConflict(), want) } }
	sa.SetDown(false)
	begin := time.Now()
	eventually(t, "a knows the conflict", is(taken))
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	a.isTold(taken)
	if c := a.Conflicts()[0]; c.Network != "net" || c.Owner != b.cluster.Me() {
		t.Errorf("the conflict is %+v", c)
	}
	eventually(t, "a owns the address that nobody took", func() bool { return a.View()[0].Cluster.Own == 0 && ownedBy(t, fake, a.cluster.Me()) > 0 })
	if err := b.explicit(pb, free.String()); err == nil {
		t.Errorf("%s has two holders", free)
	}
	sa.SetDown(true)
	stays(t, "the conflict without the store", time.Second, is(taken))
	a.restart()
	if !is(taken)() {
		t.Fatalf("after a restart without the store: %v", a.Conflicts())
	}
	a.isTold(taken)
	stays(t, "the conflict without the store", time.Second, is(taken))
	sa.SetDown(false)
	a.awaitMember()
	stays(t, "the conflict with the store", time.Second, is(taken))
	if got := b.inConflict(); len(got) > 0 {
		t.Errorf("b has conflicts: %v", got)
	}
	// The container ends.
	if err := a.ReleaseAddress(t.Context(), pa, taken); err != nil {
		t.Fatal(err)
	}
	if !is()() {
		t.Errorf("after the release: %v", a.Conflicts())
	}
	a.isTold()
}

// An address in conflict that its owner does not use any more must come back.
func TestClusterConflictIsAskedFor(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	a, b, _, pb, taken, _ := buriedAlive(t, fake, sa, fake.Peer())
	sa.SetDown(false)
	eventually(t, "a knows the conflict", func() bool { return slices.Equal(a.inConflict(), []netip.Addr{taken}) })
	if err := b.ReleaseAddress(t.Context(), pb, taken); err != nil {
		t.Fatal(err)
	}
	a.restart() // it asks at once
	a.isTold(taken)
	eventually(t, "the conflict ends", func() bool { return len(a.Conflicts()) == 0 })
	a.isTold()
	if err := b.explicit(pb, taken.String()); err == nil {
		t.Errorf("%s has two holders", taken)
	}
}

// A store that lost its records must not end a conflict: the owner did not tell it yet.
func TestClusterConflictOutlivesAWipe(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa, sb := fake.Peer(), fake.Peer()
	a, b, _, _, taken, _ := buriedAlive(t, fake, sa, sb)
	sa.SetDown(false)
	is := func() bool { return slices.Equal(a.inConflict(), []netip.Addr{taken}) }
	eventually(t, "a knows the conflict", is)
	a.awaitMember()
	a.awaitKnows(2) // b, and who it was itself
	eventually(t, "a is inside", func() bool { return a.inside("10.1.0.0/29") })
	sb.SetDown(true)
	fake.Wipe()
	eventually(t, "a freezes or stands apart", func() bool { return a.cluster.Ready() != nil })
	if err := a.cluster.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	stays(t, "the conflict while the owner is away", time.Second, is)
	sb.SetDown(false)
	b.awaitMember()
	a.awaitMember()
	stays(t, "the conflict after the recovery", time.Second, is)
}

// An address that became a gateway meanwhile is in conflict as well, and nobody is
// asked for it.
func TestClusterConflictWithAGateway(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	pa, pb := a.pool("10.1.0.0/29"), b.pool("10.1.0.0/29")
	x := a.get(pa)
	b.awaitKnows(1)
	sa.SetDown(true)
	fake.ExpireLeases()
	eventually(t, "a is removed", func() bool { return b.remove("a") == nil })
	eventually(t, "b sees that it is free", func() bool {
		_, err := b.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pb, Address: x, Gateway: true})
		return err == nil
	})
	sa.SetDown(false)
	eventually(t, "a knows the conflict", func() bool { return slices.Equal(a.inConflict(), []netip.Addr{x}) })
	if c := a.Conflicts()[0]; c.Owner != "" {
		t.Errorf("the conflict is %+v", c)
	}
}

// TestClusterOwnAddressInConflict: a host that was removed while it ran takes another
// address for its bridge when somebody else has the one that it had.
func TestClusterOwnAddressInConflict(t *testing.T) {
	t.Parallel()
	fake := store.NewFake()
	sa := fake.Peer()
	a, b := newMember(t, "a", sa), newMember(t, "b", fake.Peer())
	a.pool("10.1.0.0/29")
	pb := b.pool("10.1.0.0/29")
	if err := a.Bind(t.Context(), "net", prefix("10.1.0.0/29")); err != nil {
		t.Fatal(err)
	}
	had, err := a.TakeHostAddresses(t.Context(), "net")
	if err != nil {
		t.Fatal(err)
	}
	b.awaitKnows(1)
	sa.SetDown(true)
	fake.ExpireLeases()
	eventually(t, "a is removed", func() bool { return b.remove("a") == nil })
	eventually(t, "b has the address", func() bool { return b.explicit(pb, had[0].Addr().String()) == nil })
	sa.SetDown(false)
	a.awaitMember()
	eventually(t, "a knows that it lost its address", func() bool {
		own, lost := a.HostAddresses("net")
		return len(own) == 0 && slices.Equal(lost, had)
	})
	var now []netip.Prefix
	eventually(t, "a has another one", func() bool {
		now, err = a.TakeHostAddresses(t.Context(), "net")
		return err == nil
	})
	if own, lost := a.HostAddresses("net"); slices.Equal(now, had) || !slices.Equal(own, now) || len(lost) > 0 {
		t.Errorf("it had %v and took %v; it has %v and lost %v", had, now, own, lost)
	}
	eventually(t, "no conflict is left", func() bool { return len(a.Conflicts()) == 0 })
}
