package ipam_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/ipam"
)

func TestRequestPoolRefusals(t *testing.T) {
	for _, tc := range []struct {
		name, space, subnet, rng string
		options                  map[string]string
		cause                    error
		texts                    []string
	}{
		{"unknown space", "LocalDefault", "10.5.0.0/16", "", nil, ipam.ErrSpace, []string{`"LocalDefault"`, ipam.LocalSpace, ipam.GlobalSpace}},
		{"no space", " ", "10.5.0.0/16", "", nil, ipam.ErrSpace, []string{`" "`}},
		{"unknown option", "", "10.5.0.0/16", "", map[string]string{"domian": "host"}, ipam.ErrOption, []string{`"domian"`, "did you mean domain"}},
		{"empty domain", "", "10.5.0.0/16", "", map[string]string{"domain": ""}, ipam.ErrOption, []string{`""`, "domain=host"}},
		{"domain with a slash", "", "10.5.0.0/16", "", map[string]string{"domain": "a/b"}, ipam.ErrOption, []string{`"a/b"`}},
		{"domain that starts with a dash", "", "10.5.0.0/16", "", map[string]string{"domain": "-"}, ipam.ErrOption, []string{`"-"`}},
		{"long domain", "", "10.5.0.0/16", "", map[string]string{"domain": strings.Repeat("x", 64)}, ipam.ErrOption, nil},
		{"range without subnet", "", "", "10.5.0.0/24", nil, ipam.ErrSubnet, []string{"10.5.0.0/24", "--subnet"}},
		{"range outside", "", "10.5.0.0/16", "10.6.0.0/24", nil, ipam.ErrSubnet, []string{"10.6.0.0/24", "10.5.0.0/16"}},
		{"range of nothing usable", "", "10.5.0.0/16", "10.5.0.0/32", nil, ipam.ErrSubnet, []string{"10.5.0.0/32", "no address"}},
		{"range larger than subnet", "", "10.5.0.0/16", "10.5.0.0/15", nil, ipam.ErrSubnet, []string{"10.5.0.0/15"}},
		{"range of another family", "", "10.5.0.0/16", "fd00::/64", nil, ipam.ErrSubnet, []string{"fd00::/64"}},
		{"too large", "", "12.0.0.0/7", "", nil, ipam.ErrSubnet, []string{"12.0.0.0/7", "/8"}},
		{"everything", "", "0.0.0.0/0", "", nil, ipam.ErrSubnet, []string{"0.0.0.0/0"}},
		{"too large for IPv6", "", "2000::/3", "", nil, ipam.ErrSubnet, []string{"2000::/3", "/16"}},
		{"multicast", "", "224.1.0.0/16", "", nil, ipam.ErrSubnet, []string{"224.1.0.0/16", "multicast"}},
		{"reserved", "", "250.1.0.0/16", "", nil, ipam.ErrSubnet, []string{"250.1.0.0/16"}},
		{"multicast of IPv6", "", "ff02::/64", "", nil, ipam.ErrSubnet, []string{"ff02::/64"}},
		{"loopback", "", "127.5.0.0/16", "", nil, ipam.ErrSubnet, []string{"127.5.0.0/16", "loopback"}},
		{"IPv4 as IPv6", "", "::ffff:10.0.0.0/112", "", nil, ipam.ErrSubnet, []string{"::ffff:10.0.0.0/112"}},
		{"size without room", "", "0.0.0.0/31", "", nil, ipam.ErrSubnet, []string{"0.0.0.0/31", "/30"}},
		{"size larger than any block", "", "0.0.0.0/9", "", nil, ipam.ErrNoPool, []string{"/9", "IPv4", "WEFT_POOLS"}},
		{"equal to another pool", "", "10.1.0.0/16", "", nil, ipam.ErrOverlap, []string{"Pool overlaps with other one on this address space: 10.1.0.0/16", "domain=NAME"}},
		{"inside another pool", "", "10.1.7.0/24", "", nil, ipam.ErrOverlap, []string{"10.1.7.0/24 overlaps 10.1.0.0/16"}},
		{"around another pool", "", "10.0.0.0/8", "", nil, ipam.ErrOverlap, []string{"10.0.0.0/8 overlaps 10.1.0.0/16"}},
		{"inside a pool of its named domain", "", "10.2.0.0/24", "", map[string]string{"domain": "vlan7"}, ipam.ErrOverlap, []string{"vlan7"}},
		{"around a pool of the global space", ipam.GlobalSpace, "10.3.0.0/16", "", nil, ipam.ErrOverlap, []string{"10.3.4.0/24"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			h.subnet(t, "10.1.0.0/16")
			h.pool(t, ipam.PoolRequest{Subnet: prefix("10.2.0.0/16"), Options: map[string]string{"domain": "vlan7"}})
			h.pool(t, ipam.PoolRequest{Space: ipam.GlobalSpace, Subnet: prefix("10.3.4.0/24")})
			before := h.View()
			if tc.space == "" {
				tc.space = ipam.LocalSpace
			}
			_, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: tc.space, Subnet: prefix(tc.subnet), Range: prefix(tc.rng), Options: tc.options})
			wantRefusal(t, err, tc.cause, tc.texts...)
			if diff := cmp.Diff(before, h.View(), compareNetip...); diff != "" {
				t.Errorf("a refusal changed something:\n%s", diff)
			}
		})
	}
}

func TestDomainsAndSpacesKeepSeparateBooks(t *testing.T) {
	h := newHost(t)
	req := ipam.PoolRequest{Subnet: prefix("10.1.2.3/16")}
	ids := []string{h.pool(t, req).ID}
	for _, domain := range []string{"host", "vlan7"} {
		req.Options = map[string]string{"domain": domain, "RequestAddressType": "leaked", "com.docker.network.x": "y"}
		ids = append(ids, h.pool(t, req).ID)
	}
	req.Space, req.Options = ipam.GlobalSpace, nil
	ids = append(ids, h.pool(t, req).ID)
	for _, id := range ids {
		h.want(t, ipam.AddressRequest{PoolID: id, Gateway: true}, "10.1.0.1")
	}
	for i, prefix := range []string{"local/cluster/10.1.0.0/16/-/t", "local/host/10.1.0.0/16/-/t", "local/vlan7/10.1.0.0/16/-/t", "global/cluster/10.1.0.0/16/-/t"} {
		if !strings.HasPrefix(ids[i], prefix) {
			t.Errorf("PoolID %s, want %s...", ids[i], prefix)
		}
	}
}

func TestDynamicPoolsAreDockersUntilNoneIsLeft(t *testing.T) {
	h := newHost(t, func(c *ipam.Config) {
		c.Routes = func() []netip.Prefix {
			return []netip.Prefix{prefix("0.0.0.0/0"), prefix("172.18.4.0/24"), prefix("192.168.16.0/24"), prefix("fe80::/64")}
		}
	})
	h.pool(t, ipam.PoolRequest{Subnet: prefix("172.20.0.0/15"), Options: map[string]string{"domain": "host"}})
	var got []netip.Prefix
	for {
		p, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace})
		if err != nil {
			wantRefusal(t, err, ipam.ErrNoPool, "IPv4", "WEFT_POOLS", "28 pools")
			break
		}
		got = append(got, p.Subnet)
	}
	var want []netip.Prefix
	for i := 17; i <= 31; i++ {
		if i != 18 && i != 20 && i != 21 {
			want = append(want, prefix(fmt.Sprintf("172.%d.0.0/16", i)))
		}
	}
	for i := 0; i < 256; i += 16 {
		if i != 16 {
			want = append(want, prefix(fmt.Sprintf("192.168.%d.0/20", i)))
		}
	}
	if diff := cmp.Diff(want, got, compareNetip...); diff != "" {
		t.Error(diff)
	}
}

func TestDynamicPoolsOfIPv6FollowTheSeed(t *testing.T) {
	h := newHost(t)
	first := h.pool(t, ipam.PoolRequest{IPv6: true}).Subnet
	second := h.pool(t, ipam.PoolRequest{IPv6: true}).Subnet
	if first.Bits() != 64 || first.Addr().As16()[0] != 0xfd || first == second {
		t.Fatalf("pools %s and %s, want two ULA /64", first, second)
	}
	again := newHost(t).pool(t, ipam.PoolRequest{IPv6: true}).Subnet
	other := newHost(t, func(c *ipam.Config) { c.Seed = "another host" }).pool(t, ipam.PoolRequest{IPv6: true}).Subnet
	if again != first || other.Overlaps(netip.PrefixFrom(first.Addr(), 48)) {
		t.Fatalf("%s, the same seed again %s, another seed %s", first, again, other)
	}
}

func TestConfiguredAndSizedPools(t *testing.T) {
	blocks, err := ipam.ParsePools("10.10.0.0/16/24, 10.99.0.0/22/23")
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, func(c *ipam.Config) { c.Pools = blocks })
	for _, step := range []struct{ subnet, want string }{
		{"", "10.10.0.0/24"},
		{"0.0.0.0/20", "10.10.16.0/20"},
		{"", "10.10.1.0/24"},
		{"0.0.0.0/17", "10.10.128.0/17"},
		{"0.0.0.0/16", ""},
		{"0.0.0.0/22", "10.10.4.0/22"},
		{"0.0.0.0/30", "10.10.2.0/30"},
		{"", "10.10.3.0/24"},
	} {
		p, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix(step.subnet)})
		if step.want == "" {
			wantRefusal(t, err, ipam.ErrNoPool, "/16", "10.10.0.0/16/24")
			continue
		}
		if err != nil || p.Subnet != prefix(step.want) {
			t.Fatalf("RequestPool(%q) = %v, %v, want %s", step.subnet, p.Subnet, err, step.want)
		}
	}
	if p := h.pool(t, ipam.PoolRequest{Subnet: prefix("::/80")}); p.Subnet.Bits() != 80 || !p.Subnet.Addr().Is6() {
		t.Errorf("::/80 gave %s", p.Subnet)
	}
}

func TestReleasedDynamicPoolComesBack(t *testing.T) {
	h := newHost(t)
	p := h.pool(t, ipam.PoolRequest{})
	for range 2 {
		if err := h.ReleasePool(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
	}
	again := h.pool(t, ipam.PoolRequest{})
	if again.Subnet != p.Subnet || again.ID == p.ID {
		t.Fatalf("%+v after %+v was released", again, p)
	}
}

func TestParsePools(t *testing.T) {
	got, err := ipam.ParsePools("10.10.0.0/16/24,fd00:1::/48/64")
	want := []ipam.Block{{Base: prefix("10.10.0.0/16"), Bits: 24}, {Base: prefix("fd00:1::/48"), Bits: 64}}
	if err != nil || !cmp.Equal(got, want, compareNetip...) {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err := ipam.ParsePools(""); err != nil || got != nil {
		t.Fatalf("empty: %v, %v", got, err)
	}
	for _, tc := range []struct {
		in    string
		texts []string
	}{
		{"10.10.0.0/16", []string{`"10.10.0.0/16"`, "three parts"}},
		{",", []string{`""`}},
		{"10.10.0.0/16/24,", []string{`""`}},
		{"10.10.0/16/24", []string{`"10.10.0/16"`}},
		{"10.10.0.0/33/24", []string{`"10.10.0.0/33"`}},
		{"10.10.0.0/16/x", []string{`"x"`}},
		{"10.10.0.0/16/+24", []string{`"+24"`}},
		{"10.10.0.0/16/024", []string{`"024"`}},
		{"10.10.3.0/16/24", []string{"10.10.3.0/16", "write 10.10.0.0/16/24"}},
		{"10.10.0.0/16/8", []string{"/8", "from 16 to 30"}},
		{"10.10.0.0/16/31", []string{"/31"}},
		{"fd00:1::/48/127", []string{"/127", "from 48 to 126"}},
		{"224.0.0.0/8/16", []string{"multicast"}},
		{"0.0.0.0/8/16", []string{"0.0.0.0/8"}},
		{"10.0.0.0/8/24,10.10.0.0/16/24", []string{"10.10.0.0/16/24", "10.0.0.0/8/24"}},
	} {
		t.Run(tc.in, func(t *testing.T) {
			_, err := ipam.ParsePools(tc.in)
			wantRefusal(t, err, ipam.ErrConfig, append(tc.texts, "WEFT_POOLS")...)
		})
	}
}

func TestNewRefusals(t *testing.T) {
	_, err := ipam.New(ipam.Config{Seed: seed})
	wantRefusal(t, err, ipam.ErrConfig)
	_, err = ipam.New(ipam.Config{Journal: newHost(t).journal})
	wantRefusal(t, err, ipam.ErrConfig)
	for _, op := range []journal.Op{
		journal.Put("ipam-pools", "local/cluster/10.0.0.0/t1", struct{}{}),
		journal.Put("ipam-pools", "local/cluster/10.1.0.0/16/-/t1", "text"),
		journal.Put("ipam-addresses", "nonsense", struct{}{}),
		journal.Put("ipam-addresses", "local/cluster/10.1.0.0/16/x", struct{}{}),
		journal.Put("ipam-addresses", "what/10.1.0.1", struct{}{}),
		journal.Put("ipam-meta", "next-token", "x"),
	} {
		h := newHost(t)
		if err := h.journal.Commit(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		if _, err := ipam.New(h.cfg); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("damaged journal: %v", err)
		}
	}
}

func TestSwarmNetworkComesAgainAfterARestartOfTheEngine(t *testing.T) {
	const network = "k3v9qj2m1x8c7b6n5a4s3d2f1"
	h := newHost(t)
	old := h.subnet(t, "10.1.0.0/16")
	h.want(t, ipam.AddressRequest{PoolID: old, Gateway: true}, "10.1.0.1")
	_, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/16")})
	wantRefusal(t, err, ipam.ErrOverlap)
	bind := func() {
		t.Helper()
		if err := h.Bind(t.Context(), network, prefix("10.1.0.0/16")); err != nil {
			t.Fatal(err)
		}
	}
	bind()
	h.want(t, ipam.AddressRequest{PoolID: old, Address: netip.MustParseAddr("10.1.0.7"), Bare: true}, "10.1.0.7")
	if kind := h.View()[0].Addresses[1].Kind; kind != ipam.KindEndpoint {
		t.Fatalf("explicit address of a bound pool is of kind %s", kind)
	}

	again := h.subnet(t, "10.1.0.0/16")
	h.want(t, ipam.AddressRequest{PoolID: again, Gateway: true}, "10.1.0.1")
	_, err = h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: again, Address: netip.MustParseAddr("10.1.0.7")})
	wantRefusal(t, err, ipam.ErrInUse, "Address already in use")
	bind()
	h.restart(t)
	bind()
	h.want(t, ipam.AddressRequest{PoolID: again, Address: netip.MustParseAddr("10.1.0.7")}, "10.1.0.7")
	h.release(t, old, "10.1.0.7", "10.1.0.1")
	_, err = h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: again, Address: netip.MustParseAddr("10.1.0.7")})
	wantRefusal(t, err, ipam.ErrInUse)
	_, err = h.RequestAddress(t.Context(), ipam.AddressRequest{PoolID: again, Address: netip.MustParseAddr("10.1.0.1")})
	wantRefusal(t, err, ipam.ErrInUse)
	if err := h.ReleasePool(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	h.restart(t)
	v := h.View()
	if len(v) != 1 || v[0].ID != again || v[0].Used != 2 || v[0].Network != network {
		t.Fatalf("left: %+v", v)
	}
	err = h.Bind(t.Context(), network, prefix("10.9.0.0/16"))
	wantRefusal(t, err, ipam.ErrUnknownPool, "10.9.0.0/16")
}

func TestLocalNetworkIsNotSuperseded(t *testing.T) {
	h := newHost(t)
	h.subnet(t, "10.1.0.0/16")
	if err := h.Bind(t.Context(), strings.Repeat("0123456789abcdef", 4), prefix("10.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	_, err := h.RequestPool(t.Context(), ipam.PoolRequest{Space: ipam.LocalSpace, Subnet: prefix("10.1.0.0/16")})
	wantRefusal(t, err, ipam.ErrOverlap)
}
