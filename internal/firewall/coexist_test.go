package firewall

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlace(t *testing.T) {
	toUser := []string{"-A FORWARD -j DOCKER-USER"}
	engine := filterTable{hasForward: true, hasUser: true, dropsByDefault: true, forward: toUser}
	drops := filterTable{hasForward: true, dropsByDefault: true}
	judges := filterTable{hasForward: true, forward: []string{"-A FORWARD -j REJECT"}}
	cutOff := filterTable{hasForward: true, hasUser: true}
	for _, c := range []struct {
		name        string
		nft, legacy *filterTable
		want        []Jump
	}{
		{"no iptables", nil, nil, nil},
		{"engine in nft", &engine, nil, []Jump{{FlavourNFT, chainUser}}},
		{"engine in legacy", nil, &engine, []Jump{{FlavourLegacy, chainUser}}},
		{"leftover policy in the other flavour", &drops, &engine, []Jump{{FlavourNFT, chainForward}, {FlavourLegacy, chainUser}}},
		{"the host's own rules in the other flavour", &judges, &engine, []Jump{{FlavourLegacy, chainUser}}},
		{"the host's own rules, no engine", &judges, nil, []Jump{{FlavourNFT, chainForward}}},
		{"flushed, policy drop", &drops, nil, []Jump{{FlavourNFT, chainForward}}},
		{"flushed, policy accept", &cutOff, nil, nil},
		{"empty table", &filterTable{}, nil, nil},
	} {
		found := map[Flavour]filterTable{}
		if c.nft != nil {
			found[FlavourNFT] = *c.nft
		}
		if c.legacy != nil {
			found[FlavourLegacy] = *c.legacy
		}
		got := place(found)
		if diff := cmp.Diff(c.want, got.Jumps); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if got.Reason == "" {
			t.Errorf("%s: no reason", c.name)
		}
	}
}

func TestEdits(t *testing.T) {
	accepting := []string{"-A WEFT-FORWARD -m mark --mark 0x2000000/0x2000000 -j ACCEPT"}
	inUser, inForward := "-A DOCKER-USER -j WEFT-FORWARD", "-A FORWARD -j WEFT-FORWARD"
	for _, c := range []struct {
		name   string
		table  filterTable
		target string
		want   string
	}{
		{"install", filterTable{}, chainUser, "make WEFT-FORWARD, append WEFT-FORWARD, insert DOCKER-USER"},
		{"all flushed", filterTable{hasOurs: true}, chainUser, "append WEFT-FORWARD, insert DOCKER-USER"},
		{"a guest", filterTable{ours: append([]string{"-A WEFT-FORWARD -j DROP"}, accepting...), hasOurs: true, user: []string{inUser}}, chainUser, "empty WEFT-FORWARD, append WEFT-FORWARD"},
		{"in force", filterTable{ours: accepting, hasOurs: true, user: []string{"-A DOCKER-USER -s 1.2.3.4 -j DROP", inUser}}, chainUser, ""},
		{"behind RETURN", filterTable{ours: accepting, hasOurs: true, user: []string{"-A DOCKER-USER -j RETURN", inUser}}, chainUser, "delete DOCKER-USER, insert DOCKER-USER"},
		{"moves", filterTable{ours: accepting, hasOurs: true, forward: []string{inForward}}, chainUser, "insert DOCKER-USER, delete FORWARD"},
		{"moves back", filterTable{ours: accepting, hasOurs: true, user: []string{inUser}}, chainForward, "insert FORWARD, delete DOCKER-USER"},
		{"twice", filterTable{ours: accepting, hasOurs: true, user: []string{inUser, inUser}}, chainUser, "delete DOCKER-USER, delete DOCKER-USER, insert DOCKER-USER"},
		{"remove", filterTable{ours: accepting, hasOurs: true, user: []string{inUser}, forward: []string{inForward}}, "", "delete FORWARD, delete DOCKER-USER, empty WEFT-FORWARD, remove WEFT-FORWARD"},
		{"remove what was flushed", filterTable{hasOurs: true}, "", "remove WEFT-FORWARD"},
		{"nothing to remove", filterTable{}, "", ""},
	} {
		var got []string
		for _, e := range c.table.edits(c.target) {
			got = append(got, fmt.Sprintf("%s %s", e.verb, e.chain))
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}
