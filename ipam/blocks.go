package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Limits of subnets: larger IPv4 subnets are certainly mistakes.
const minBits4, minBits6 = 8, 16

// A Block is where dynamic pools come from: Base, cut into subnets of Bits.
type Block struct {
	// Base is masked.
	Base netip.Prefix
	// Bits is the prefix length of the pools.
	Bits int
}

// String returns the form that [ParsePools] reads.
func (b Block) String() string { return b.Base.String() + "/" + strconv.Itoa(b.Bits) }

// ParsePools reads WEFT_POOLS: a comma-separated list of base/prefixlen/size,
// such as 10.10.0.0/16/24,fd00:1::/48/64. The empty string is no block at all. A
// block that is unusable or overlaps another one is an error.
func ParsePools(s string) ([]Block, error) {
	if s == "" {
		return nil, nil
	}
	var blocks []Block
	for entry := range strings.SplitSeq(s, ",") {
		b, err := parseBlock(strings.TrimSpace(entry))
		if err != nil {
			return nil, err
		}
		for _, other := range blocks {
			if b.Base.Overlaps(other.Base) {
				return nil, refuse(ErrConfig, "name each address once", "WEFT_POOLS: %s overlaps %s", b, other)
			}
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func parseBlock(s string) (Block, error) {
	const form = "write base/prefixlen/size, such as 10.10.0.0/16/24: subnets of /24 out of 10.10.0.0/16"
	cut := strings.LastIndexByte(s, '/')
	if strings.Count(s, "/") != 2 {
		return Block{}, refuse(ErrConfig, form, "WEFT_POOLS: %q does not have three parts", s)
	}
	base, err := netip.ParsePrefix(s[:cut])
	if err != nil {
		return Block{}, refuse(ErrConfig, form, "WEFT_POOLS: %q is not an address with a prefix length", s[:cut])
	}
	bits, err := strconv.Atoi(s[cut+1:])
	if err != nil || strconv.Itoa(bits) != s[cut+1:] {
		return Block{}, refuse(ErrConfig, form, "WEFT_POOLS: size %q of %q is not a number", s[cut+1:], s)
	}
	if base.Masked() != base {
		return Block{}, refuse(ErrConfig, "write "+Block{base.Masked(), bits}.String(), "WEFT_POOLS: %s has bits behind its prefix length", base)
	}
	if err := checkSubnet(base); err != nil {
		return Block{}, refuse(ErrConfig, form, "WEFT_POOLS: %v", err)
	}
	if most := base.Addr().BitLen() - 2; bits < base.Bits() || bits > most {
		return Block{}, refuse(ErrConfig, fmt.Sprintf("use a size from %d to %d", base.Bits(), most),
			"WEFT_POOLS: %s cannot be cut into subnets of /%d", base, bits)
	}
	return Block{Base: base, Bits: bits}, nil
}

// checkSubnet says whether containers can have addresses of the masked prefix.
func checkSubnet(p netip.Prefix) error {
	const do = "use a private subnet such as 10.10.0.0/16 or fd00:10::/64"
	least := minBits4
	if p.Addr().Is6() {
		least = minBits6
	}
	switch {
	case p.Addr().Is4In6():
		return refuse(ErrSubnet, do, "%s is an IPv4 subnet in IPv6 form", p)
	case p.Bits() < least:
		return refuse(ErrSubnet, do, "%s is larger than /%d", p, least)
	case p.Addr().IsMulticast(), p.Addr().Is4() && p.Addr().As4()[0] >= 240:
		return refuse(ErrSubnet, do, "%s is not for hosts (multicast or reserved)", p)
	case p.Addr().IsLoopback():
		return refuse(ErrSubnet, do, "%s holds loopback addresses", p)
	case p.Addr().IsUnspecified():
		return refuse(ErrSubnet, do, "%s is not a network of hosts", p)
	}
	return nil
}

// defaultBlocks are Docker's: 172.17/16 to 172.31/16, then 192.168/16 in /20,
// and a unique local /48 that follows from seed (RFC 4193), in /64.
func defaultBlocks(seed string) []Block {
	var blocks []Block
	for i := byte(17); i <= 31; i++ {
		blocks = append(blocks, Block{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i}), 16), 16})
	}
	blocks = append(blocks, Block{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16), 20})
	sum := sha256.Sum256([]byte("weft ula " + seed))
	ula := [16]byte{0: 0xfd}
	copy(ula[1:6], sum[:])
	return append(blocks, Block{netip.PrefixFrom(netip.AddrFrom16(ula), 48), 64})
}

// sharedDefault is what networks that hosts share are taken from first. It is none of the
// engine's blocks: an engine that has nothing on such a network yet sees no route to it, and
// would give its subnet to a network of its own.
func sharedDefault() Block {
	return Block{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64}), 10), 20}
}

// withDefaults adds the defaults of each family that blocks does not name; first come before
// the others.
func withDefaults(blocks []Block, seed string, first ...Block) []Block {
	out := slices.Clone(blocks)
	for _, d := range append(first, defaultBlocks(seed)...) {
		named := func(b Block) bool { return b.Base.Addr().Is4() == d.Base.Addr().Is4() }
		if !slices.ContainsFunc(blocks, named) {
			out = append(out, d)
		}
	}
	return out
}

// choose returns the first subnet of blocks that overlaps nothing in taken. bits
// is the wanted prefix length; 0 takes that of the block.
func choose(blocks []Block, ipv6 bool, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, b := range blocks {
		if b.Base.Addr().Is6() != ipv6 {
			continue
		}
		size := b.Bits
		if bits != 0 {
			size = bits
		}
		if size < b.Base.Bits() {
			continue
		}
		if p, ok := chooseIn(b.Base, size, taken); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// chooseIn steps over one taken prefix at a time, so it takes no more steps than
// there are of those.
func chooseIn(base netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	p := netip.PrefixFrom(base.Addr(), bits)
	for {
		i := slices.IndexFunc(taken, p.Overlaps)
		if i < 0 {
			return p, true
		}
		end := lastOf(p)
		if last := lastOf(taken[i]); end.Less(last) {
			end = last
		}
		next := end.Next()
		if !next.IsValid() || !base.Contains(next) {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(next, bits)
	}
}
