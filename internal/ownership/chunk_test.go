package ownership

import (
	"math/big"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func drawAddr(t *rapid.T) netip.Addr {
	b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 63, 64, 127, 128, 191, 192, 254, 255}), 16, 16).Draw(t, "address")
	if rapid.Bool().Draw(t, "IPv4") {
		b = b[:4]
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func number(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

func TestChunkArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawAddr(t)
		first, bit := First(a), Bit(a)
		if a.Is4In6() {
			return
		}
		if got := Addrs(first, bit); len(got) != 1 || got[0] != a {
			t.Fatalf("%s is %v of %s", a, got, first)
		}
		if n := new(big.Int).Sub(number(a), number(first)); n.Cmp(big.NewInt(int64(place(bit)))) != 0 {
			t.Fatalf("%s is %v behind %s, and has place %d", a, n, first, place(bit))
		}
		n := rapid.Uint64Range(0, 1<<58).Draw(t, "chunks")
		want := new(big.Int).Add(number(first), new(big.Int).Mul(new(big.Int).SetUint64(n), big.NewInt(Size)))
		got := firstOf(a, n)
		switch {
		case want.BitLen() > a.BitLen():
			if got.IsValid() {
				t.Fatalf("chunk %d behind %s is %s, past the last address", n, first, got)
			}
		case !got.IsValid() || number(got).Cmp(want) != 0 || got.Is4() != a.Is4():
			t.Fatalf("chunk %d behind %s is %s", n, first, got)
		}
	})
}

func TestWithinIsContains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := First(drawAddr(t))
		near := Addrs(first, 1<<rapid.IntRange(0, Size-1).Draw(t, "place"))[0]
		if rapid.Bool().Draw(t, "elsewhere") {
			near = drawAddr(t)
		}
		p := netip.PrefixFrom(near, rapid.IntRange(0, near.BitLen()).Draw(t, "bits")).Masked()
		m := within(first, p)
		for _, a := range Addrs(first, ^Mask(0)) {
			if p.Contains(a) != (m&Bit(a) != 0) {
				t.Fatalf("%v of %s: %s", p, first, a)
			}
		}
		if n := chunksOf(p); p.Contains(first) && p.Addr().BitLen()-p.Bits() <= 20 {
			if last := firstOf(p.Addr(), n-1); within(last, p) == 0 || within(firstOf(p.Addr(), n), p) != 0 && firstOf(p.Addr(), n).IsValid() {
				t.Fatalf("%v has %d chunks, of which %s is the last", p, n, last)
			}
		}
	})
}

func TestParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, n := Mask(rapid.Uint64().Draw(t, "mask")), rapid.IntRange(-1, 66).Draw(t, "n")
		low, high := m.lowest(n), m.highest(max(n, 0))
		want := min(max(n, 0), m.Count())
		if low.Count() != want || high.Count() != want || low&^m != 0 || high&^m != 0 {
			t.Fatalf("%x: %x, %x", m, low, high)
		}
		if rest := m &^ low; low != 0 && rest != 0 && rest&-rest < low {
			t.Fatalf("%x: the lowest %d are %x", m, n, low)
		}
		if rest := m &^ high; high != 0 && rest > high&-high && rest&^(high&-high-1) != 0 {
			t.Fatalf("%x: the highest %d are %x", m, n, high)
		}
	})
}
