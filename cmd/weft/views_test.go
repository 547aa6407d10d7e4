package main

import (
	"net/netip"
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

// TestAddressText: what is special about an address is in one pair of brackets.
func TestAddressText(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.2")
	for _, c := range []struct {
		a    admin.Address
		want string
	}{
		{admin.Address{Address: addr, Kind: "endpoint"}, "10.0.0.2"},
		{admin.Address{Address: addr, Kind: "gateway"}, "10.0.0.2 (gateway)"},
		{admin.Address{Address: addr, Kind: "endpoint", Name: "web", Leaked: true}, "10.0.0.2 (web, leaked)"},
		{admin.Address{Address: addr, Kind: "endpoint", Name: "(this host)"}, "10.0.0.2 (this host)"},
		{admin.Address{Address: addr, Kind: "endpoint", Name: "(this host)", Conflict: true}, "10.0.0.2 (this host, CONFLICT)"},
	} {
		if got := addressText(c.a); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
