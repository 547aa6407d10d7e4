package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/ipam"
)

func TestAbandonedRequestIsTakenBack(t *testing.T) {
	for _, freedBefore := range []bool{false, true} {
		h := newHost(t)
		id := h.subnet(t, "10.1.0.0/30")
		if freedBefore {
			h.want(t, ipam.AddressRequest{PoolID: id, Name: "web"}, "10.1.0.1")
			h.release(t, id, "10.1.0.1")
			h.want(t, ipam.AddressRequest{PoolID: id}, "10.1.0.2")
		}
		_, err := h.RequestAddress(late(), ipam.AddressRequest{PoolID: id})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		h.want(t, ipam.AddressRequest{PoolID: id, Name: "web"}, "10.1.0.1")
		h.restart(t)
		if used := h.View()[0].Used; freedBefore && used != 2 || !freedBefore && used != 1 {
			t.Errorf("%d addresses in use", used)
		}
	}
}

func TestAbandonedRequestKeepsWhatWasRemembered(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/29")
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "web"}, "10.1.0.1")
	h.release(t, id, "10.1.0.1")
	if _, err := h.RequestAddress(late(), ipam.AddressRequest{PoolID: id, Name: "web"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	h.want(t, ipam.AddressRequest{PoolID: id}, "10.1.0.2")
	h.restart(t)
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "web"}, "10.1.0.1")
}

// TestAbandonedTakeOverIsTakenBack repeats a request of the global space.
func TestAbandonedTakeOverIsTakenBack(t *testing.T) {
	h := newHost(t)
	req := ipam.PoolRequest{Space: ipam.GlobalSpace, Subnet: prefix("10.1.0.0/24")}
	old := h.pool(t, req).ID
	a := h.take(t, ipam.AddressRequest{PoolID: old})
	now := h.pool(t, req).ID
	if _, err := h.RequestAddress(late(), ipam.AddressRequest{PoolID: now, Address: a}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	h.release(t, now, a.String())
	for range 2 {
		if v := h.View(); v[0].Used != 1 || v[1].Used != 0 {
			t.Errorf("left %+v", v)
		}
		h.restart(t)
	}
	h.release(t, old, a.String())
	if v := h.View(); v[0].Used != 0 {
		t.Errorf("left %+v", v)
	}
}

func TestAbandonedBindIsRepeated(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	if err := h.Bind(late(), "net", prefix("10.1.0.0/24")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	h.take(t, ipam.AddressRequest{PoolID: id})
	h.restart(t)
	if v := h.View(); v[0].Network != "net" {
		t.Errorf("left %+v", v)
	}
}

func TestAbandonedCollectionIsRepeated(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	h.take(t, ipam.AddressRequest{PoolID: id})
	h.now = h.now.Add(time.Hour)
	h.collect(t, "10.1.0.0/24")
	h.now = h.now.Add(time.Hour)
	if _, err := h.CollectLeaks(late(), h.answer("10.1.0.0/24")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	h.want(t, ipam.AddressRequest{PoolID: id, Address: netip.MustParseAddr("10.1.0.1")}, "10.1.0.1")
}

func TestAbandonedReleaseIsRepeated(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/30")
	a := h.take(t, ipam.AddressRequest{PoolID: id})
	h.take(t, ipam.AddressRequest{PoolID: id})
	if err := h.ReleaseAddress(late(), id, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	h.want(t, ipam.AddressRequest{PoolID: id, Address: a}, a.String())
	if err := h.ReleasePool(late(), id); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	again := h.subnet(t, "10.1.0.0/30")
	h.restart(t)
	if v := h.View(); len(v) != 1 || v[0].ID != again || v[0].Used != 0 {
		t.Errorf("left %+v", v)
	}
}

func TestAbandonedPoolIsTakenBack(t *testing.T) {
	h := newHost(t)
	for _, space := range []string{ipam.LocalSpace, ipam.GlobalSpace} {
		req := ipam.PoolRequest{Space: space, Subnet: prefix("10.1.0.0/24")}
		if space == ipam.GlobalSpace {
			h.pool(t, req)
		}
		if _, err := h.RequestPool(late(), req); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	h.subnet(t, "10.1.0.0/24")
	h.restart(t)
	v := h.View()
	if len(v) != 2 || v[0].Superseded {
		t.Errorf("left %+v", v)
	}
}

func TestNothingIsAnsweredWithoutTheJournal(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	a := h.take(t, ipam.AddressRequest{PoolID: id})
	if err := h.journal.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: id})
		_, err2 := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace})
		for _, err := range []error{err, err2, h.ReleaseAddress(t.Context(), id, a), h.ReleasePool(t.Context(), id)} {
			if !errors.Is(err, journal.ErrClosed) {
				t.Errorf("error %v", err)
			}
		}
	}
	h.open(t)
	if v := h.View(); len(v) != 1 || v[0].Used != 1 {
		t.Errorf("left %+v", v)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.RequestAddress(ctx, ipam.AddressRequest{PoolID: id})
	_, err2 := h.RequestPool(ctx, ipam.PoolRequest{Space: ipam.LocalSpace})
	for _, err := range []error{err, err2, h.ReleaseAddress(ctx, id, netip.MustParseAddr("10.1.0.1")), h.ReleasePool(ctx, id), h.Bind(ctx, "n", prefix("10.1.0.0/24"))} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	}
}

// TestFreedAddressesAreBounded uses more addresses than a book remembers.
func TestFreedAddressesAreBounded(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "fd00:1::/64")
	for i := range 1100 {
		a := h.take(t, ipam.AddressRequest{PoolID: id})
		h.release(t, id, a.String())
		if i == 500 {
			h.restart(t)
		}
	}
	if n := h.records(t); n != 1024 {
		t.Errorf("%d records for addresses that nobody has", n)
	}
	h.restart(t)
	h.want(t, ipam.AddressRequest{PoolID: id}, "fd00:1::4c")
}
