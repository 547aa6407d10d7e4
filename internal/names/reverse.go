package names

import (
	"net/netip"
	"strconv"
	"strings"
)

// addressOf is the address that a folded name below in-addr.arpa or ip6.arpa stands for.
// Names that stand for a part of an address only, or for none, are not ok.
func addressOf(name string) (_ netip.Addr, ok bool) {
	if digits, found := strings.CutSuffix(name, ".in-addr.arpa"); found {
		return reversed4(digits)
	}
	if digits, found := strings.CutSuffix(name, ".ip6.arpa"); found {
		return reversed6(digits)
	}
	return netip.Addr{}, false
}

func reversed4(name string) (netip.Addr, bool) {
	var a [4]byte
	for i := len(a) - 1; i >= 0; i-- {
		digits, rest, more := strings.Cut(name, ".")
		n, err := strconv.ParseUint(digits, 10, 8)
		if err != nil || strconv.Itoa(int(n)) != digits || more != (i > 0) {
			return netip.Addr{}, false
		}
		a[i], name = byte(n), rest
	}
	return netip.AddrFrom4(a), true
}

func reversed6(name string) (netip.Addr, bool) {
	const nibbles = 32
	if len(name) != 2*nibbles-1 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i := range nibbles {
		at := 2 * (nibbles - 1 - i)
		n, err := strconv.ParseUint(name[at:at+1], 16, 4)
		if err != nil || at > 0 && name[at-1] != '.' {
			return netip.Addr{}, false
		}
		a[i/2] = a[i/2]<<4 | byte(n)
	}
	return netip.AddrFrom16(a), true
}
