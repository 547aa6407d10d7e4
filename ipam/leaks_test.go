package ipam_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/ipam"
)

// answer is a Holders function that knows some addresses and subnets.
func (h *host) answer(known ...string) func(context.Context) (ipam.Holders, error) {
	out := ipam.Holders{Addresses: map[netip.Addr]bool{}, Subnets: map[netip.Prefix]bool{}, At: h.now}
	for _, s := range known {
		if a, err := netip.ParseAddr(s); err == nil {
			out.Addresses[a] = true
		} else {
			out.Subnets[netip.MustParsePrefix(s)] = true
		}
	}
	return func(context.Context) (ipam.Holders, error) { return out, nil }
}

func (h *host) collect(t *testing.T, known ...string) ipam.Collected {
	t.Helper()
	got, err := h.CollectLeaks(t.Context(), h.answer(known...))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCollectLeaks(t *testing.T) {
	const subnet = "10.1.0.0/24"
	type step struct {
		after time.Duration
		known []string
		want  string // the address, "pool", or nothing
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"two answers", []step{{5 * time.Minute, []string{subnet}, ""}, {time.Minute, []string{subnet}, "10.1.0.3"}}},
		{"answers too close", []step{{time.Hour, []string{subnet}, ""}, {59 * time.Second, []string{subnet}, ""}, {time.Second, []string{subnet}, "10.1.0.3"}}},
		{"too young", []step{{0, []string{subnet}, ""}, {4 * time.Minute, []string{subnet}, ""}, {time.Minute, []string{subnet}, "10.1.0.3"}}},
		{"seen in between", []step{{time.Hour, []string{subnet}, ""}, {time.Minute, []string{subnet, "10.1.0.3"}, ""}, {time.Minute, []string{subnet}, ""}, {time.Minute, []string{subnet}, "10.1.0.3"}}},
		{"in use", []step{{time.Hour, []string{subnet, "10.1.0.3"}, ""}, {time.Hour, []string{subnet, "10.1.0.3"}, ""}}},
		{"subnet gone, address in use", []step{{time.Hour, []string{"10.1.0.3"}, ""}, {time.Hour, []string{"10.1.0.3"}, ""}}},
		{"all gone", []step{{time.Hour, nil, ""}, {time.Minute, nil, "pool"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			id := h.subnet(t, subnet)
			h.want(t, ipam.AddressRequest{PoolID: id, Gateway: true}, "10.1.0.1")
			h.want(t, ipam.AddressRequest{PoolID: id, Address: netip.MustParseAddr("10.1.0.2"), Bare: true}, "10.1.0.2")
			h.want(t, ipam.AddressRequest{PoolID: id}, "10.1.0.3")
			for i, s := range tc.steps {
				h.now = h.now.Add(s.after)
				var want ipam.Collected
				switch s.want {
				case "":
				case "pool":
					want.Pools = []string{id}
				default:
					want.Addresses = []netip.Addr{netip.MustParseAddr(s.want)}
				}
				if diff := cmp.Diff(want, h.collect(t, s.known...), compareNetip...); diff != "" {
					t.Fatalf("step %d:\n%s", i, diff)
				}
			}
			before := h.View()
			h.restart(t)
			if diff := cmp.Diff(before, h.View(), compareNetip...); diff != "" {
				t.Errorf("restart changed:\n%s", diff)
			}
		})
	}
}

func TestLaterUseOfAnAddressIsNoLeak(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	a := h.take(t, ipam.AddressRequest{PoolID: id})
	h.now = h.now.Add(time.Hour)
	h.collect(t, "10.1.0.0/24")
	stale := h.answer("10.1.0.0/24")
	h.now = h.now.Add(time.Second)
	h.release(t, id, a.String())
	h.want(t, ipam.AddressRequest{PoolID: id, Address: a}, a.String())
	h.now = h.now.Add(time.Minute)
	for range 2 {
		if got, err := h.CollectLeaks(t.Context(), stale); err != nil || len(got.Addresses) != 0 {
			t.Fatalf("%v, %v", got, err)
		}
		if got := h.collect(t, "10.1.0.0/24"); len(got.Addresses) != 0 {
			t.Fatal(got)
		}
	}
}

func TestAnswerOlderThanTheAddressDoesNotCount(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/24")
	early := h.answer("10.1.0.0/24")
	h.now = h.now.Add(time.Second)
	h.take(t, ipam.AddressRequest{PoolID: id})
	if _, err := h.CollectLeaks(t.Context(), early); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1} {
		h.now = h.now.Add(time.Hour)
		if got := h.collect(t, "10.1.0.0/24"); len(got.Addresses) != want {
			t.Fatalf("answer %d: %+v", i, got)
		}
	}
}

func TestNobodyKnowsMeansNoLeaks(t *testing.T) {
	h := newHost(t)
	h.take(t, ipam.AddressRequest{PoolID: h.subnet(t, "10.1.0.0/24")})
	unknown := errors.New("the engine does not answer")
	for range 3 {
		h.now = h.now.Add(time.Hour)
		if got, err := h.CollectLeaks(t.Context(), nil); err != nil || len(got.Pools)+len(got.Addresses) != 0 {
			t.Fatalf("%v, %v", got, err)
		}
		if _, err := h.CollectLeaks(t.Context(), func(context.Context) (ipam.Holders, error) { return ipam.Holders{}, unknown }); !errors.Is(err, unknown) {
			t.Fatal(err)
		}
		for _, at := range []time.Time{{}, h.now.Add(time.Second)} {
			_, err := h.CollectLeaks(t.Context(), func(context.Context) (ipam.Holders, error) { return ipam.Holders{At: at}, nil })
			wantRefusal(t, err, ipam.ErrConfig, "Holders.At")
		}
	}
	if v := h.View(); len(v) != 1 || v[0].Used != 1 {
		t.Errorf("left %+v", v)
	}
}

func TestConfiguredHoldersAreAsked(t *testing.T) {
	asked := 0
	var h *host
	h = newHost(t, func(c *ipam.Config) {
		c.Holders = func(context.Context) (ipam.Holders, error) { asked++; return ipam.Holders{At: h.now}, nil }
	})
	h.subnet(t, "10.1.0.0/24")
	h.now = h.now.Add(time.Hour)
	for range 2 {
		if _, err := h.CollectLeaks(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		h.now = h.now.Add(time.Minute)
	}
	if asked != 2 || len(h.View()) != 0 {
		t.Errorf("asked %d times, left %+v", asked, h.View())
	}
}

func TestGlobalSpaceIsCollectedByPool(t *testing.T) {
	h := newHost(t)
	req := ipam.PoolRequest{Space: ipam.GlobalSpace, Subnet: prefix("10.1.0.0/24")}
	old := h.pool(t, req)
	h.take(t, ipam.AddressRequest{PoolID: old.ID})
	now := h.pool(t, req)
	h.want(t, ipam.AddressRequest{PoolID: now.ID, Address: netip.MustParseAddr("10.1.0.1")}, "10.1.0.1")
	for range 3 {
		h.now = h.now.Add(time.Hour)
		h.collect(t, "10.1.0.0/24")
	}
	if v := h.View(); len(v) != 1 || v[0].ID != now.ID || v[0].Used != 1 {
		t.Fatalf("left %+v", v)
	}
	h.collect(t)
	h.now = h.now.Add(time.Hour)
	h.collect(t)
	if v := h.View(); len(v) != 0 {
		t.Fatalf("left %+v", v)
	}
}

// TestBlind has a new journal on a host whose engine still uses addresses.
func TestBlind(t *testing.T) {
	var known atomic.Bool
	used := netip.MustParseAddr("10.1.0.2")
	h := newHost(t, func(c *ipam.Config) {
		c.Blind = true
		c.Holders = func(context.Context) (ipam.Holders, error) {
			if !known.Load() {
				return ipam.Holders{}, errors.New("the engine does not answer")
			}
			return ipam.Holders{Addresses: map[netip.Addr]bool{used: true}, At: time.Now()}, nil
		}
	})
	req := ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/24")}
	if _, err := h.RequestPool(t.Context(), req); !errors.Is(err, ipam.ErrHost) {
		t.Fatal(err)
	}
	known.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	var pool ipam.Pool
	eventually(t, "the host sees", func() bool {
		var err error
		pool, err = h.RequestPool(t.Context(), req)
		return err == nil
	})
	for range 5 {
		if a, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: pool.ID}); err != nil || a.Addr() == used {
			t.Fatal(a, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
