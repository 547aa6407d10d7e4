package main

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

// TestPrintable: what others are called moves no cursor, and makes no line of its own.
func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"redis": "redis", "größe Ω �": "größe Ω �", `back\slash "quoted"`: `back\slash "quoted"`,
		"a\nb\tc\rd": `a\nb\tc\rd`, "\x1b[2J": `\x1b[2J`, "\xff\x00": `\xff\x00`, "\u202egnp": `\u202egnp`, "\u2028": `\u2028`,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q is %s instead of %s", text, got, want)
		}
	}
	const evil = "x\x1b[2J\nNames:\tall-is-well"
	addr := netip.MustParseAddr("192.0.2.1")
	socket := serveAdmin(t, admin.Source{
		Names: func(context.Context) ([]admin.Name, error) {
			return []admin.Name{{Network: "n" + evil, Name: evil + "  192.0.2.9", Addresses: []netip.Addr{addr}, Hosts: []string{evil}}}, nil
		},
		Status: func(context.Context) (admin.Status, error) {
			return admin.Status{Troubles: []string{evil}, Clashes: []string{evil}, Names: &admin.NamesStatus{
				Problem: evil, Problems: map[string]string{evil: evil}, Stay: []string{evil}, Old: evil}}, nil
		},
		Pools: func(context.Context) ([]admin.Pool, error) {
			return []admin.Pool{{Addresses: []admin.Address{{Address: addr, Name: evil}}, Cluster: &admin.PoolCluster{Owners: map[string]int{evil: 1}, Problem: evil}}}, nil
		},
	})
	for command, most := range map[string]int{"names": 2, "status": 21, "ipam": 2} {
		out, err := run(t, command, "--socket", socket)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out, "\n"); strings.ContainsAny(out, "\x1b\t") || n > most || !strings.Contains(out, `x\x1b[2J\nNames:\tall-is-well`) {
			t.Errorf("weft %s prints %d lines:\n%q", command, n, out)
		}
		if command == "names" && !strings.Contains(out, `well\x20\x20192.0.2.9 `) {
			t.Errorf("a name looks like two:\n%q", out)
		}
		if out, err = run(t, command, "--json", "--socket", socket); err != nil || !strings.Contains(out, `x\u001b[2J\nNames:\tall-is-well`) {
			t.Errorf("weft %s --json (%v):\n%s", command, err, out)
		}
	}
}
