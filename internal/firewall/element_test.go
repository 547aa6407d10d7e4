package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
)

func TestIntervals(t *testing.T) {
	for _, c := range []struct{ prefix, first, last, behind string }{
		{"10.1.0.7/24", "0a010000", "0a0100ff", "0a010100"},
		{"10.255.255.255/32", "0affffff", "0affffff", "0b000000"},
		{"0.0.0.0/0", "00000000", "ffffffff", ""},
		{"192.0.0.0/3", "c0000000", "dfffffff", "e0000000"},
		{"fd00::/127", "fd000000000000000000000000000000", "fd000000000000000000000000000001", "fd000000000000000000000000000002"},
	} {
		f := subnet(netip.MustParsePrefix(c.prefix))
		behind, _ := successor(f.last)
		got := fmt.Sprintf("%x %x %x", f.first, f.last, behind)
		if want := c.first + " " + c.last + " " + c.behind; got != want {
			t.Errorf("%s: %s, want %s", c.prefix, got, want)
		}
	}
}

func TestDiff(t *testing.T) {
	one, two := uplinkElements("eth0"), uplinkElements("eth1")
	have := map[setName][]raw{"uplinks": one[0].raws()}
	if c := diff(hostTable(), have, map[setName][]element{"uplinks": one}); !c.empty() {
		t.Errorf("equal: %v", c)
	}
	c := diff(hostTable(), have, map[setName][]element{"uplinks": two})
	if len(c.remove["uplinks"]) != 1 || len(c.add["uplinks"]) != 1 {
		t.Errorf("one for another: %v", c)
	}
	if c := diff(hostTable(), nil, map[setName][]element{"uplinks": append(one, two...)}); len(c.add["uplinks"]) != 2 || len(c.remove) != 0 {
		t.Errorf("from nothing: %v", c)
	}
}

// TestSkeletonAgrees holds the names and numbers together that Go and nft share.
func TestSkeletonAgrees(t *testing.T) {
	if mark := fmt.Sprintf("meta mark | %#08x accept", MarkAccepted); !strings.Contains(hostSkeleton, mark) {
		t.Errorf("the skeleton lacks %q", mark)
	}
	if clear := fmt.Sprintf("meta mark & %#08x", ^uint32(MarkAccepted)); !strings.Contains(hostSkeleton, clear) {
		t.Errorf("the skeleton lacks %q", clear)
	}
	for _, of := range append(allTables(), shortcutTable("wx-1")) {
		for _, set := range of.sets {
			if !strings.Contains(of.skeleton, " "+string(set)+" {") || !strings.Contains(of.skeleton, "@"+string(set)) {
				t.Errorf("the skeleton of table %s lacks set %s, or does not use it", of, set)
			}
			if set.tunnel() != (of.family == nftables.TableFamilyBridge) {
				t.Errorf("set %s of table %s counts as one of the tunnels' table: %t", set, of, set.tunnel())
			}
		}
	}
	for _, verdict := range []string{"into_nat", "into_routed", "same_noicc", "ok"} {
		if !strings.Contains(hostSkeleton, "chain "+verdict+" {") {
			t.Errorf("the skeleton lacks chain %s", verdict)
		}
	}
}
