package firewall

import (
	"net/netip"
	"testing"
)

func network(id, bridge, v4, v6 string) Network {
	n := Network{ID: id, Bridge: bridge, ICC: true, Masquerade: true}
	if v4 != "" {
		n.IPv4 = []Family{{Subnet: netip.MustParsePrefix(v4)}}
	}
	if v6 != "" {
		n.IPv6 = []Family{{Subnet: netip.MustParsePrefix(v6)}}
	}
	return n
}

func TestSmoke(t *testing.T) {
	ns := newNamespace(t)
	ctx := testContext(t)
	before := ns.snapshot(t)
	fw := newNFT(t, ns)
	n := network("n1", "weft0", "10.1.0.0/24", "fd00:1::/64")
	n.IPv4[0].SNAT = netip.MustParseAddr("192.0.2.1")
	n.Trusted = []string{"eth7"}
	if err := fw.AddNetwork(ctx, n); err != nil {
		t.Fatal(err)
	}
	if err := fw.AddNetwork(ctx, network("n2", "weft1", "10.1.1.0/24", "fd00:2::/64")); err != nil {
		t.Fatal(err)
	}
	if err := fw.SetUplinks(ctx, []string{"eth0", "eth1"}); err != nil {
		t.Fatal(err)
	}
	if err := fw.AddPorts(ctx, []Port{
		{"e1", "weft0", TCP, mustAddr("0.0.0.0:80"), mustAddr("10.1.0.2:8080")},
		{"e1", "weft0", SCTP, mustAddr("192.0.2.1:80"), mustAddr("10.1.0.2:8080")},
		{"e1", "weft0", UDP, mustAddr("[::]:80"), mustAddr("[fd00:1::2]:8080")},
		{"e1", "weft0", UDP, mustAddr("[2001:db8::1]:80"), mustAddr("[fd00:1::2]:8080")},
	}, []Open{{"e1", mustAddr("10.1.0.2:8080"), TCP}, {"e1", mustAddr("[fd00:1::2]:8080"), UDP}}); err != nil {
		t.Fatal(err)
	}
	r, err := fw.Mend(ctx)
	if err != nil || len(r) != 0 {
		t.Errorf("mend after own changes: %v, %v", r, err)
	}
	t.Log(ns.sh(t, "nft list ruleset | head -120"))
	for _, id := range []string{"n1", "n2"} {
		if err := fw.RemoveNetwork(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if after := ns.snapshot(t); after != before {
		t.Errorf("left behind:\n%s\nwas:\n%s", after, before)
	}
}
