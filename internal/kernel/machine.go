package kernel

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrSet is the kernel's NET_ADDR_SET: somebody gave the link its address. The
// other types are 0 (burnt into the card, and what drivers say that do not care),
// 1 (random) and 2 (taken from another link).
const addrSet = "3"

// Machine is what tells this machine from its copies. What cannot be read is empty.
type Machine struct {
	// Product is the UUID by the firmware (SMBIOS), ID the machine-id of the
	// operating system, which a managed plugin does not see.
	Product, ID string
	// MACs are the permanent addresses of the network cards, sorted; virtual links
	// have none (kernel 5.6 and later).
	MACs []string
	// Uplinks are the addresses of links with a default route that somebody set, as
	// managers of containers do, sorted. An address that the kernel chose is not among
	// them: the next boot has another one.
	Uplinks []string
	// Links are the present addresses of all links, sorted.
	Links []string
}

// Machine reads the machine's identity.
func (h *Host) Machine() Machine {
	m := Machine{Product: readFile("/sys/class/dmi/id/product_uuid"), ID: readFile("/etc/machine-id")}
	links, err := dump(h.nl.LinkList)
	if err != nil {
		return m
	}
	defaults := h.defaultLinks()
	sys := openSysfs()
	defer sys.Close()
	for _, l := range links {
		a := l.Attrs()
		if _, device := l.(*netlink.Device); device && len(a.PermHWAddr) == 6 {
			m.MACs = append(m.MACs, a.PermHWAddr.String())
		}
		if len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		m.Links = append(m.Links, a.HardwareAddr.String())
		if defaults[a.Index] && a.Group != Group && sys.assigned(a) == addrSet {
			m.Uplinks = append(m.Uplinks, a.HardwareAddr.String())
		}
	}
	for _, list := range []*[]string{&m.MACs, &m.Uplinks, &m.Links} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return m
}

// readFile is the text of a file, empty if it cannot be read.
func readFile(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// defaultLinks are the indexes of the links with a default route of the main table.
func (h *Host) defaultLinks() map[int]bool {
	out := map[int]bool{}
	list, err := dump(func() ([]netlink.Route, error) { return h.nl.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return out
	}
	for _, r := range list {
		if p := netPrefix(r.Dst); p.IsValid() && p.Bits() > 0 {
			continue
		}
		out[r.LinkIndex] = true
		for _, hop := range r.MultiPath {
			out[hop.LinkIndex] = true
		}
	}
	return out
}

// sysfs shows the links of one network namespace.
type sysfs struct{ dir *os.File }

// openSysfs mounts a sysfs of our own, for the calling thread's namespace: that below
// /sys may have been mounted in another one. Where the kernel refuses it, that has to
// serve.
func openSysfs() sysfs {
	dir, err := detached("sysfs")
	if err != nil {
		dir, _ = os.Open("/sys") // a nil file has no links
	}
	return sysfs{dir: dir}
}

// Close drops the mount.
func (s sysfs) Close() {
	if s.dir != nil {
		_ = s.dir.Close() // nothing was written
	}
}

// assigned is how a link got its address, empty if sysfs does not show this very
// link: another namespace may have one of the same name.
func (s sysfs) assigned(a *netlink.LinkAttrs) string {
	if s.read(a.Name, "ifindex") != strconv.Itoa(a.Index) || s.read(a.Name, "address") != a.HardwareAddr.String() {
		return ""
	}
	return s.read(a.Name, "addr_assign_type")
}

func (s sysfs) read(link, file string) string {
	if s.dir == nil {
		return ""
	}
	path := filepath.Join("class/net", link, file)
	fd, err := unix.Openat(int(s.dir.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
