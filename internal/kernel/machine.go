package kernel

import (
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Machine is what tells this machine from its copies. What cannot be read is empty.
type Machine struct {
	// Product is the UUID by the firmware (SMBIOS), ID the machine-id of the
	// operating system, which a managed plugin does not see.
	Product, ID string
	// MACs are the permanent addresses of the network cards, sorted; virtual links
	// have none (kernel 5.6 and later).
	MACs []string
}

// Machine reads the machine's identity.
func (h *Host) Machine() Machine {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	m := Machine{Product: read("/sys/class/dmi/id/product_uuid"), ID: read("/etc/machine-id")}
	links, err := dump(h.nl.LinkList)
	if err != nil {
		return m
	}
	for _, l := range links {
		a := l.Attrs()
		if _, device := l.(*netlink.Device); device && len(a.PermHWAddr) == 6 {
			m.MACs = append(m.MACs, a.PermHWAddr.String())
		}
	}
	slices.Sort(m.MACs)
	m.MACs = slices.Compact(m.MACs)
	return m
}
