package ipam

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPoolIDParsesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := poolID{token: token(rapid.Uint64().Draw(t, "token"))}
		id.space = rapid.SampledFrom([]space{spaceLocal, spaceGlobal}).Draw(t, "space")
		id.domain = rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}`).Draw(t, "domain")
		draw := func(label string) netip.Prefix {
			b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)
			if rapid.Bool().Draw(t, label+" is IPv4") {
				b = b[:4]
			}
			a, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(a, rapid.IntRange(0, len(b)*8).Draw(t, label+" bits"))
		}
		id.subnet = draw("subnet")
		if rapid.Bool().Draw(t, "ranged") {
			id.rng = draw("range")
		}
		back, err := parsePoolID(id.String())
		if id.subnet.Addr().Is4In6() || id.rng.Addr().Is4In6() {
			return
		}
		if err != nil || back != id {
			t.Fatalf("%s parsed to %s, %v", id, back, err)
		}
	})
}

func TestMalformedPoolIDs(t *testing.T) {
	for _, s := range []string{
		"", "/", "//////", "local/cluster/10.1.0.0/16/-/17", "local/cluster/10.1.0.0/16/-/t017", "local/cluster/10.1.0.0/16/-/t-1",
		"lokal/cluster/10.1.0.0/16/-/t1", "local//10.1.0.0/16/-/t1", "local/cluster/10.1.0.0/016/-/t1", "local/cluster/10.1.0/16/-/t1",
		"local/cluster/10.1.0.0/16/t1", "local/cluster/10.1.0.0/16/x/24/t1", "local/cluster/10.1.0.0/16/-/t1/", "local/cluster/FD00::/16/-/t1",
		"local/cluster/10.1.0.0/16/-/t99999999999999999999",
	} {
		if id, err := parsePoolID(s); err == nil {
			t.Errorf("%q parsed to %+v", s, id)
		}
	}
}

// TestBookAgainstModel compares the allocator with one that looks at every
// address.
func TestBookAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		subnet := rapid.SampledFrom([]netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/27"), netip.MustParsePrefix("255.255.255.248/29"), netip.MustParsePrefix("10.0.0.2/31"),
			netip.MustParsePrefix("fd00::/123"), netip.MustParsePrefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124"),
		}).Draw(t, "subnet")
		b := newBook(subnet)
		reserved := map[netip.Addr]bool{}
		for _, a := range reservedOf(subnet) {
			reserved[a] = true
		}
		used, order := map[netip.Addr]bool{}, []netip.Addr{}
		for range rapid.IntRange(0, 120).Draw(t, "steps") {
			addr := subnet.Addr()
			for range rapid.IntRange(0, int(sizeOf(subnet))-1).Draw(t, "offset") {
				addr = addr.Next()
			}
			bits := rapid.IntRange(subnet.Bits(), addr.BitLen()).Draw(t, "range bits")
			rng := netip.PrefixFrom(addr, bits).Masked()
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 3:
				// A machine comes to one of two lines, or goes.
				v := b.line(rapid.SampledFrom([]string{"e0", "e1"}).Draw(t, "line")).verdicts
				if v[addr].mac != nil {
					delete(v, addr)
				} else {
					v[addr] = verdict{mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
				}
				b.mark()
			case 0:
				if used[addr] {
					b.remember(b.nextFreed(addr, ""))
					delete(used, addr)
					order = append(order, addr)
				}
			case 1:
				if used[addr] {
					b.forget(addr)
					delete(used, addr)
				}
			default:
				busy := maps.Clone(used)
				for _, l := range b.lines {
					for a := range l.verdicts {
						busy[a] = true
					}
				}
				n := rapid.IntRange(0, 9).Draw(t, "ahead")
				if got, want := b.next(rng, n), modelNext(rng, busy, reserved, order, n); !slices.Equal(got, want) {
					t.Fatalf("next(%s, %d) = %v, want %v", rng, n, got, want)
				}
				got, ok := b.pick(rng, "")
				want, wantOK := modelPick(rng, busy, reserved, order)
				if got != want && wantOK || ok != wantOK {
					t.Fatalf("pick(%s) = %s, %v, want %s, %v", rng, got, ok, want, wantOK)
				}
				if ok {
					b.hold(got, &holding{})
					used[got] = true
					order = without(order, got)
				}
			}
			size, n := b.count(subnet)
			if int(n) != len(used) || size != sizeOf(subnet)-uint64(len(reserved)) {
				t.Fatalf("count %d, %d", size, n)
			}
		}
	})
}

func modelPick(rng netip.Prefix, used, reserved map[netip.Addr]bool, order []netip.Addr) (netip.Addr, bool) {
	late := map[netip.Addr]bool{}
	for _, a := range order {
		late[a] = true
	}
	for a := rng.Addr(); a.IsValid() && rng.Contains(a); a = a.Next() {
		if !used[a] && !reserved[a] && !late[a] {
			return a, true
		}
	}
	for _, a := range order {
		if rng.Contains(a) && !used[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// modelNext picks n times.
func modelNext(rng netip.Prefix, used, reserved map[netip.Addr]bool, order []netip.Addr, n int) (out []netip.Addr) {
	used = maps.Clone(used)
	for range n {
		a, ok := modelPick(rng, used, reserved, order)
		if !ok {
			break
		}
		out, used[a] = append(out, a), true
	}
	return out
}

func without(list []netip.Addr, a netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, x := range list {
		if x != a {
			out = append(out, x)
		}
	}
	return out
}
