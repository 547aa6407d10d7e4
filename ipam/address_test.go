package ipam_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weft-net/weft/ipam"
)

// compareNetip lets cmp look at netip values.
var compareNetip = []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func TestRequestAddressRefusals(t *testing.T) {
	h := newHost(t)
	v4 := h.subnet(t, "10.1.0.0/24")
	v6 := h.subnet(t, "fd00:1::/64")
	released := h.subnet(t, "10.2.0.0/24")
	if err := h.ReleasePool(t.Context(), released); err != nil {
		t.Fatal(err)
	}
	h.want(t, ipam.AddressRequest{PoolID: v4, Gateway: true}, "10.1.0.1")
	h.want(t, ipam.AddressRequest{PoolID: v4, Address: netip.MustParseAddr("10.1.0.9"), Name: "web"}, "10.1.0.9")
	for _, tc := range []struct {
		name, pool, addr string
		gateway          bool
		cause            error
		texts            []string
	}{
		{"empty pool", "", "", false, ipam.ErrUnknownPool, []string{`""`}},
		{"malformed pool", "pool-10.1.0.0/16", "", false, ipam.ErrUnknownPool, []string{`"pool-10.1.0.0/16"`}},
		{"pool with a bad token", v4 + "x", "", false, ipam.ErrUnknownPool, []string{v4}},
		{"released pool", released, "", false, ipam.ErrUnknownPool, []string{released}},
		{"another range", "local/cluster/10.1.0.0/24/10.1.0.0/25" + v4[len("local/cluster/10.1.0.0/24/-"):], "", false, ipam.ErrUnknownPool, nil},
		{"outside", v4, "10.1.1.1", false, ipam.ErrOutside, []string{"10.1.1.1 is not in 10.1.0.0/24"}},
		{"another family", v4, "fd00::5", false, ipam.ErrOutside, []string{"fd00::5"}},
		{"zone", v6, "fd00:1::5%eth0", false, ipam.ErrOutside, nil},
		{"network", v4, "10.1.0.0", false, ipam.ErrReserved, []string{"10.1.0.0 is the network address of 10.1.0.0/24"}},
		{"broadcast", v4, "10.1.0.255", false, ipam.ErrReserved, []string{"10.1.0.255 is the broadcast address"}},
		{"gateway on broadcast", v4, "10.1.0.255", true, ipam.ErrReserved, nil},
		{"anycast", v6, "fd00:1::", false, ipam.ErrReserved, []string{"fd00:1:: is the subnet-router anycast address"}},
		{"in use", v4, "10.1.0.9", false, ipam.ErrInUse, []string{"Address already in use: 10.1.0.9 of 10.1.0.0/24", "endpoint of web"}},
		{"gateway", v4, "10.1.0.1", false, ipam.ErrInUse, []string{"10.1.0.1", "gateway"}},
		{"gateway twice", v4, "10.1.0.1", true, ipam.ErrInUse, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := ipam.AddressRequest{PoolID: tc.pool, Gateway: tc.gateway}
			if tc.addr != "" {
				req.Address = netip.MustParseAddr(tc.addr)
			}
			_, err := h.RequestAddress(t.Context(), req)
			wantRefusal(t, err, tc.cause, tc.texts...)
		})
	}
}

func TestEveryAddressOfASmallPoolIsUsed(t *testing.T) {
	for _, tc := range []struct {
		subnet  string
		first   string
		n       int
		gateway int
	}{
		{"10.1.0.16/28", "10.1.0.17", 14, 1},
		{"10.1.0.8/29", "10.1.0.9", 6, 1},
		{"10.1.0.4/30", "10.1.0.5", 2, 1},
		{"10.1.0.2/31", "10.1.0.2", 2, 1},
		{"10.1.0.3/32", "10.1.0.3", 1, 1},
		{"fd00::10/125", "fd00::11", 7, 1},
		{"fd00::10/127", "fd00::10", 2, 1},
	} {
		t.Run(tc.subnet, func(t *testing.T) {
			h := newHost(t)
			id := h.subnet(t, tc.subnet)
			next := netip.MustParseAddr(tc.first)
			h.want(t, ipam.AddressRequest{PoolID: id, Gateway: true}, next.String())
			for range tc.n - 1 {
				next = next.Next()
				h.want(t, ipam.AddressRequest{PoolID: id}, next.String())
			}
			for _, gateway := range []bool{false, true} {
				_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: id, Gateway: gateway})
				wantRefusal(t, err, ipam.ErrExhausted, prefix(tc.subnet).String(),
					fmt.Sprintf("%d addresses and %d are in use (1 gateway, 0 aux, %d containers)", tc.n, tc.n, tc.n-1), "weft ipam")
			}
			h.release(t, id, next.String())
			h.want(t, ipam.AddressRequest{PoolID: id}, next.String())
			if v := h.View()[0]; v.Used != uint64(tc.n) || v.Free != 0 {
				t.Errorf("used %d, free %d", v.Used, v.Free)
			}
		})
	}
}

func TestRangeRestrictsOnlyTheDynamicChoice(t *testing.T) {
	h := newHost(t)
	p := h.pool(t, ipam.PoolRequest{Subnet: prefix("10.0.0.0/24"), Range: prefix("10.0.0.129/30")})
	h.want(t, ipam.AddressRequest{PoolID: p.ID, Gateway: true}, "10.0.0.1")
	h.want(t, ipam.AddressRequest{PoolID: p.ID, Address: netip.MustParseAddr("10.0.0.77"), Bare: true}, "10.0.0.77")
	h.want(t, ipam.AddressRequest{PoolID: p.ID, Address: netip.MustParseAddr("10.0.0.129"), Bare: true}, "10.0.0.129")
	for _, a := range []string{"10.0.0.128", "10.0.0.130", "10.0.0.131"} {
		h.want(t, ipam.AddressRequest{PoolID: p.ID}, a)
	}
	_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: p.ID})
	wantRefusal(t, err, ipam.ErrExhausted, "10.0.0.128/30 (the --ip-range of 10.0.0.0/24) has 4 addresses and 4 are in use (0 gateway, 1 aux, 3 containers)")
	h.want(t, ipam.AddressRequest{PoolID: p.ID, Address: netip.MustParseAddr("10.0.0.200"), Bare: true}, "10.0.0.200")
	h.restart(t)
	want := []ipam.AddressView{
		{Address: netip.MustParseAddr("10.0.0.1"), Kind: ipam.KindGateway, Since: h.now},
		{Address: netip.MustParseAddr("10.0.0.77"), Kind: ipam.KindAux, Since: h.now},
		{Address: netip.MustParseAddr("10.0.0.128"), Kind: ipam.KindEndpoint, Since: h.now},
		{Address: netip.MustParseAddr("10.0.0.129"), Kind: ipam.KindAux, Since: h.now},
		{Address: netip.MustParseAddr("10.0.0.130"), Kind: ipam.KindEndpoint, Since: h.now},
		{Address: netip.MustParseAddr("10.0.0.131"), Kind: ipam.KindEndpoint, Since: h.now},
		{Address: netip.MustParseAddr("10.0.0.200"), Kind: ipam.KindEndpoint, Since: h.now},
	}
	if diff := cmp.Diff(want, h.View()[0].Addresses, compareNetip...); diff != "" {
		t.Error(diff)
	}
}

func TestFreedLongestAgoComesFirst(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/29")
	for range 6 {
		h.take(t, ipam.AddressRequest{PoolID: id})
	}
	h.release(t, id, "10.1.0.5", "10.1.0.2", "10.1.0.2", "10.1.0.6", "10.1.0.1")
	h.restart(t)
	h.want(t, ipam.AddressRequest{PoolID: id, Address: netip.MustParseAddr("10.1.0.6")}, "10.1.0.6")
	for _, a := range []string{"10.1.0.5", "10.1.0.2", "10.1.0.1"} {
		h.want(t, ipam.AddressRequest{PoolID: id}, a)
	}
}

func TestNameKeepsItsAddressWhileFree(t *testing.T) {
	h := newHost(t)
	id := h.subnet(t, "10.1.0.0/29")
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "web"}, "10.1.0.1")
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "db"}, "10.1.0.2")
	h.release(t, id, "10.1.0.1", "10.1.0.2")
	h.restart(t)
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "other"}, "10.1.0.3")
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "db"}, "10.1.0.2")
	h.want(t, ipam.AddressRequest{PoolID: id, Name: "db"}, "10.1.0.4")
	for _, a := range []string{"10.1.0.5", "10.1.0.6", "10.1.0.1"} {
		h.want(t, ipam.AddressRequest{PoolID: id, Name: "more"}, a)
	}
	_, err := h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: id, Name: "web"})
	wantRefusal(t, err, ipam.ErrExhausted)
}

func TestGlobalSpaceRepeats(t *testing.T) {
	h := newHost(t)
	req := ipam.PoolRequest{Space: ipam.GlobalSpace, Subnet: prefix("10.1.0.0/24")}
	old := h.pool(t, req).ID
	h.want(t, ipam.AddressRequest{PoolID: old, Gateway: true}, "10.1.0.1")
	h.want(t, ipam.AddressRequest{PoolID: old}, "10.1.0.2")
	now := h.pool(t, req).ID
	for range 2 {
		h.want(t, ipam.AddressRequest{PoolID: now, Gateway: true, Address: netip.MustParseAddr("10.1.0.1")}, "10.1.0.1")
		h.want(t, ipam.AddressRequest{PoolID: now, Address: netip.MustParseAddr("10.1.0.2")}, "10.1.0.2")
	}
	h.release(t, old, "10.1.0.2")
	h.want(t, ipam.AddressRequest{PoolID: now}, "10.1.0.3")
	h.release(t, now, "10.1.0.2")
	h.restart(t)
	h.want(t, ipam.AddressRequest{PoolID: now, Address: netip.MustParseAddr("10.1.0.2")}, "10.1.0.2")
	if v := h.View(); len(v) != 2 || !v[0].Superseded || v[1].Superseded || v[0].Space != ipam.GlobalSpace {
		t.Errorf("view %+v", v)
	}
}

func TestReleasesActOnTheirOwnTokenOnly(t *testing.T) {
	h := newHost(t)
	old := h.subnet(t, "10.1.0.0/24")
	h.want(t, ipam.AddressRequest{PoolID: old}, "10.1.0.1")
	if err := h.ReleasePool(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	now := h.subnet(t, "10.1.0.0/24")
	h.want(t, ipam.AddressRequest{PoolID: now}, "10.1.0.1")
	h.release(t, old, "10.1.0.1")
	h.release(t, now, "10.1.0.200", "10.1.1.1", "::1")
	h.release(t, "nonsense", "10.1.0.1")
	for _, id := range []string{old, "nonsense", "", "local/cluster/10.1.0.0/24/-/t999999"} {
		if err := h.ReleasePool(t.Context(), id); err != nil {
			t.Errorf("ReleasePool(%q): %v", id, err)
		}
	}
	h.want(t, ipam.AddressRequest{PoolID: now}, "10.1.0.2")
}

func TestTokensAreNeverUsedAgain(t *testing.T) {
	h := newHost(t)
	seen := map[string]bool{}
	for range 3 {
		id := h.subnet(t, "10.1.0.0/24")
		if seen[id] {
			t.Fatalf("PoolID %s came twice", id)
		}
		seen[id] = true
		if err := h.ReleasePool(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		h.restart(t)
	}
	lost := newHost(t, func(c *ipam.Config) { c.Now = func() time.Time { return h.now.Add(time.Hour) } })
	if id := lost.subnet(t, "10.1.0.0/24"); seen[id] {
		t.Fatalf("PoolID %s came again after the journal was lost", id)
	}
}

func TestLargePoolsCostNothing(t *testing.T) {
	h := newHost(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, s := range []string{"10.0.0.0/8", "fd00:1::/64", "fd01::/16"} {
		id := h.subnet(t, s)
		h.take(t, ipam.AddressRequest{PoolID: id, Gateway: true})
		h.take(t, ipam.AddressRequest{PoolID: id})
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("allocated %d bytes", grown)
	}
	v := h.View()
	if v[0].Free != 1<<24-4 || v[1].Free != ^uint64(0)-3 || v[1].Addresses[1].Address != netip.MustParseAddr("fd00:1::2") {
		t.Errorf("view %+v", v)
	}
}
