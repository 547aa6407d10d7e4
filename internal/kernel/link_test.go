package kernel

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// TestProvider: the tags of 802.1ad are told from those of 802.1Q.
func TestProvider(t *testing.T) {
	for protocol, want := range map[netlink.VlanProtocol]bool{netlink.VLAN_PROTOCOL_8021Q: false, netlink.VLAN_PROTOCOL_8021AD: true} {
		if l := toLink(&netlink.Vlan{VlanId: 5, VlanProtocol: protocol}); l.VLAN != 5 || l.Provider != want {
			t.Errorf("%s: %+v", protocol, l)
		}
	}
}
