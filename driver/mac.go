package driver

import (
	"crypto/sha256"
	"net"
	"net/netip"
)

// MAC derives a locally administered hardware address from an IP address. For
// IPv4 the last four bytes are the address itself, so two addresses of one
// subnet never share one; the second byte depends on the seed (the cluster, or
// this host), so that two clusters on one segment differ.
func MAC(seed string, ip netip.Addr) net.HardwareAddr {
	sum := sha256.Sum256([]byte(seed + "/" + ip.String()))
	mac := net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
	if ip.Is4() {
		mac[1] = sha256.Sum256([]byte(seed))[0]
		b := ip.As4()
		copy(mac[2:], b[:])
	}
	return mac
}
