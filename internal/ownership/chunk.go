package ownership

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Size is how many addresses one record covers.
const Size = 64

// Mask is a set of addresses of one chunk; bit i stands for the first address
// plus i.
type Mask uint64

// Count returns the size of the set.
func (m Mask) Count() int { return bits.OnesCount64(uint64(m)) }

// lowest returns the n lowest members.
func (m Mask) lowest(n int) Mask {
	var out Mask
	for ; m != 0 && n > 0; n-- {
		out |= m & -m
		m &= m - 1
	}
	return out
}

// highest returns the n highest members.
func (m Mask) highest(n int) Mask {
	for extra := m.Count() - n; extra > 0; extra-- {
		m &= m - 1
	}
	return m
}

// First returns the first address of a's chunk.
func First(a netip.Addr) netip.Addr {
	return netip.PrefixFrom(a, a.BitLen()-6).Masked().Addr()
}

// Bit returns a's place in its chunk.
func Bit(a netip.Addr) Mask { return 1 << lastByte(a) }

func lastByte(a netip.Addr) int {
	if a.Is4() {
		return int(a.As4()[3] & (Size - 1))
	}
	return int(a.As16()[15] & (Size - 1))
}

// Addrs returns the members of m in the chunk that begins with first, ascending.
func Addrs(first netip.Addr, m Mask) []netip.Addr {
	out := make([]netip.Addr, 0, m.Count())
	for ; m != 0; m &= m - 1 {
		out = append(out, at(first, bits.TrailingZeros64(uint64(m))))
	}
	return out
}

// at returns first plus i, for i below Size.
func at(first netip.Addr, i int) netip.Addr {
	if first.Is4() {
		b := first.As4()
		b[3] |= byte(i)
		return netip.AddrFrom4(b)
	}
	b := first.As16()
	b[15] |= byte(i)
	return netip.AddrFrom16(b)
}

// within returns the addresses of a chunk that lie in p.
func within(first netip.Addr, p netip.Prefix) Mask {
	chunkBits := first.BitLen() - 6
	if p.Bits() <= chunkBits {
		if p.Contains(first) {
			return ^Mask(0)
		}
		return 0
	}
	if First(p.Addr()) != first {
		return 0
	}
	n := 1 << (first.BitLen() - p.Bits())
	return (1<<n - 1) << lastByte(p.Masked().Addr())
}

// firstOf returns the chunk that is n chunks behind the one of base; invalid if
// that is past the last address.
func firstOf(base netip.Addr, n uint64) netip.Addr {
	b := First(base).As16()
	lo, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), n<<6, 0)
	hi, past := bits.Add64(binary.BigEndian.Uint64(b[:8]), n>>58, carry)
	binary.BigEndian.PutUint64(b[8:], lo)
	binary.BigEndian.PutUint64(b[:8], hi)
	a := netip.AddrFrom16(b)
	switch {
	case past != 0 || base.Is4() && !a.Is4In6():
		return netip.Addr{}
	case base.Is4():
		return a.Unmap()
	}
	return a
}

// chunksOf returns how many chunks p touches, at most 1<<58.
func chunksOf(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	return 1 << min(max(host-6, 0), 58)
}
